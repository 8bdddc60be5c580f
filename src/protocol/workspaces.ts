/** Workspaces and their snapshots, as gateway and runner speak of them. */
import Type, { type Static } from 'typebox';
import { WorkspaceId } from './files.ts';

export const SNAPSHOT_ID = '^snap-[0-9a-z]{16}$';
export const LABEL_MAX = 200;

const Label = Type.String({ maxLength: LABEL_MAX });
const Bytes = Type.Integer({ minimum: 0 });
/** Milliseconds since 1970. */
const Time = Type.Integer({ minimum: 0 });
const orNull = <T extends Type.TSchema>(schema: T) => Type.Union([schema, Type.Null()]);

const settings = {
  label: Type.Optional(orNull(Label)),
  /** What its files may take, in bytes; null: NOX_MAX_WORKSPACE, which is also the most. */
  quotaBytes: Type.Optional(orNull(Bytes)),
  /** When it is deleted; null: never. */
  expires: Type.Optional(orNull(Time)),
};

const making = {
  ...settings,
  /** Without it one is made up. */
  id: Type.Optional(WorkspaceId),
  /** The token's. */
  owner: Type.String(),
  /** What the quotas and snapshots of all workspaces of this owner may come to. */
  ownerBytes: Type.Optional(Bytes),
};

const SnapshotId = Type.String({ pattern: SNAPSHOT_ID });

export const WORKSPACE_ASK = {
  workspaceCreate: Type.Object(making),
  workspaceClone: Type.Object({ ...making, workspace: WorkspaceId }),
  workspaceInfo: Type.Object({ workspace: WorkspaceId }),
  workspaceUsage: Type.Object({ workspace: WorkspaceId }),
  workspaceList: Type.Object({
    limit: Type.Integer({ minimum: 1, maximum: 1000 }),
    after: Type.Optional(Type.String()),
    /** Of these only. */
    ids: Type.Optional(Type.Array(Type.String())),
  }),
  workspaceUpdate: Type.Object({ ...settings, workspace: WorkspaceId, ownerBytes: Type.Optional(Bytes) }),
  workspaceRemove: Type.Object({ workspace: WorkspaceId, force: Type.Optional(Type.Boolean()) }),
  snapshotCreate: Type.Object({
    workspace: WorkspaceId,
    label: Type.Optional(orNull(Label)),
    ownerBytes: Type.Optional(Bytes),
  }),
  snapshotList: Type.Object({ workspace: WorkspaceId }),
  snapshotRestore: Type.Object({
    workspace: WorkspaceId,
    snapshot: SnapshotId,
    force: Type.Optional(Type.Boolean()),
  }),
  snapshotRemove: Type.Object({ workspace: WorkspaceId, snapshot: SnapshotId }),
} as const;

/** What is kept of a workspace, beside its files. */
export const WorkspaceInfo = Type.Object({
  id: Type.String(),
  label: orNull(Label),
  owner: Type.String(),
  created: Time,
  expires: orNull(Time),
  /** In force. */
  quotaBytes: Bytes,
  /** That are alive in it now. */
  runs: Type.Integer({ minimum: 0 }),
});
export type WorkspaceInfo = Static<typeof WorkspaceInfo>;

/** Bytes as du(1) counts. */
export interface WorkspaceUsage {
  readonly bytes: number;
  /** Entries of every kind. */
  readonly entries: number;
}

export const SnapshotInfo = Type.Object({
  id: Type.String(),
  label: orNull(Label),
  created: Time,
  /** Its share (limits.ts), if it shared nothing. */
  bytes: Bytes,
});
export type SnapshotInfo = Static<typeof SnapshotInfo>;

export interface WorkspaceAnswers {
  readonly workspaceCreate: WorkspaceInfo;
  readonly workspaceClone: WorkspaceInfo;
  readonly workspaceInfo: WorkspaceInfo;
  readonly workspaceUsage: WorkspaceUsage;
  readonly workspaceList: { readonly workspaces: readonly WorkspaceInfo[]; readonly next: string | null };
  readonly workspaceUpdate: WorkspaceInfo;
  readonly workspaceRemove: object;
  readonly snapshotCreate: SnapshotInfo;
  readonly snapshotList: readonly SnapshotInfo[];
  readonly snapshotRestore: object;
  readonly snapshotRemove: object;
}

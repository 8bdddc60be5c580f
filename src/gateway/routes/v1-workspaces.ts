/** `/v1/workspaces`: directories of files that runs work in, and their snapshots. */
import type { FastifyInstance } from 'fastify';
import Type, { type Static } from 'typebox';
import { NoxError } from '../../protocol/errors.ts';
import type { Executor } from '../../protocol/executor.ts';
import { WORKSPACE_ID } from '../../protocol/messages.ts';
import { LABEL_MAX, SNAPSHOT_ID, type SnapshotInfo, type WorkspaceInfo } from '../../protocol/workspaces.ts';
import { requireWorkspace, type Principal } from '../principal.ts';
import { addRoute, closed, closedPartial, PAGE_DEFAULT, PageQuery } from '../route.ts';

const orNull = <T extends Type.TSchema>(schema: T) => Type.Union([schema, Type.Null()]);
const Id = Type.String({ pattern: WORKSPACE_ID });
const Label = Type.String({ maxLength: LABEL_MAX });
const Bytes = Type.Integer({ minimum: 0 });
const Time = Type.String({ format: 'date-time' });
const Force = Type.Optional(Type.Boolean({ default: false }));

export const WorkspaceParams = closed({ id: Id });
const SnapshotParams = closed({ id: Id, snapshot: Type.String({ pattern: SNAPSHOT_ID }) });

const SETTINGS = {
  label: orNull(Label),
  /** null: as much as the server allows. */
  quotaBytes: orNull(Bytes),
  /** When it is deleted; null: never. */
  expires: orNull(Time),
};
const WorkspaceCreate = closedPartial({ id: Id, ...SETTINGS });
const WorkspaceChange = closedPartial(SETTINGS);
const SnapshotCreate = closedPartial({ label: orNull(Label) });

const WORKSPACE = {
  id: Id,
  label: orNull(Label),
  /** The id of the token that made it. */
  owner: Type.String(),
  created: Time,
  expires: orNull(Time),
  quotaBytes: Bytes,
  /** Runs that are alive in it. */
  runs: Type.Integer(),
};
const Workspace = closed(WORKSPACE);
const WorkspaceWithUsage = closed({
  ...WORKSPACE,
  /** Of its files now; entries of every kind. */
  usage: closed({ bytes: Bytes, entries: Bytes }),
});
const WorkspacePage = closed({ workspaces: Type.Array(Workspace), next: orNull(Type.String()) });
const Snapshot = closed({ id: Type.String(), label: orNull(Label), created: Time, bytes: Bytes });
const SnapshotList = closed({ snapshots: Type.Array(Snapshot) });

const RUNNER_ERRORS = ['runner_unavailable', 'sandbox_error'] as const;
const EXISTING = ['workspace_not_found', ...RUNNER_ERRORS] as const;

export function workspaceRoutes(app: FastifyInstance, executor: Executor): void {
  const common = { scope: 'files' } as const;

  addRoute(app, {
    ...common,
    method: 'GET',
    url: '/v1/workspaces',
    summary: 'List the workspaces that the token may use, by id',
    query: closed(PageQuery),
    answers: { 200: WorkspacePage },
    errors: RUNNER_ERRORS,
    handler: async ({ query: { limit = PAGE_DEFAULT, after }, principal, reply }) => {
      const request = {
        limit,
        ...(after === undefined ? {} : { after }),
        ...(principal.workspaces === undefined ? {} : { ids: [...principal.workspaces] }),
      };
      const { workspaces, next } = await executor.ask('workspaceList', request, app.calls.signal(reply));
      return { workspaces: workspaces.map(answer), next };
    },
  });

  addRoute(app, {
    ...common,
    method: 'POST',
    url: '/v1/workspaces',
    summary: 'Make a workspace, empty',
    body: WorkspaceCreate,
    answers: { 201: Workspace },
    errors: ['already_exists', 'quota_exceeded', ...RUNNER_ERRORS],
    handler: async ({ body, principal, request, reply }) => {
      const making = makingOf(principal, body);
      const made = await executor.ask('workspaceCreate', making, app.calls.signal(reply));
      request.ending.subject = () => ({ workspace: made.id });
      return answer(made);
    },
  });

  addRoute(app, {
    ...common,
    method: 'GET',
    url: '/v1/workspaces/:id',
    summary: 'Look at a workspace, and count its files',
    params: WorkspaceParams,
    answers: { 200: WorkspaceWithUsage },
    errors: ['workspace_conflict', ...EXISTING],
    handler: async ({ params: { id }, principal, reply }) => {
      requireWorkspace(principal, id);
      const signal = app.calls.signal(reply);
      const info = await executor.ask('workspaceInfo', { workspace: id }, signal);
      const usage = await executor.ask('workspaceUsage', { workspace: id }, signal);
      return { ...answer(info), usage };
    },
  });

  addRoute(app, {
    ...common,
    method: 'PATCH',
    url: '/v1/workspaces/:id',
    summary: 'Change label, quota or expiry; members that are not named stay',
    params: WorkspaceParams,
    body: WorkspaceChange,
    answers: { 200: Workspace },
    errors: ['quota_exceeded', 'workspace_conflict', ...EXISTING],
    handler: async ({ params: { id }, body, principal, request, reply }) => {
      requireWorkspace(principal, id);
      request.ending.subject = () => ({ workspace: id });
      const signal = app.calls.signal(reply);
      const { owner } = await executor.ask('workspaceInfo', { workspace: id }, signal);
      if (body.quotaBytes !== undefined && owner !== principal.id && !principal.scopes.has('admin'))
        throw new NoxError(
          'forbidden',
          `quotaBytes: only its owner ${owner} and the administrator may change it`,
        );
      const change = { ...settingsOf(body), workspace: id, ...boundOf(principal, owner) };
      return answer(await executor.ask('workspaceUpdate', change, signal));
    },
  });

  addRoute(app, {
    ...common,
    method: 'DELETE',
    url: '/v1/workspaces/:id',
    summary:
      'Delete a workspace with its snapshots; `force` ends the runs and uploads that are under way in it',
    params: WorkspaceParams,
    query: closed({ force: Force }),
    answers: { 204: Type.Null() },
    errors: ['workspace_conflict', ...EXISTING],
    handler: async ({ params: { id }, query: { force = false }, principal, request, reply }) => {
      requireWorkspace(principal, id);
      request.ending.subject = () => ({ workspace: id });
      await executor.ask('workspaceRemove', { workspace: id, force }, app.calls.signal(reply));
    },
  });

  addRoute(app, {
    ...common,
    method: 'POST',
    url: '/v1/workspaces/:id/clone',
    summary: 'Make a workspace with the same files',
    params: WorkspaceParams,
    body: WorkspaceCreate,
    answers: { 201: Workspace },
    errors: ['already_exists', 'quota_exceeded', 'workspace_full', 'workspace_conflict', ...EXISTING],
    handler: async ({ params: { id }, body, principal, request, reply }) => {
      requireWorkspace(principal, id);
      const making = { ...makingOf(principal, body), workspace: id };
      const made = await executor.ask('workspaceClone', making, app.calls.signal(reply));
      request.ending.subject = () => ({ workspace: made.id, from: id });
      return answer(made);
    },
  });

  addRoute(app, {
    ...common,
    method: 'GET',
    url: '/v1/workspaces/:id/snapshots',
    summary: 'List the snapshots of a workspace, oldest first',
    params: WorkspaceParams,
    answers: { 200: SnapshotList },
    errors: EXISTING,
    handler: async ({ params: { id }, principal, reply }) => {
      requireWorkspace(principal, id);
      const found = await executor.ask('snapshotList', { workspace: id }, app.calls.signal(reply));
      return { snapshots: found.map(snapshotAnswer) };
    },
  });

  addRoute(app, {
    ...common,
    method: 'POST',
    url: '/v1/workspaces/:id/snapshots',
    summary: 'Keep the files as they are now',
    params: WorkspaceParams,
    body: SnapshotCreate,
    answers: { 201: Snapshot },
    errors: ['workspace_full', 'workspace_conflict', 'quota_exceeded', ...EXISTING],
    handler: async ({ params: { id }, body, principal, request, reply }) => {
      requireWorkspace(principal, id);
      request.ending.subject = () => ({ workspace: id });
      const signal = app.calls.signal(reply);
      const { owner } = await executor.ask('workspaceInfo', { workspace: id }, signal);
      const making = { workspace: id, ...body, ...boundOf(principal, owner) };
      return snapshotAnswer(await executor.ask('snapshotCreate', making, signal));
    },
  });

  addRoute(app, {
    ...common,
    method: 'POST',
    url: '/v1/workspaces/:id/snapshots/:snapshot/restore',
    summary: 'Replace all files by those of a snapshot; `force` ends the runs and uploads that are under way',
    params: SnapshotParams,
    body: closed({ force: Force }),
    answers: { 204: Type.Null() },
    errors: ['snapshot_not_found', 'workspace_conflict', 'workspace_full', ...EXISTING],
    handler: async ({ params: { id, snapshot }, body: { force = false }, principal, request, reply }) => {
      requireWorkspace(principal, id);
      request.ending.subject = () => ({ workspace: id, snapshot });
      await executor.ask('snapshotRestore', { workspace: id, snapshot, force }, app.calls.signal(reply));
    },
  });

  addRoute(app, {
    ...common,
    method: 'DELETE',
    url: '/v1/workspaces/:id/snapshots/:snapshot',
    summary: 'Delete a snapshot',
    params: SnapshotParams,
    answers: { 204: Type.Null() },
    errors: ['snapshot_not_found', 'workspace_conflict', ...EXISTING],
    handler: async ({ params: { id, snapshot }, principal, request, reply }) => {
      requireWorkspace(principal, id);
      request.ending.subject = () => ({ workspace: id, snapshot });
      await executor.ask('snapshotRemove', { workspace: id, snapshot }, app.calls.signal(reply));
    },
  });
}

type Settings = Static<typeof WorkspaceChange>;

function settingsOf({ label, quotaBytes, expires }: Settings) {
  return {
    ...(label === undefined ? {} : { label }),
    ...(quotaBytes === undefined ? {} : { quotaBytes }),
    ...(expires === undefined ? {} : { expires: expires === null ? null : Date.parse(expires) }),
  };
}

/** A token that is bound to workspaces cannot have one that it is not bound to: it must name it. */
function makingOf(principal: Principal, { id, ...settings }: Static<typeof WorkspaceCreate>) {
  if (id === undefined && principal.workspaces !== undefined)
    throw new NoxError('forbidden', 'id: missing; the token may use only the workspaces that it names');
  if (id !== undefined) requireWorkspace(principal, id);
  return {
    ...settingsOf(settings),
    ...(id === undefined ? {} : { id }),
    owner: principal.id,
    ...boundOf(principal, principal.id),
  };
}

function boundOf({ id, quotas: { storageBytes } }: Principal, owner: string) {
  return owner === id && storageBytes !== undefined ? { ownerBytes: storageBytes } : {};
}

function answer(info: WorkspaceInfo): Static<typeof Workspace> {
  const { created, expires, ...rest } = info;
  return {
    ...rest,
    created: new Date(created).toISOString(),
    expires: expires === null ? null : new Date(expires).toISOString(),
  };
}

function snapshotAnswer({ created, ...rest }: SnapshotInfo): Static<typeof Snapshot> {
  return { ...rest, created: new Date(created).toISOString() };
}

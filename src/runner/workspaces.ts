/**
 * Every workspace by its id: what is kept of it (shelf.ts), and its state while it is used.
 *
 * To its runs each appears at the path of NOX_SANDBOX, wherever it is on the host, so that programs need not know where
 * they are, and are not told the id.
 *
 * What takes the files of a workspace away (its deletion, a restore) waits for no run: it is refused while runs are
 * alive or files are being changed, or ends them first when it is told to (`force`). New ones are refused meanwhile. A
 * clone and a snapshot are made beside live runs, and show each file as it was at some moment in between.
 */
import { randomBytes } from 'node:crypto';
import { setImmediate } from 'node:timers/promises';
import { NoxError } from '../protocol/errors.ts';
import { FILE_BYTES, shareOf } from '../protocol/limits.ts';
import type { Asks } from '../protocol/operations.ts';
import type { SnapshotInfo, WorkspaceInfo, WorkspaceUsage } from '../protocol/workspaces.ts';
import { DiskWatch } from './disk.ts';
import { replaceFiles } from './restore.ts';
import { type Kept, Shelf } from './shelf.ts';
import { copyTree, removeTree, usageOf } from './trees.ts';
import { inTurn } from './turns.ts';
import { Workspace } from './workspace.ts';
import { WorkspaceState } from './workspace-state.ts';

/** The workspace of the four calls. */
export const DEFAULT_WORKSPACE = 'default';
/** Of the snapshots of one workspace, and of all workspaces: their lists are held in memory. */
const SNAPSHOTS_MAX = 100;
const WORKSPACES_MAX = 10_000;
/** Each takes inodes of its own, also one of nothing. */
const SNAPSHOTS_ALL_MAX = 10_000;
/** How often it is looked whether a workspace has expired, or its state is idle. */
const TIDY_MS = 5000;

type Request<Name extends keyof Asks> = Asks[Name]['request'];

export interface WorkspacesOptions {
  /** NOX_WORKSPACES. */
  readonly dir: string;
  /** NOX_SANDBOX. */
  readonly sandbox: string;
  /** NOX_MAX_WORKSPACE: what a workspace may hold that has no quota of its own, and the largest quota. */
  readonly limitBytes: number;
  /** Told when a workspace cannot be counted, read or removed. */
  readonly onFault: (error: unknown) => void;
  /** Milliseconds since 1970, for tests. */
  readonly now?: () => number;
}

/** @throws NoxError `workspace_not_found` from each for an id that there is not */
export class Workspaces {
  readonly #options: WorkspacesOptions;
  readonly #shelf: Shelf;
  readonly #kept: Map<string, Kept>;
  readonly #states = new Map<string, WorkspaceState>();
  /** Their files are being taken away, or put there. */
  readonly #closed = new Set<string>();
  /** Those whose restore failed halfway: they can be restored again, or deleted. */
  readonly #unfinished = new Set<string>();
  /** Owner → the last of the snapshots that are being made. */
  readonly #snapshotting = new Map<string, Promise<unknown>>();
  /** Of all workspaces. */
  #snapshots: number;
  readonly #housekeeping: NodeJS.Timeout;
  #tidying: Promise<void> | undefined;
  readonly #now: () => number;

  /** Where the runs of each see its files. */
  readonly shown: string;

  /** @throws for a directory that cannot be made or written */
  constructor(options: WorkspacesOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
    this.shown = options.sandbox;
    this.#shelf = new Shelf(options.dir, options.onFault);
    this.#kept = new Map(this.#shelf.load().map((kept) => [kept.id, kept]));
    if (!this.#kept.has(DEFAULT_WORKSPACE)) {
      const kept = this.#newKept(DEFAULT_WORKSPACE, { owner: 'admin' });
      this.#shelf.keep(kept);
      this.#kept.set(kept.id, kept);
    }
    this.#snapshots = [...this.#kept.keys()].reduce((sum, id) => sum + this.#shelf.snapshotCount(id), 0);
    this.#housekeeping = setInterval(() => {
      void this.tidy();
    }, TIDY_MS).unref();
  }

  /** After a crash: finishes and takes away what was cut short. Call with no run alive. */
  async recover(): Promise<void> {
    await this.#shelf.sweep([...this.#kept.keys()]);
    for (const [id, kept] of this.#kept) {
      try {
        const { workspace } = this.#stateOf(kept);
        for (const name of workspace.sweep()) await removeTree(workspace.path, name);
        const snapshot = this.#shelf.restoring(id);
        if (snapshot !== undefined) await this.#finish(id, snapshot);
      } catch (error) {
        if (id === DEFAULT_WORKSPACE) throw error;
        this.#options.onFault(error);
      }
      await setImmediate();
    }
    await this.#stateOf(this.#find(DEFAULT_WORKSPACE)).disk.count();
  }

  /** Of a restore that a crash has cut short. */
  async #finish(id: string, snapshot: string): Promise<void> {
    this.#unfinished.add(id);
    await this.#fill(id, snapshot, Number.MAX_SAFE_INTEGER).catch((cause: unknown) => {
      const note = `${this.#options.dir}/${id}/restore`;
      const message = `the restore of ${id} from ${snapshot} is not finished, and its files are a part: restore a snapshot again, or remove ${note} and start again to take them as they are`;
      this.#options.onFault(new Error(message, { cause }));
    });
  }

  get(id: string): WorkspaceState {
    const kept = this.#find(id);
    this.#checkOpen(id);
    if (this.#unfinished.has(id))
      throw new NoxError(
        'workspace_conflict',
        `workspace: a restore of ${JSON.stringify(id)} could not be finished, and it has a part of its files: restore a snapshot of it; the runner’s log says what else can be done`,
      );
    return this.#stateOf(kept);
  }

  #stateOf({ id, quotaBytes }: Kept): WorkspaceState {
    const known = this.#states.get(id);
    if (known !== undefined) {
      known.touch();
      return known;
    }
    const { limitBytes, onFault } = this.#options;
    const path = this.#pathOf(id);
    const disk = new DiskWatch(path, quotaBytes ?? limitBytes, (error) => {
      // A workspace that has gone meanwhile has no size.
      if (this.#states.get(id)?.disk === disk) onFault(error);
    });
    const state = new WorkspaceState(id, new Workspace(path, this.shown), disk);
    this.#states.set(id, state);
    return state;
  }

  close(): void {
    clearInterval(this.#housekeeping);
    for (const { placeholder } of this.#states.values()) placeholder.remove();
  }

  info(id: string): WorkspaceInfo {
    return this.#infoOf(this.#find(id));
  }

  async usage(id: string): Promise<WorkspaceUsage> {
    const { disk } = this.get(id);
    try {
      return await disk.usage();
    } catch (error) {
      // It has been deleted meanwhile, and perhaps made anew.
      this.#find(id);
      if (this.#states.get(id)?.disk === disk) throw error;
      const message = `workspace: ${JSON.stringify(id)} was deleted and made anew meanwhile`;
      throw new NoxError('workspace_conflict', message, { cause: error });
    }
  }

  list({ limit, after, ids }: Request<'workspaceList'>): {
    workspaces: WorkspaceInfo[];
    next: string | null;
  } {
    const wanted = ids === undefined ? undefined : new Set(ids);
    const all = [...this.#kept.values()]
      .filter((kept) => !this.#isExpired(kept) && wanted?.has(kept.id) !== false && kept.id > (after ?? ''))
      .sort((a, b) => (a.id < b.id ? -1 : 1));
    const page = all.slice(0, limit);
    return {
      workspaces: page.map((kept) => this.#infoOf(kept)),
      next: all.length > limit ? (page.at(-1)?.id ?? null) : null,
    };
  }

  /** @throws NoxError `already_exists`, `quota_exceeded`, `invalid_request` */
  create(request: Request<'workspaceCreate'>): Promise<WorkspaceInfo> {
    return this.#make(request, () => Promise.resolve());
  }

  /** @throws NoxError as `create`, and `workspace_full` where the quota is less than the files */
  async clone(
    { workspace, ...request }: Request<'workspaceClone'>,
    signal: AbortSignal,
  ): Promise<WorkspaceInfo> {
    const source = this.get(workspace);
    const leave = source.use();
    try {
      const { quotaBytes } = this.#find(workspace);
      return await this.#make({ quotaBytes, ...request }, async (files, quota) => {
        await this.#copyOut(source, files, quota, signal);
      });
    } finally {
      leave();
    }
  }

  /** @throws NoxError `quota_exceeded`, `invalid_request`, `workspace_conflict` while it is made, restored or deleted */
  async update({ workspace, ownerBytes, ...change }: Request<'workspaceUpdate'>): Promise<WorkspaceInfo> {
    if (ownerBytes !== undefined && change.quotaBytes !== undefined)
      await this.#checkShrunk(this.#find(workspace), change.quotaBytes);
    const before = this.#find(workspace);
    this.#checkOpen(workspace);
    if (workspace === DEFAULT_WORKSPACE && change.expires !== undefined && change.expires !== null)
      throw new NoxError('invalid_request', 'expires: the default workspace stays');
    const kept = { ...before, ...change };
    this.#checkSettings(kept);
    if (change.quotaBytes !== undefined)
      this.#checkOwner(before.owner, ownerBytes, this.#quotaOf(kept) - this.#quotaOf(before));
    this.#shelf.save(kept);
    this.#kept.set(workspace, kept);
    const state = this.#states.get(workspace);
    if (state !== undefined) state.disk.limit = this.#quotaOf(kept);
    return this.#infoOf(kept);
  }

  /** A quota below what is there would leave the rest to nobody's account. */
  async #checkShrunk(before: Kept, quotaBytes: number | null): Promise<void> {
    const quota = this.#quotaOf({ ...before, quotaBytes });
    if (quota >= this.#quotaOf(before)) return;
    const share = shareOf(await this.usage(before.id));
    if (share <= quota) return;
    throw new NoxError(
      'quota_exceeded',
      `quotaBytes: the files take ${String(share)} bytes (each counts as ${String(FILE_BYTES)} at least), more than ${String(quota)}; delete some first`,
    );
  }

  /** @throws NoxError `workspace_conflict` while something is under way in it, unless `force` */
  async remove(id: string, force: boolean): Promise<void> {
    if (id === DEFAULT_WORKSPACE)
      throw new NoxError('invalid_request', 'workspace: the default one cannot be deleted; remove its files');
    await this.#removeKept(this.#find(id), force);
  }

  async #removeKept(kept: Kept, force: boolean): Promise<void> {
    const { id } = kept;
    let gone = Promise.resolve();
    await this.#alone(kept, force, () => {
      const snapshots = this.#shelf.snapshotCount(id);
      gone = this.#shelf.remove(id);
      gone.catch(() => undefined);
      this.#snapshots -= snapshots;
      this.#kept.delete(id);
      this.#states.delete(id);
      this.#unfinished.delete(id);
    });
    // Its id is free by now, and may be that of another one that is being made.
    await gone;
  }

  snapshots(id: string): SnapshotInfo[] {
    this.#find(id);
    return this.#shelf.snapshots(id);
  }

  /** @throws NoxError `workspace_full` where the snapshots came to more than the workspace's quota, `quota_exceeded` */
  async snapshot(request: Request<'snapshotCreate'>, signal: AbortSignal): Promise<SnapshotInfo> {
    return this.#oneByOne(this.#find(request.workspace).owner, () => this.#snapshot(request, signal));
  }

  /** Of one owner one after the other: each is measured against those that are there. */
  async #oneByOne<T>(owner: string, work: () => Promise<T>): Promise<T> {
    const before = this.#snapshotting.get(owner);
    const done = (async () => {
      await before?.catch(() => undefined);
      return work();
    })();
    this.#snapshotting.set(owner, done);
    try {
      return await done;
    } finally {
      if (this.#snapshotting.get(owner) === done) this.#snapshotting.delete(owner);
    }
  }

  async #snapshot(
    { workspace, label = null, ownerBytes }: Request<'snapshotCreate'>,
    signal: AbortSignal,
  ): Promise<SnapshotInfo> {
    if (signal.aborted) throw new NoxError('cancelled', 'The call was cancelled');
    const state = this.get(workspace);
    const kept = this.#find(workspace);
    const others = this.#shelf.snapshots(workspace);
    if (others.length >= SNAPSHOTS_MAX)
      throw new NoxError(
        'quota_exceeded',
        `A workspace has at most ${String(SNAPSHOTS_MAX)} snapshots; delete one`,
      );
    if (this.#snapshots >= SNAPSHOTS_ALL_MAX)
      throw new NoxError(
        'quota_exceeded',
        `There are ${String(SNAPSHOTS_ALL_MAX)} snapshots of all workspaces; delete some`,
      );
    const leave = state.use();
    const id = newId('snap-');
    this.#snapshots += 1;
    try {
      return await this.#shelf.makeSnapshot(workspace, id, async (files) => {
        const room = this.#quotaOf(kept) - sumOf(others);
        const bytes = await this.#copyOut(state, files, room, signal);
        this.#checkOwner(kept.owner, ownerBytes, bytes);
        return { id, label, created: this.#now(), bytes };
      });
    } catch (error) {
      this.#snapshots -= 1;
      throw error;
    } finally {
      leave();
    }
  }

  /**
   * Replaces all files of a workspace. They are copied first, so that a full disk changes nothing; then they take
   * their places one after the other, which a start after a crash finishes. What fails then is undone; where that
   * fails too, the workspace is closed until it is restored again.
   *
   * @throws NoxError `snapshot_not_found`, `workspace_conflict` while runs are alive in it, unless `force`;
   *   `workspace_full` where the quota has become less than the snapshot
   */
  async restore(id: string, snapshot: string, force: boolean): Promise<void> {
    this.#findSnapshot(id, snapshot);
    await this.#alone(this.#find(id), force, async () => {
      await this.#fill(id, snapshot, this.#quotaOf(this.#find(id)));
      await this.#states.get(id)?.disk.count();
    });
  }

  /** @throws NoxError `snapshot_not_found` */
  async removeSnapshot(id: string, snapshot: string): Promise<void> {
    this.#findSnapshot(id, snapshot);
    const leave = this.get(id).use();
    try {
      const gone = this.#shelf.removeSnapshot(id, snapshot);
      this.#snapshots -= 1;
      await gone;
    } finally {
      leave();
    }
  }

  /** Deletes what has expired, when its runs have ended, and forgets the state of what nobody uses. */
  tidy(): Promise<void> {
    this.#tidying ??= this.#tidy().finally(() => {
      this.#tidying = undefined;
    });
    return this.#tidying;
  }

  async #tidy(): Promise<void> {
    const now = performance.now();
    for (const [id, state] of this.#states) {
      if (id === DEFAULT_WORKSPACE || !state.idleSince(now)) continue;
      state.placeholder.remove();
      this.#states.delete(id);
    }
    for (const id of [...this.#kept.keys()]) {
      // While the one before was deleted it may have been changed, or be another.
      const kept = this.#kept.get(id);
      if (kept === undefined || !this.#isExpired(kept) || this.#closed.has(id)) continue;
      // A conflict: until its runs have ended. Anything else is tried again as well.
      await this.#removeKept(kept, false).catch((error: unknown) => {
        if (!(error instanceof NoxError)) this.#options.onFault(error);
      });
    }
  }

  async #make(
    request: Request<'workspaceCreate'>,
    fill: (files: string, quota: number) => Promise<void>,
  ): Promise<WorkspaceInfo> {
    const { id = newId('ws-'), ownerBytes, ...settings } = request;
    if (this.#kept.has(id))
      throw new NoxError('already_exists', `id: there is a workspace ${JSON.stringify(id)} already`);
    if (this.#kept.size >= WORKSPACES_MAX)
      throw new NoxError('quota_exceeded', `There are ${String(WORKSPACES_MAX)} workspaces; delete one`);
    const kept = this.#newKept(id, settings);
    this.#checkSettings(kept);
    this.#checkOwner(kept.owner, ownerBytes, this.#quotaOf(kept));
    // Nobody else takes the name, or the owner's room, while it is made.
    this.#closed.add(id);
    this.#kept.set(id, kept);
    try {
      await this.#shelf.make(kept, (files) => fill(files, this.#quotaOf(kept)));
      return this.#infoOf(kept);
    } catch (error) {
      this.#kept.delete(id);
      throw error;
    } finally {
      this.#closed.delete(id);
    }
  }

  /** @returns the share of the copy */
  async #copyOut(
    { workspace }: WorkspaceState,
    to: string,
    room: number,
    signal: AbortSignal,
  ): Promise<number> {
    workspace.prepare();
    // One that is too large is refused before it is copied.
    const share = shareOf(await inTurn(() => usageOf(workspace.path)));
    if (share > room)
      throw new NoxError(
        'workspace_full',
        `The files take ${String(share)} bytes (each counts as ${String(FILE_BYTES)} at least), and there is room for ${String(Math.max(0, room))}`,
      );
    const copied = await copyTree(workspace.path, to, room, signal);
    new Workspace(to).sweep();
    return copied;
  }

  async #fill(id: string, snapshot: string, limit: number): Promise<void> {
    await replaceFiles(this.#pathOf(id), this.#shelf.snapshotFiles(id, snapshot), limit, {
      // Where the one before was not finished, there is nothing whole to go back to.
      undo: !this.#unfinished.has(id),
      begin: () => {
        this.#shelf.noteRestore(id, snapshot);
        this.#unfinished.add(id);
      },
      end: () => {
        this.#shelf.noteRestore(id, undefined);
        this.#unfinished.delete(id);
      },
      onFault: this.#options.onFault,
    });
  }

  /** While a workspace is taken away: what is under way in it ends, if it may be ended. */
  async #alone(kept: Kept, force: boolean, work: () => Promise<void> | void): Promise<void> {
    const { id } = kept;
    this.#checkOpen(id);
    const state = this.#stateOf(kept);
    if (state.live > 0 && !force)
      throw new NoxError(
        'workspace_conflict',
        `workspace: ${String(state.live)} runs, uploads or copies are under way in ${JSON.stringify(id)}; wait for them, or say \`force\` to end runs and uploads`,
      );
    this.#closed.add(id);
    try {
      await state.end();
      state.placeholder.remove();
      await work();
    } finally {
      this.#closed.delete(id);
    }
  }

  #find(id: string): Kept {
    const kept = this.#kept.get(id);
    if (kept === undefined || this.#isExpired(kept))
      throw new NoxError('workspace_not_found', `workspace: there is no ${JSON.stringify(id.slice(0, 100))}`);
    return kept;
  }

  #isExpired({ expires }: Kept): boolean {
    return expires !== null && this.#now() >= expires;
  }

  #checkOpen(id: string): void {
    if (!this.#closed.has(id)) return;
    throw new NoxError(
      'workspace_conflict',
      `workspace: ${JSON.stringify(id)} is being made, restored or deleted`,
    );
  }

  #findSnapshot(id: string, snapshot: string): void {
    this.#find(id);
    if (!this.#shelf.snapshots(id).some((each) => each.id === snapshot))
      throw new NoxError(
        'snapshot_not_found',
        `snapshot: there is no ${JSON.stringify(snapshot)} of ${JSON.stringify(id)}`,
      );
  }

  #newKept(
    id: string,
    { owner, label = null, quotaBytes = null, expires = null }: Request<'workspaceCreate'>,
  ): Kept {
    return { id, label, owner, created: this.#now(), expires, quotaBytes };
  }

  #checkSettings({ quotaBytes, expires }: Kept): void {
    const { limitBytes } = this.#options;
    if (quotaBytes !== null && quotaBytes > limitBytes)
      throw new NoxError(
        'invalid_request',
        `quotaBytes: ${String(quotaBytes)} is more than the ${String(limitBytes)} of NOX_MAX_WORKSPACE`,
      );
    if (expires !== null && expires <= this.#now())
      throw new NoxError('invalid_request', 'expires: must be a time in the future');
  }

  /** What an owner's workspaces may come to is the sum of what they may hold, so that no run can pass it. */
  #checkOwner(owner: string, ownerBytes: number | undefined, more: number): void {
    if (ownerBytes === undefined || more <= 0) return;
    let held = 0;
    for (const kept of this.#kept.values())
      if (kept.owner === owner) held += this.#quotaOf(kept) + sumOf(this.#shelf.snapshots(kept.id));
    if (held + more > ownerBytes)
      throw new NoxError(
        'quota_exceeded',
        `The quotas and snapshots of the token’s workspaces come to ${String(held)} bytes; ${String(more)} more is beyond its ${String(ownerBytes)} (storageBytes): give this one a smaller quotaBytes, or delete some`,
      );
  }

  #quotaOf({ quotaBytes }: Kept): number {
    return Math.min(quotaBytes ?? Infinity, this.#options.limitBytes);
  }

  #infoOf(kept: Kept): WorkspaceInfo {
    const { id, label, owner, created, expires } = kept;
    const runs = this.#states.get(id)?.runs ?? 0;
    return { id, label, owner, created, expires, quotaBytes: this.#quotaOf(kept), runs };
  }

  #pathOf(id: string): string {
    return id === DEFAULT_WORKSPACE ? this.#options.sandbox : this.#shelf.filesOf(id);
  }
}

const sumOf = (snapshots: readonly SnapshotInfo[]): number =>
  snapshots.reduce((sum, { bytes }) => sum + bytes, 0);

/** 16 characters of 36: more than 80 bits. */
function newId(prefix: string): string {
  const digits = BigInt(`0x${randomBytes(16).toString('hex')}`).toString(36);
  return `${prefix}${digits.padStart(16, '0').slice(-16)}`;
}

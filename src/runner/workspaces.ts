/**
 * Every workspace by its id, made when it is first used.
 *
 * On the host a workspace is `<NOX_WORKSPACES>/<id>/files`; the default one is NOX_SANDBOX. To its runs each appears at
 * the path of NOX_SANDBOX, so that programs need not know where they are, and are not told the id.
 */
import { mkdirSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { NoxError } from '../protocol/errors.ts';
import { WORKSPACE_ID } from '../protocol/messages.ts';
import { DiskWatch } from './disk.ts';
import { Placeholder } from './placeholder.ts';
import { Workspace } from './workspace.ts';

/** The workspace of the four calls. */
export const DEFAULT_WORKSPACE = 'default';
const ID = new RegExp(WORKSPACE_ID);
/** How long the state of a workspace is kept that nobody uses. */
const IDLE_MS = 600_000;

export interface WorkspacesOptions {
  /** NOX_WORKSPACES. */
  readonly dir: string;
  /** NOX_SANDBOX. */
  readonly sandbox: string;
  /** What a workspace may hold that has no limit of its own, in bytes. */
  readonly limitBytes: number;
  /** Told when a workspace cannot be counted. */
  readonly onFault: (error: unknown) => void;
}

/** A workspace in use. */
export class WorkspaceState {
  readonly id: string;
  readonly workspace: Workspace;
  readonly placeholder: Placeholder;
  readonly disk: DiskWatch;
  readonly #users = new Set<() => void>();
  #used = performance.now();

  constructor(id: string, workspace: Workspace, disk: DiskWatch) {
    this.id = id;
    this.workspace = workspace;
    this.placeholder = new Placeholder(workspace);
    this.disk = disk;
  }

  /**
   * Counts a run that is alive in it.
   *
   * @param end ends the run: the workspace is being taken away
   * @returns to be called when nothing of the run is alive
   */
  enter(end: () => void): () => void {
    // One function may come twice, each entry counts.
    const user = () => {
      end();
    };
    this.#users.add(user);
    return () => {
      this.#used = performance.now();
      this.#users.delete(user);
    };
  }

  /** Runs that are alive. */
  get live(): number {
    return this.#users.size;
  }

  touch(): void {
    this.#used = performance.now();
  }

  idleSince(now: number): boolean {
    return this.#users.size === 0 && now - this.#used > IDLE_MS;
  }
}

export class Workspaces {
  readonly #options: WorkspacesOptions;
  readonly #states = new Map<string, WorkspaceState>();
  readonly #housekeeping: NodeJS.Timeout;

  /** @throws for a directory that cannot be made or written */
  constructor(options: WorkspacesOptions) {
    this.#options = options;
    mkdirSync(options.dir, { recursive: true, mode: 0o700 });
    this.get(DEFAULT_WORKSPACE).workspace.prepare();
    this.get(DEFAULT_WORKSPACE).workspace.sweep();
    this.#housekeeping = setInterval(() => {
      this.#tidy();
    }, IDLE_MS).unref();
  }

  /** @throws NoxError `workspace_not_found` */
  get(id: string): WorkspaceState {
    const known = this.#states.get(id);
    if (known !== undefined) {
      known.touch();
      return known;
    }
    const { sandbox, limitBytes, onFault } = this.#options;
    const path = this.#pathOf(id);
    const state = new WorkspaceState(
      id,
      new Workspace(path, sandbox),
      new DiskWatch(path, limitBytes, onFault),
    );
    this.#states.set(id, state);
    return state;
  }

  close(): void {
    clearInterval(this.#housekeeping);
    for (const { placeholder } of this.#states.values()) placeholder.remove();
  }

  #pathOf(id: string): string {
    const { dir, sandbox } = this.#options;
    if (id === DEFAULT_WORKSPACE) return sandbox;
    const path = join(dir, id, 'files');
    if (ID.test(id) && statSync(path, { throwIfNoEntry: false })?.isDirectory() === true) return path;
    throw new NoxError('workspace_not_found', `workspace: there is no ${JSON.stringify(id)}`);
  }

  #tidy(): void {
    const now = performance.now();
    for (const [id, state] of this.#states) {
      if (id === DEFAULT_WORKSPACE || !state.idleSince(now)) continue;
      state.placeholder.remove();
      this.#states.delete(id);
    }
  }
}

import { NoxError } from '../protocol/errors.ts';
import type { DiskWatch } from './disk.ts';
import { Placeholder } from './placeholder.ts';
import type { Workspace } from './workspace.ts';

/** How long the state of a workspace is kept that nobody uses. */
const IDLE_MS = 600_000;

/** A workspace in use. */
export class WorkspaceState {
  readonly id: string;
  readonly workspace: Workspace;
  readonly placeholder: Placeholder;
  readonly disk: DiskWatch;
  /** Runs that are alive, with what ends each. */
  readonly #runs = new Set<() => void>();
  /** Copies of it that are being made or removed, and changes of its files, with what ends each. */
  readonly #works = new Set<() => void>();
  #used = performance.now();
  readonly #waiting: (() => void)[] = [];

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
    return this.#count(this.#runs, end);
  }

  /** Counts a copy of it that is being made or removed; @returns to be called at its end */
  use(): () => void {
    return this.#count(this.#works, () => undefined);
  }

  /**
   * Counts a change of its files while it is under way, so that no workspace is taken away under one.
   *
   * @param work is given what is aborted with `signal`, and when the workspace is being taken away
   * @throws NoxError `workspace_conflict` where that has cut it short
   */
  async change<T>(signal: AbortSignal, work: (stop: AbortSignal) => Promise<T>): Promise<T> {
    const taken = new AbortController();
    const leave = this.#count(this.#works, () => {
      taken.abort();
    });
    try {
      return await work(AbortSignal.any([signal, taken.signal]));
    } catch (error) {
      if (!taken.signal.aborted || (error as NoxError).code !== 'cancelled') throw error;
      throw new NoxError(
        'workspace_conflict',
        `workspace: ${JSON.stringify(this.id)} is being restored or deleted`,
      );
    } finally {
      leave();
    }
  }

  #count(those: Set<() => void>, end: () => void): () => void {
    // One function may come twice, each entry counts.
    const entry = () => {
      end();
    };
    those.add(entry);
    return () => {
      those.delete(entry);
      this.#left();
    };
  }

  get runs(): number {
    return this.#runs.size;
  }

  /** Runs, copies and changes. */
  get live(): number {
    return this.#runs.size + this.#works.size;
  }

  /** Ends its runs and changes; resolves when none is alive, and no copy is being made. */
  async end(): Promise<void> {
    for (const end of [...this.#runs, ...this.#works]) end();
    if (this.live > 0)
      await new Promise<void>((resolve) => {
        this.#waiting.push(resolve);
      });
  }

  touch(): void {
    this.#used = performance.now();
  }

  idleSince(now: number): boolean {
    return this.live === 0 && now - this.#used > IDLE_MS;
  }

  #left(): void {
    this.touch();
    if (this.live > 0) return;
    for (const resolve of this.#waiting.splice(0)) resolve();
  }
}

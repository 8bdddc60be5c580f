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
  /** Copies of it that are being made. */
  #copies = 0;
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
    // One function may come twice, each entry counts.
    const run = () => {
      end();
    };
    this.#runs.add(run);
    return () => {
      this.#runs.delete(run);
      this.#left();
    };
  }

  /** Counts a copy of it that is being made; @returns to be called at its end */
  use(): () => void {
    this.#copies += 1;
    return () => {
      this.#copies -= 1;
      this.#left();
    };
  }

  get runs(): number {
    return this.#runs.size;
  }

  /** Runs and copies. */
  get live(): number {
    return this.#runs.size + this.#copies;
  }

  /** Ends its runs; resolves when none is alive, and no copy is being made. */
  async end(): Promise<void> {
    for (const run of this.#runs) run();
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

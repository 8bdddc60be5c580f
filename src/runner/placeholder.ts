import type { Workspace } from './workspace.ts';

/** The name under which code runs that was given none. */
const DEFAULT_SCRIPT = 'run.py';
const PLACEHOLDER_MS = 100;

/**
 * The file on which code without a name is mounted, kept for a moment: the next run is likely to need it again, and
 * to unlink a file that is mounted on, be it in a dying namespace, waits for the whole kernel (an RCU grace period).
 * Gone before anything runs, is put or is listed that could see it.
 */
export class Placeholder {
  readonly #workspace: Workspace;
  #name: string | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(workspace: Workspace) {
    this.#workspace = workspace;
  }

  /** @returns its name, to be released as one that was claimed of the workspace */
  claim(): string {
    this.#name ??= this.#workspace.claim(DEFAULT_SCRIPT);
    this.#workspace.hold(this.#name);
    this.#timer ??= setTimeout(() => {
      this.remove();
    }, PLACEHOLDER_MS);
    this.#timer.refresh();
    return this.#name;
  }

  /** At once, or with the last run that has its code there. */
  remove(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#name !== undefined) this.#workspace.release(this.#name);
    this.#name = undefined;
  }
}

/** What makes a run, as run.ts sees it. The one implementation is launcher.ts; tests have others. */
import type { Limits } from '../protocol/limits.ts';
import type { RunnerStatus } from '../protocol/status.ts';

/** A directory of the host and the path at which it appears in a sandbox. */
export interface Shown {
  readonly from: string;
  readonly at: string;
}

/** An empty workspace for each run, which vanishes with it. Runs of one group are copies of one interpreter. */
export interface Scratch {
  readonly group: string;
  readonly at: string;
}

export interface LaunchPlan {
  /** The directory of the workspace, and where the run sees it. */
  readonly workspace: Shown | Scratch;
  /**
   * `python`: argv is the interpreter, the program and its arguments, and a copy of a warm interpreter may run it;
   * `fresh`: the same, and a new one must. Both have a script.
   */
  readonly kind: 'python' | 'fresh' | 'command';
  readonly argv: readonly string[];
  readonly env: Readonly<Record<string, string>>;
  /** Code that appears at `name`, a regular file of the workspace, for this run only. */
  readonly script?: { readonly name: string; readonly code: string } | undefined;
  readonly stdin?: string | undefined;
  /** Standard input stays open after `stdin`. */
  readonly interactive?: boolean | undefined;
  /** Written by the run itself before its program: relative to a scratch workspace, or absolute, in its own /tmp. */
  readonly files?: readonly { readonly path: string; readonly data: Uint8Array }[] | undefined;
  readonly limits: Limits;
  /** The file by which a process joins the run's cgroup, seen from the directory that has them all. */
  readonly cgroup?: string | undefined;
}

export interface OutputSink {
  stdout(data: Uint8Array): void;
  stderr(data: Uint8Array): void;
}

/** How the program ended, or why it never ran; `killed` is what `kill()` leaves. */
export type LaunchEnd =
  | {
      readonly kind: 'program';
      readonly exitCode: number | null;
      readonly signal: number | null;
      readonly userSeconds: number;
      readonly systemSeconds: number;
      readonly maxRssBytes: number;
    }
  | { readonly kind: 'killed' }
  /** Another run of the workspace took away the file on which the code was to be mounted. Nothing has run. */
  | { readonly kind: 'no_place' }
  | { readonly kind: 'broken'; readonly reason: string };

export interface LaunchedRun {
  /** When it had its sandbox and its plan, by performance.now(); undefined until then. */
  readonly begun: number | undefined;
  /**
   * Host pids: of process 1 of the run's pid namespace, then of the program. What else is alive descends from them.
   * Empty while there is none.
   */
  pids(): readonly number[];
  /** Ends every process of the run. May be called at any time, more than once. */
  kill(): void;
  /** Sends a signal to the program; nothing where there is none yet, or no more. */
  signal(number: number): void;
  /** For an interactive run. Resolves when there is room for more. */
  write(data: Uint8Array): Promise<void>;
  endInput(): void;
  /** Whether output is taken; while it is not, the program waits in its write. */
  flow(on: boolean): void;
  /** Resolves when no process of the run is alive and all its output has been handed on. Never rejects. */
  readonly ended: Promise<LaunchEnd>;
}

export interface Launcher {
  launch(slot: number, plan: LaunchPlan, sink: OutputSink): LaunchedRun;
  status(): RunnerStatus['warm'];
  close(): Promise<void>;
}

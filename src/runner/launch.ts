/** What makes a run, as run.ts sees it. The one implementation is launcher.ts; tests have others. */
import type { Limits } from '../protocol/limits.ts';
import type { RunnerStatus } from '../protocol/status.ts';

export interface LaunchPlan {
  readonly workspace: string;
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
  /** Resolves when no process of the run is alive and all its output has been handed on. Never rejects. */
  readonly ended: Promise<LaunchEnd>;
}

export interface Launcher {
  launch(slot: number, plan: LaunchPlan, sink: OutputSink): LaunchedRun;
  status(): RunnerStatus['warm'];
  close(): Promise<void>;
}

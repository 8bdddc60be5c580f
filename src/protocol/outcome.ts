/**
 * How a run ended: one closed word, decided in one place.
 *
 * The order of the tests in `decideOutcome` is the meaning: what Nox did to a run (a broken sandbox, a
 * cancellation, a limit that killed it) comes before what the program itself reported, because a program that
 * was killed also "exits by a signal". Among the causes that Nox imposes the first one wins; the run records it
 * once (`cause ??= …`), so that a timeout that follows a cancellation stays a cancellation.
 */

export const OUTCOMES = [
  'ok',
  'failed',
  'signaled',
  'timeout',
  'cpu_limit',
  'memory_limit',
  'process_limit',
  'disk_limit',
  'cancelled',
  'sandbox_error',
] as const;

export type Outcome = (typeof OUTCOMES)[number];

/** What Nox itself did to end a run. */
export type ImposedCause = Extract<
  Outcome,
  'timeout' | 'cpu_limit' | 'memory_limit' | 'disk_limit' | 'cancelled' | 'sandbox_error'
>;

export interface EndFacts {
  /** The first reason for which Nox ended the run, if it did. */
  readonly cause: ImposedCause | undefined;
  /** The program's exit code (0 to 255), if it exited. */
  readonly exitCode: number | null;
  /** The signal that ended the program, if one did. */
  readonly signal: number | null;
  /** The kernel's OOM killer took a process of this run (cgroup v2, memory.events). */
  readonly oomKilled: boolean;
  /** The run has used about as much CPU time as it may. */
  readonly cpuLimitReached: boolean;
  /** The run asked for more processes than it may have, and was refused. */
  readonly processLimitHit: boolean;
}

// signal(7), the same on x86_64 and aarch64.
const SIGXCPU = 24;
const SIGXFSZ = 25;

export function decideOutcome(facts: EndFacts): Outcome {
  if (facts.cause !== undefined) return facts.cause;
  // The killer may take process 1 of the run, which then reports nothing at all.
  if (facts.oomKilled && facts.exitCode !== 0) return 'memory_limit';
  if (facts.exitCode === null && facts.signal === null) return 'sandbox_error';
  // The kernel's own sign of the limit; without the time it is a signal that the program sent to itself.
  if (facts.signal === SIGXCPU && facts.cpuLimitReached) return 'cpu_limit';
  if (facts.signal === SIGXFSZ) return 'disk_limit';
  if (facts.exitCode === 0) return 'ok';
  // A refused fork kills nobody: it only explains a run that then failed.
  if (facts.processLimitHit) return 'process_limit';
  return facts.signal === null ? 'failed' : 'signaled';
}

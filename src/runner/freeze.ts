/** Holds all processes of runs still for a moment, so that nothing moves under whoever counts what they have. */
import { setTimeout as sleep } from 'node:timers/promises';
import { processTree, read } from './proc.ts';

/** One that is in the kernel, waiting for a disk, stops when it comes back. */
const PATIENCE_MS = 5000;
const STEP_MS = 5;

/**
 * By signals, with or without a cgroup. A process that was stopped before stays so.
 *
 * @param roots those above all others, as LaunchedRun has them; asked again while there are new ones
 * @returns undefined where they did not stop in time; nothing was done then
 */
export async function frozen<T>(
  roots: () => readonly number[],
  work: () => Promise<T>,
): Promise<T | undefined> {
  const stopped = new Set<number>();
  const until = performance.now() + PATIENCE_MS;
  let before: string | undefined;
  try {
    for (;;) {
      const now = stopAll(roots(), stopped);
      if (now !== undefined && now === before) break;
      before = now;
      if (performance.now() > until) return undefined;
      if (now === undefined) await sleep(STEP_MS);
    }
    return await work();
  } finally {
    // Children first: no parent sees one that is stopped.
    for (const pid of [...stopped].reverse()) signal(pid, 'SIGCONT');
  }
}

/**
 * Two that wake each other and stop themselves could both be seen still, one after the other. Who has run has given up
 * its processor more often since: where two looks say the same, nobody has run between them, and nobody will.
 *
 * @returns who there is, and how often each has given up its processor; undefined where one was not still
 */
function stopAll(roots: readonly number[], stopped: Set<number>): string | undefined {
  // Of a process with threads what its first one says: all of them stop, and go on, together.
  const found = processTree(roots).map((pid) => ({ pid, status: read(`/proc/${String(pid)}/status`) }));
  const moving = found.filter(({ status }) => status !== '' && !STILL.test(status));
  for (const { pid } of moving) {
    stopped.add(pid);
    signal(pid, 'SIGSTOP');
  }
  if (moving.length > 0) return undefined;
  return found.map(({ pid, status }) => [pid, ...(status.match(SWITCHES) ?? [])].join(' ')).join('\n');
}

/** Stopped, or dead (proc_pid_status(5)). */
const STILL = /^State:\t[TtZX]/m;
const SWITCHES = /^(?:non)?voluntary_ctxt_switches:.*$/gm;

function signal(pid: number, name: 'SIGSTOP' | 'SIGCONT'): void {
  try {
    process.kill(pid, name);
  } catch {
    // It has ended.
  }
}

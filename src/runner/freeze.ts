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
  try {
    // What is stopped makes no new ones, and of those that are found each time fewer are left.
    while (!stopAll(roots(), stopped)) {
      if (performance.now() > until) return undefined;
      await sleep(STEP_MS);
    }
    return await work();
  } finally {
    // Children first: no parent sees one that is stopped.
    for (const pid of [...stopped].reverse()) signal(pid, 'SIGCONT');
  }
}

/** @returns whether all were stopped already */
function stopAll(roots: readonly number[], stopped: Set<number>): boolean {
  const running = processTree(roots).filter((pid) => !isStill(pid));
  for (const pid of running) {
    stopped.add(pid);
    signal(pid, 'SIGSTOP');
  }
  return running.length === 0;
}

/** Stopped, or dead (proc_pid_stat(5)); all threads of a process stop together. */
function isStill(pid: number): boolean {
  const stat = read(`/proc/${String(pid)}/stat`);
  return stat === '' || /^[TtZXx]$/.test(stat.charAt(stat.lastIndexOf(')') + 2));
}

function signal(pid: number, name: 'SIGSTOP' | 'SIGCONT'): void {
  try {
    process.kill(pid, name);
  } catch {
    // It has ended.
  }
}

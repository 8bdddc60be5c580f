/**
 * One writer for an audit file: a symbolic link beside it whose target names the process. To make one is one step,
 * which fails if it is there, and its text needs no room on a disk that is full. A process that is dead, or is another
 * one with the same number, does not hold it.
 */
import { readFileSync, readlinkSync, symlinkSync, unlinkSync } from 'node:fs';

/** @throws Error naming the process that has it */
export function lock(path: string): void {
  const own = `${String(process.pid)}.${startOf(process.pid) ?? ''}`;
  for (let attempt = 0; ; attempt += 1) {
    try {
      symlinkSync(own, path);
      return;
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST' || attempt > 0) throw error;
    }
    const [pid = '', started] = readlinkSync(path).split('.');
    if (/^\d+$/.test(pid) && startOf(Number(pid)) === started)
      throw new Error(`process ${pid} writes to it: two writers would break its chain`);
    unlinkSync(path);
  }
}

export function unlock(path: string): void {
  try {
    unlinkSync(path);
  } catch {
    // Then the next to come finds that its holder is dead.
  }
}

/** When a process was started, in ticks since the boot (proc_pid_stat(5), field 22); undefined for none. */
function startOf(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${String(pid)}/stat`, 'utf8');
    // The name, in parentheses, may hold anything.
    return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19];
  } catch {
    return undefined;
  }
}

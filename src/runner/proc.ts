/** What /proc says of processes (proc(5)). One that has ended has nothing, and is no error. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';

export function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

export function list(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

/** Of the thread that has the process's pid: all there are, of a process with one thread. */
export function childrenOf(pid: number, task = String(pid)): number[] {
  return read(`/proc/${pid}/task/${task}/children`).split(' ').filter(Boolean).map(Number);
}

/** Processes and all that descend from them, parents first. */
export function processTree(roots: readonly number[]): number[] {
  const found = [...roots];
  for (const each of found)
    for (const task of list(`/proc/${each}/task`)) found.push(...childrenOf(each, task));
  return found;
}

/** The pid in each namespace, from the reader's to the process's own (`NSpid`, proc_pid_status(5)). */
export function namespacePids(pid: number): number[] {
  const line = /^NSpid:\t(.*)$/m.exec(read(`/proc/${pid}/status`))?.[1] ?? '';
  return line.split('\t').map(Number);
}

/** Which pid namespace it is a member of. */
export function pidNamespace(pid: number): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/ns/pid`);
  } catch {
    return undefined;
  }
}

/** The value of a line like `RssAnon:  1024 kB`, in bytes; 0 where there is none. */
export function sizeOf(pid: number, file: 'status' | 'smaps_rollup', name: string): number {
  const line = new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(read(`/proc/${pid}/${file}`));
  return Number(line?.[1] ?? 0) * 1024;
}

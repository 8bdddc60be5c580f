/** What /proc says of processes. One that has ended has nothing. */
import { readdirSync, readFileSync } from 'node:fs';

/** USER_HZ is 100 on every architecture that Node has. */
const TICK_MS = 10;

export interface Held {
  readonly pid: number;
  readonly name: string;
  /** In bytes: each page in proportion to how many share it; pages of its own; all that it maps. */
  readonly pss: number;
  readonly own: number;
  readonly rss: number;
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

export function childrenOf(pid: number): number[] {
  return entries(`/proc/${String(pid)}/task`).flatMap((task) =>
    read(`/proc/${String(pid)}/task/${task}/children`)
      .split(' ')
      .filter(Boolean)
      .map(Number),
  );
}

/** A process and all that descend from it, parents first. */
export function processTree(pid: number): number[] {
  const found = [pid];
  for (const each of found) found.push(...childrenOf(each));
  return found;
}

/** The init of a cell lives in the memory of its zygote: what it holds has been counted there. */
export function isInitOfCell(pid: number): boolean {
  const pids = /^NSpid:\t(.*)$/m.exec(read(`/proc/${String(pid)}/status`))?.[1]?.split('\t') ?? [];
  return pids.length > 2 && pids.at(-1) === '1';
}

export function memoryOf(pid: number): Held {
  const rollup = read(`/proc/${String(pid)}/smaps_rollup`);
  const kib = (name: string) =>
    Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(rollup)?.[1] ?? 0) * 1024;
  return {
    pid,
    name: read(`/proc/${String(pid)}/comm`).trim(),
    pss: kib('Pss'),
    own: kib('Private_Clean') + kib('Private_Dirty'),
    rss: kib('Rss'),
  };
}

/** Of all that descends from a process: its zygotes, if it is a runner. */
export function descendantsPss(pid: number): number {
  return processTree(pid)
    .slice(1)
    .filter((each) => !isInitOfCell(each))
    .reduce((sum, each) => sum + memoryOf(each).pss, 0);
}

/** The host's pids of those children of a runner that are bwrap, each with the zygote in it. */
export function zygotesOf(runner: number): { readonly bwrap: number; readonly zygote: number }[] {
  return childrenOf(runner)
    .filter((pid) => memoryOf(pid).name === 'bwrap')
    .flatMap((bwrap) => childrenOf(bwrap).map((zygote) => ({ bwrap, zygote })));
}

export function descriptorsOf(pid: number): number {
  return entries(`/proc/${String(pid)}/fd`).length;
}

export function mountsOf(pid: number | 'self'): number {
  return read(`/proc/${String(pid)}/mountinfo`)
    .split('\n')
    .filter(Boolean).length;
}

/** Time on a processor of a process, and of those that it has waited for, in milliseconds, to a hundredth of a second. */
export function processorUse(pid: number): { readonly own: number; readonly children: number } {
  const line = read(`/proc/${String(pid)}/stat`);
  // After the name, which may contain anything: the third field is the first here (proc_pid_stat(5)).
  const fields = line.slice(line.lastIndexOf(')') + 2).split(' ');
  const ticks = (at: number) => Number(fields[at - 3]) + Number(fields[at - 2]);
  return { own: ticks(14) * TICK_MS, children: ticks(16) * TICK_MS };
}

/** Page faults of a process, and of those that it has waited for, that needed no disk (proc_pid_stat(5)). */
export function faultsOf(pid: number): { readonly own: number; readonly children: number } {
  const line = read(`/proc/${String(pid)}/stat`);
  const fields = line.slice(line.lastIndexOf(')') + 2).split(' ');
  return { own: Number(fields[10 - 3]), children: Number(fields[11 - 3]) };
}

/** Dead processes of the whole machine that nobody has waited for. */
export function zombies(): number {
  return entries('/proc').filter((name) => /^\d+$/.test(name) && / Z /.test(stateOf(name))).length;
}

/** The rest of the line after the name, which may contain anything. */
function stateOf(pid: string): string {
  const line = read(`/proc/${pid}/stat`);
  return line.slice(line.lastIndexOf(')') + 1, line.lastIndexOf(')') + 4);
}

/** Groups of runs below the cgroup of a runner; 0 where it has none of its own. */
export function runCgroups(runner: number): number {
  const own = /^0::(\/.*)$/m.exec(read(`/proc/${String(runner)}/cgroup`))?.[1];
  if (own === undefined) return 0;
  return entries(`/sys/fs/cgroup${own.replace(/\/runner$/, '')}`).filter((name) => name.startsWith('run-'))
    .length;
}

function entries(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

/** Files and directories below one. */
export function entriesBelow(path: string): number {
  try {
    return readdirSync(path, { recursive: true }).length;
  } catch {
    return 0;
  }
}

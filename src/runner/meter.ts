/**
 * What a run uses, measured. Two ways: a cgroup (cgroup.ts), which also enforces; or /proc, sampled (here).
 *
 * Sampling sees what lives at the moment of the sample. In between, each process is held by its rlimits; a process
 * that its parent does not wait for (SIGCHLD ignored) takes its CPU time along unseen, which the wall time bounds.
 */
import { readdirSync, readFileSync, statfsSync, statSync } from 'node:fs';

export interface Sample {
  readonly memoryBytes: number;
  readonly cpuSeconds: number;
  readonly processes: number;
}

export interface FinalSample extends Sample {
  readonly oomKilled: boolean;
  readonly processLimitHit: boolean;
}

export interface Meter {
  /** Where there is one, called before any code of the client runs. May throw: the run is then a sandbox_error. */
  readonly attach?: (pid1: number) => void;
  /** Peak memory and processes, CPU time so far; undefined while nothing can be read. */
  sample(pid1: number): Sample | undefined;
  /** After the death of the last process. Frees what the meter holds. */
  finish(): FinalSample;
}

/** CLK_TCK: 100 on every architecture of Linux that Nox supports (sysconf(3); it is a constant of the user ABI). */
const TICKS_PER_SECOND = 100;
const PAGE = 4096;
/** statfs(2) */
const TMPFS_MAGIC = 0x01021994;

export class ProcMeter implements Meter {
  readonly #memoryLimit: number;
  readonly #processLimit: number;
  #peak: Sample = { memoryBytes: 0, cpuSeconds: 0, processes: 0 };

  constructor(limits: { readonly memoryBytes: number; readonly processes: number }) {
    this.#memoryLimit = limits.memoryBytes;
    this.#processLimit = limits.processes;
  }

  sample(pid1: number): Sample {
    let resident = 0;
    let ticks = 0;
    let threads = 0;
    let virtual = 0;
    const pids = processTree(pid1);
    for (const pid of pids) {
      const stat = readStat(pid);
      if (stat === undefined) continue;
      ticks += stat.ticks;
      if (pid === pid1) continue;
      resident += stat.residentPages * PAGE;
      virtual += stat.virtualBytes;
      threads += stat.threads;
    }
    const tmpfs = tmpfsBytes(pid1);
    // The sum of resident sizes counts shared pages many times: it may clear a run, but convict none. What is not
    // resident (page tables, shared memory that was let go of) needs addresses: below the limit there is none of it.
    let memory = resident + tmpfs;
    if (memory > this.#memoryLimit || virtual > this.#memoryLimit) memory = countedBytes(pids, tmpfs);
    this.#peak = {
      memoryBytes: Math.max(this.#peak.memoryBytes, memory),
      cpuSeconds: Math.max(this.#peak.cpuSeconds, ticks / TICKS_PER_SECOND),
      processes: Math.max(this.#peak.processes, threads),
    };
    return this.#peak;
  }

  finish(): FinalSample {
    return { ...this.#peak, oomKilled: false, processLimitHit: this.#peak.processes >= this.#processLimit };
  }
}

/** `pid` and its descendants; an orphan becomes a child of process 1, so that none is missed. */
function processTree(pid: number): number[] {
  const found = [pid];
  for (const each of found) {
    for (const task of list(`/proc/${String(each)}/task`)) {
      const children = read(`/proc/${String(each)}/task/${task}/children`);
      for (const child of children.split(' ')) if (child !== '') found.push(Number(child));
    }
  }
  return found;
}

interface Stat {
  readonly ticks: number;
  readonly threads: number;
  readonly residentPages: number;
  readonly virtualBytes: number;
}

/** proc_pid_stat(5): the fields after the name, which may itself contain spaces and parentheses. */
function readStat(pid: number): Stat | undefined {
  const text = read(`/proc/${String(pid)}/stat`);
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  if (fields.length < 24) return undefined;
  const field = (number: number) => Number(fields[number - 3]);
  return {
    ticks: field(14) + field(15) + field(16) + field(17),
    threads: field(20),
    residentPages: field(24),
    virtualBytes: field(23),
  };
}

/**
 * Each page counted once: private memory by proportion; page tables; and of shared memory what is mapped, the run's
 * tmpfs, or the sizes of its anonymous shared mappings, whichever is more: they overlap, and pages that a process
 * has let go of are in none of its own figures.
 */
function countedBytes(pids: readonly number[], tmpfs: number): number {
  let own = 0;
  let shared = 0;
  const mappings = new Map<string, number>();
  for (const pid of pids) {
    const rollup = read(`/proc/${pid}/smaps_rollup`);
    own += kib(/^Pss_Anon:\s+(\d+) kB$/m.exec(rollup));
    shared += kib(/^Pss_Shmem:\s+(\d+) kB$/m.exec(rollup));
    own += kib(/^VmPTE:\s+(\d+) kB$/m.exec(read(`/proc/${pid}/status`)));
    for (const [inode, size] of sharedMappings(pid))
      mappings.set(inode, Math.max(size, mappings.get(inode) ?? 0));
  }
  const anonymous = [...mappings.values()].reduce((sum, size) => sum + size, 0);
  return own + Math.max(shared, tmpfs + anonymous);
}

/** Bytes that each anonymous shared mapping spans in one process, by inode: it has the name /dev/zero (mmap(2)). */
function sharedMappings(pid: number): Map<string, number> {
  const found = new Map<string, number>();
  const line = /^([0-9a-f]+)-([0-9a-f]+) \S+ \S+ \S+ (\d+) +\/dev\/zero \(deleted\)$/gm;
  for (const [, from = '', to = '', inode = ''] of read(`/proc/${pid}/maps`).matchAll(line)) {
    found.set(inode, (found.get(inode) ?? 0) + Number.parseInt(to, 16) - Number.parseInt(from, 16));
  }
  return found;
}

/**
 * Bytes on disk of files that are deleted and still open, in the processes below `pid1`: du does not see them.
 *
 * @param dev the device of the workspace
 */
export function deletedBytes(pid1: number, dev: number): number {
  const sizes = new Map<number, number>();
  for (const pid of processTree(pid1)) {
    for (const fd of list(`/proc/${pid}/fd`)) {
      try {
        const { dev: device, ino, nlink, blocks } = statSync(`/proc/${pid}/fd/${fd}`);
        if (nlink === 0 && device === dev) sizes.set(ino, blocks * 512);
      } catch {
        // Closed meanwhile.
      }
    }
  }
  return [...sizes.values()].reduce((sum, size) => sum + size, 0);
}

const kib = (match: RegExpExecArray | null): number => Number(match?.[1] ?? 0) * 1024;

function tmpfsBytes(pid1: number): number {
  let bytes = 0;
  for (const dir of ['tmp', 'dev/shm']) {
    try {
      const { type, blocks, bfree, bsize } = statfsSync(`/proc/${String(pid1)}/root/${dir}`);
      if (type === TMPFS_MAGIC) bytes += (blocks - bfree) * bsize;
    } catch {
      // Process 1 is gone.
    }
  }
  return bytes;
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

function list(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

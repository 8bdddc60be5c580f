/**
 * What a run uses, measured. Two ways: a cgroup (cgroup.ts), which also enforces; or /proc, sampled (here).
 *
 * Sampling sees what lives at the moment of the sample. In between, each process is held by its rlimits; a process
 * that its parent does not wait for (SIGCHLD ignored) takes its CPU time along unseen, which the wall time bounds.
 */
import { statfsSync, statSync } from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import { fileShare } from '../protocol/limits.ts';
import { list, processTree, read, sizeOf } from './proc.ts';

export interface Sample {
  readonly memoryBytes: number;
  readonly cpuSeconds: number;
  readonly processes: number;
}

export interface FinalSample extends Sample {
  /** The peak of the memory was measured, not sampled. */
  readonly exact: boolean;
  readonly oomKilled: boolean;
  readonly processLimitHit: boolean;
}

export interface Meter {
  /** The file by which a process of the run joins its cgroup, where there is one: see LaunchPlan. */
  readonly cgroup?: string;
  /**
   * Peak memory and processes, CPU time so far.
   *
   * @param pids host pids of process 1 of the run, and of its program
   */
  sample(pids: readonly number[]): Sample;
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

  sample(roots: readonly number[]): Sample {
    const [pid1 = 0] = roots;
    let resident = 0;
    let ticks = 0;
    let threads = 0;
    let virtual = 0;
    const pids = processTree(roots);
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
    if (memory > this.#memoryLimit || virtual > this.#memoryLimit) {
      // Process 1 shares the memory of the zygote.
      const own = pids.filter((pid) => pid !== pid1);
      memory = countedBytes(own, tmpfs);
    }
    this.#peak = {
      memoryBytes: Math.max(this.#peak.memoryBytes, memory),
      cpuSeconds: Math.max(this.#peak.cpuSeconds, ticks / TICKS_PER_SECOND),
      processes: Math.max(this.#peak.processes, threads),
    };
    return this.#peak;
  }

  finish(): FinalSample {
    return {
      ...this.#peak,
      exact: false,
      oomKilled: false,
      processLimitHit: this.#peak.processes >= this.#processLimit,
    };
  }
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
    own += sizeOf(pid, 'smaps_rollup', 'Pss_Anon') + sizeOf(pid, 'status', 'VmPTE');
    shared += sizeOf(pid, 'smaps_rollup', 'Pss_Shmem');
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
 * What files take of the limit of a workspace that are deleted and still open, in these processes and below them: in
 * its directories they are not found.
 *
 * @param dev the device of the workspace
 */
export async function deletedShare(roots: readonly number[], dev: number): Promise<number> {
  const sizes = new Map<number, number>();
  for (const pid of processTree(roots)) {
    for (const [index, fd] of list(`/proc/${pid}/fd`).entries()) {
      // Of a hundred thousand descriptors nobody else is to wait for all.
      if (index % 64 === 0) await setImmediate();
      try {
        const { dev: device, ino, nlink, blocks } = statSync(`/proc/${pid}/fd/${fd}`);
        if (nlink === 0 && device === dev) sizes.set(ino, fileShare(blocks * 512));
      } catch {
        // Closed meanwhile.
      }
    }
  }
  return [...sizes.values()].reduce((sum, size) => sum + size, 0);
}

/** /tmp and /dev/shm of a run are one file system. */
function tmpfsBytes(pid1: number): number {
  try {
    const { type, blocks, bfree, bsize } = statfsSync(`/proc/${pid1}/root/tmp`);
    return type === TMPFS_MAGIC ? (blocks - bfree) * bsize : 0;
  } catch {
    // Process 1 is gone.
    return 0;
  }
}

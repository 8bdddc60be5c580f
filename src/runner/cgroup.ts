/**
 * Limits by cgroup v2: a group for each run, below a subtree that the runner owns.
 *
 * The subtree is the runner's own cgroup, delegated to it (systemd's `Delegate=yes`, or `delegate()` below when
 * started as root). A cgroup that hands controllers down may hold no process itself (cgroups(7), "no internal
 * processes"), so the runner first moves into a leaf.
 */
import { chownSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Limits } from '../protocol/limits.ts';
import type { FinalSample, Meter, Sample } from './meter.ts';

const ROOT = '/sys/fs/cgroup';
/** Without these two the limits do not hold; the CPU time is accounted without its controller. */
const CONTROLLERS = ['memory', 'pids'] as const;

export type CgroupState =
  | { readonly available: true; readonly path: string }
  | { readonly available: false; readonly reason: string };

/** Makes the runner's own cgroup ready to hold runs. Idempotent. */
export function openCgroup(): CgroupState {
  try {
    const own = ownCgroup();
    // A second start inside the leaf: the subtree is one above.
    const path = own.endsWith('/runner') ? join(own, '..') : own;
    if (path === ROOT)
      return { available: false, reason: 'the runner is in the root cgroup, which nobody can delegate' };
    const missing = CONTROLLERS.filter((name) => !words(join(path, 'cgroup.controllers')).includes(name));
    if (missing.length > 0) {
      return { available: false, reason: `${path} has no ${missing.join(' and ')} controller` };
    }
    const leaf = join(path, 'runner');
    mkdirSync(leaf, { recursive: true });
    writeFileSync(join(leaf, 'cgroup.procs'), String(process.pid));
    writeFileSync(join(path, 'cgroup.subtree_control'), CONTROLLERS.map((name) => `+${name}`).join(' '));
    return { available: true, path };
  } catch (error) {
    return { available: false, reason: error instanceof Error ? error.message : String(error) };
  }
}

/** As root, before dropping root: gives the runner's own cgroup to `uid` (cgroups(7), "Delegation"). */
export function delegateCgroup(uid: number): void {
  const state = openCgroup();
  if (!state.available) return;
  for (const name of [
    '',
    'cgroup.procs',
    'cgroup.subtree_control',
    'cgroup.threads',
    'runner',
    'runner/cgroup.procs',
  ]) {
    chownSync(join(state.path, name), uid, uid);
  }
}

function ownCgroup(): string {
  const line = /^0::(\/.*)$/m.exec(readFileSync('/proc/self/cgroup', 'utf8'));
  if (line?.[1] === undefined) throw new Error('this process is in no cgroup v2');
  const path = join(ROOT, line[1]);
  // On a machine with cgroup v1 the unified tree, if any, is elsewhere and has no controllers.
  readFileSync(join(path, 'cgroup.controllers'));
  return path;
}

let serial = 0;

export class CgroupMeter implements Meter {
  readonly cgroup: string;
  readonly #path: string;
  #last: Sample = { memoryBytes: 0, cpuSeconds: 0, processes: 0 };

  /** @throws when the group cannot be made or a limit not be set: never a run without its limits */
  constructor(subtree: string, limits: Limits) {
    serial += 1;
    const name = `run-${process.pid}-${serial}`;
    this.#path = join(subtree, name);
    this.cgroup = `${name}/cgroup.procs`;
    mkdirSync(this.#path);
    try {
      this.#write('memory.max', limits.memoryBytes);
      this.#write('memory.oom.group', 1);
      // The program joins it, and all that it starts is born in it; init stays outside, with the zygote's memory.
      this.#write('pids.max', limits.processes);
      this.#writeIfThere('memory.swap.max', 0);
    } catch (error) {
      rmdirSync(this.#path);
      throw error;
    }
  }

  sample(): Sample {
    this.#last = {
      memoryBytes: Math.max(
        this.#last.memoryBytes,
        this.#number('memory.peak') ?? this.#number('memory.current') ?? 0,
      ),
      cpuSeconds: this.#field('cpu.stat', 'usage_usec') / 1e6,
      processes: Math.max(
        this.#last.processes,
        this.#number('pids.peak') ?? this.#number('pids.current') ?? 0,
      ),
    };
    return this.#last;
  }

  finish(): FinalSample {
    const sample = this.sample();
    const exact = this.#number('memory.peak') !== undefined;
    const oomKilled = this.#field('memory.events', 'oom_kill') > 0;
    const processLimitHit = this.#field('pids.events', 'max') > 0;
    rmdirSync(this.#path);
    return { ...sample, exact, oomKilled, processLimitHit };
  }

  #write(name: string, value: number): void {
    writeFileSync(join(this.#path, name), String(value));
  }

  #writeIfThere(name: string, value: number): void {
    try {
      this.#write(name, value);
    } catch {
      // A kernel without swap accounting has no such file, and no swap to limit.
    }
  }

  /** memory.peak came with Linux 5.19, pids.peak with 6.11. */
  #number(name: string): number | undefined {
    try {
      return Number(readFileSync(join(this.#path, name), 'utf8'));
    } catch {
      return undefined;
    }
  }

  #field(name: string, key: string): number {
    const fields = words(join(this.#path, name));
    return Number(fields[fields.indexOf(key) + 1]);
  }
}

function words(path: string): string[] {
  return readFileSync(path, 'utf8').trim().split(/\s+/);
}

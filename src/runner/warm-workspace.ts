/** A workspace that is in use: its zygote, a spare for each slot that was used lately, and what they have been through. */
import { readFileSync, readdirSync } from 'node:fs';
import type { Spare } from './spare.ts';
import type { Zygote } from './zygote.ts';

/** Runs of one zygote share its address layout and its hash seed (SECURITY.md); these two bound for how long. */
const MAX_RUNS = 10_000;
const MAX_AGE_MS = 600_000;
/** Growth of a zygote's own memory beyond what it had when it was ready: it has a leak. */
const MAX_GROWTH_BYTES = 32 * 1024 * 1024;
/** Every so many runs, and while nothing runs, its memory is looked at. */
const LOOK_EVERY_RUNS = 256;
/** Long enough for an answer to be written first; a run that comes sooner has its spare made at once. */
const SPARE_DELAY_MS = 1;

export class WarmWorkspace {
  readonly zygote: Zygote;
  readonly shows: string;
  successor: WarmWorkspace | undefined;
  running = 0;
  lastUsed = performance.now();
  failed = false;
  readonly #spares = new Map<number, { readonly promise: Promise<Spare>; spare?: Spare; used: number }>();
  #runs = 0;
  #retired = false;
  #ownBytes = 0;
  #grown = false;
  #bytes = 0;
  #looked = 0;

  constructor(zygote: Zygote, shows: string) {
    this.zygote = zygote;
    this.shows = shows;
    zygote.ready.then(
      () => {
        this.#ownBytes = residentBytes(zygote.pid);
      },
      () => {
        this.failed = true;
      },
    );
  }

  get worn(): boolean {
    return this.#grown || this.#runs >= MAX_RUNS || performance.now() - this.zygote.startedAt > MAX_AGE_MS;
  }

  /** What it holds, its spares included, each page in proportion to how many share it. */
  get bytes(): number {
    if (this.#bytes === 0) this.#bytes = proportionalBytes(this.zygote.pid);
    return this.#bytes;
  }

  /** The spare of a slot if it is ready, else the promise of one. */
  take(slot: number): Spare | Promise<Spare> {
    this.running += 1;
    this.lastUsed = performance.now();
    this.#runs += 1;
    if (this.#runs % LOOK_EVERY_RUNS === 0) this.look();
    const kept = this.#spares.get(slot);
    this.#spares.delete(slot);
    if (kept?.spare?.usable === true) return kept.spare;
    if (kept !== undefined && kept.spare === undefined) return kept.promise;
    return this.zygote.spare(slot);
  }

  /** Ends what `take` began. */
  release(slot: number): void {
    this.running -= 1;
    this.lastUsed = performance.now();
    if (this.#retired) {
      if (this.running === 0) this.zygote.kill();
      return;
    }
    setTimeout(() => {
      this.#prepare(slot);
    }, SPARE_DELAY_MS).unref();
  }

  prepareLike(other: WarmWorkspace): void {
    for (const slot of other.#spares.keys()) this.#prepare(slot);
  }

  dropIdleSpares(before: number): void {
    const [newest] = [...this.#spares.values()].sort((a, b) => b.used - a.used);
    for (const [slot, kept] of this.#spares) {
      if (kept === newest || kept.used > before || kept.spare === undefined) continue;
      this.#spares.delete(slot);
      kept.spare.kill();
    }
  }

  /** An idle one does not change. */
  lookIfUsed(): void {
    if (this.lastUsed > this.#looked) this.look();
  }

  look(): void {
    this.#looked = performance.now();
    this.#grown ||= residentBytes(this.zygote.pid) > this.#ownBytes + MAX_GROWTH_BYTES;
    this.#bytes = 0;
  }

  /** No new run; the last one takes it along. */
  retire(): void {
    this.#retired = true;
    if (this.running === 0) this.zygote.kill();
  }

  #prepare(slot: number): void {
    if (this.#retired || this.#spares.has(slot) || !this.zygote.alive) return;
    const kept: { promise: Promise<Spare>; spare?: Spare; used: number } = {
      promise: this.zygote.spare(slot),
      used: performance.now(),
    };
    this.#spares.set(slot, kept);
    kept.promise.then(
      (spare) => {
        kept.spare = spare;
        void spare.gone.then(() => {
          if (this.#spares.get(slot) === kept) this.#spares.delete(slot);
        });
      },
      () => {
        if (this.#spares.get(slot) === kept) this.#spares.delete(slot);
      },
    );
  }
}

/** Private memory of one process (proc_pid_status(5), RssAnon); 0 when it cannot be read. */
function residentBytes(pid: number | undefined): number {
  return field(pid, 'status', /^RssAnon:\s+(\d+) kB$/m);
}

function proportionalBytes(pid: number | undefined): number {
  return processTree(pid).reduce((sum, each) => sum + field(each, 'smaps_rollup', /^Pss:\s+(\d+) kB$/m), 0);
}

function processTree(pid: number | undefined): number[] {
  const found = pid === undefined ? [] : [pid];
  for (const each of found) {
    try {
      for (const task of readdirSync(`/proc/${String(each)}/task`)) {
        const children = readFileSync(`/proc/${String(each)}/task/${task}/children`, 'utf8');
        found.push(...children.split(' ').filter(Boolean).map(Number));
      }
    } catch {
      // It has ended.
    }
  }
  return found;
}

function field(pid: number | undefined, file: string, line: RegExp): number {
  try {
    return Number(line.exec(readFileSync(`/proc/${String(pid)}/${file}`, 'utf8'))?.[1] ?? 0) * 1024;
  } catch {
    return 0;
  }
}

/** A workspace that is in use: its zygote, a cell for each slot that was used lately, and what they have been through. */
import type { Cell } from './cell.ts';
import { processTree, sizeOf } from './proc.ts';
import type { Zygote } from './zygote.ts';

/** Runs of one zygote share its address layout and its hash seed (SECURITY.md); these two bound for how long. */
const MAX_RUNS = 10_000;
const MAX_AGE_MS = 600_000;
/** Growth of a zygote's own memory beyond what it had when it was ready: it has a leak. */
const MAX_GROWTH_BYTES = 32 * 1024 * 1024;
/** Every so many runs, and while nothing runs, its memory is looked at. */
const LOOK_EVERY_RUNS = 256;
/** Long enough for an answer to be written first; a run that comes sooner has its cell made at once. */
const PREPARE_DELAY_MS = 1;
/** A zygote learns what its runs write when nothing has run for so long, or is done with so many: it takes a moment. */
const PIN_IDLE_MS = 100;
const PIN_RUNS = 16;

interface Kept {
  readonly slot: number;
  readonly warm: boolean;
  readonly promise: Promise<Cell>;
  readonly used: number;
  cell?: Cell;
}

export class WarmWorkspace {
  readonly zygote: Zygote;
  readonly shows: string;
  successor: WarmWorkspace | undefined;
  running = 0;
  lastUsed = performance.now();
  failed = false;
  /**
   * One of each kind for a slot that runs both, as agents do that take turns between commands and code; what is not
   * used for a while goes. All of a slot share a network, so what one run leaves there ends those that wait.
   */
  readonly #kept = new Map<string, Kept>();
  /** Slots whose run has ended just now. */
  readonly #coming = new Map<number, NodeJS.Timeout>();
  #runs = 0;
  #pinned: boolean;
  #retired = false;
  #ownBytes = 0;
  #grown = false;
  #bytes = 0;
  #looked = 0;

  /** @param copies its Python runs are copies of the zygote, which is to learn which pages they write */
  constructor(zygote: Zygote, shows: string, copies: boolean) {
    this.zygote = zygote;
    this.shows = shows;
    this.#pinned = !copies;
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

  /** What it holds, its cells included, each page in proportion to how many share it. */
  get bytes(): number {
    if (this.#bytes === 0) this.#bytes = proportionalBytes(this.zygote.pid);
    return this.#bytes;
  }

  /** The last measurement of it; to measure anew reads a file of each process. */
  get measuredBytes(): number {
    return this.#bytes;
  }

  get cellsReady(): number {
    return [...this.#kept.values()].filter(({ cell }) => cell?.usable === true).length;
  }

  /** The cell of a slot if it is ready, else the promise of one. */
  take(slot: number, warm: boolean): Cell | Promise<Cell> {
    this.running += 1;
    this.lastUsed = performance.now();
    this.#runs += 1;
    if (this.#runs % LOOK_EVERY_RUNS === 0) this.look();
    clearTimeout(this.#coming.get(slot));
    this.#coming.delete(slot);
    const kept = this.#kept.get(keyOf(slot, warm));
    this.#kept.delete(keyOf(slot, warm));
    if (kept !== undefined && kept.cell === undefined) return kept.promise;
    return kept?.cell?.usable === true ? kept.cell : this.zygote.cell(slot, warm);
  }

  /** Ends what `take` began; another run of the kind is expected in the slot. */
  release(slot: number, warm: boolean): void {
    this.running -= 1;
    this.lastUsed = performance.now();
    if (this.#retired) {
      if (this.running === 0) this.zygote.kill();
      return;
    }
    if (this.zygote.isDirty(slot)) this.#dropCells((kept) => kept.slot === slot);
    const timer = setTimeout(() => {
      this.#coming.delete(slot);
      this.#prepare(slot, warm);
    }, PREPARE_DELAY_MS).unref();
    this.#coming.set(slot, timer);
    if (!this.#pinned) this.#pinSoon();
  }

  prepareLike(other: WarmWorkspace): void {
    for (const { slot, warm } of other.#kept.values()) this.#prepare(slot, warm);
  }

  dropIdleCells(before: number): void {
    const [newest] = [...this.#kept.values()].sort((a, b) => b.used - a.used);
    this.#dropCells((kept) => kept !== newest && kept.used <= before && kept.cell !== undefined);
  }

  #dropCells(which: (kept: Kept) => boolean): void {
    for (const [key, kept] of this.#kept) {
      if (!which(kept)) continue;
      this.#kept.delete(key);
      void kept.promise.then(discard, () => undefined);
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

  #prepare(slot: number, warm: boolean): void {
    const key = keyOf(slot, warm);
    if (this.#retired || this.#kept.has(key) || !this.zygote.alive) return;
    const kept: Kept = { slot, warm, promise: this.zygote.cell(slot, warm), used: performance.now() };
    this.#kept.set(key, kept);
    const forget = () => {
      if (this.#kept.get(key) === kept) this.#kept.delete(key);
    };
    kept.promise.then((cell) => {
      kept.cell = cell;
      void cell.gone.then(forget);
    }, forget);
  }

  #pinSoon(): void {
    const { lastUsed } = this;
    const pin = () => {
      if (this.#pinned || this.#retired) return;
      this.#pinned = true;
      this.zygote.pin();
    };
    if (this.#runs >= PIN_RUNS) pin();
    else
      setTimeout(() => {
        if (this.running === 0 && this.lastUsed === lastUsed) pin();
      }, PIN_IDLE_MS).unref();
  }
}

const keyOf = (slot: number, warm: boolean): string => `${slot} ${warm ? 'warm' : 'bare'}`;

/** One that comes too late belongs to nobody. */
export function discard(cell: Cell): void {
  cell.kill();
}

/** Private memory of one process (proc_pid_status(5)). */
function residentBytes(pid: number | undefined): number {
  return pid === undefined ? 0 : sizeOf(pid, 'status', 'RssAnon');
}

function proportionalBytes(pid: number | undefined): number {
  const pids = pid === undefined ? [] : processTree([pid]);
  return pids.reduce((sum, each) => sum + sizeOf(each, 'smaps_rollup', 'Pss'), 0);
}

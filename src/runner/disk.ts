/**
 * The size of a workspace, kept within its limit without help from the file system (quotas need root). Its share of
 * the limit is its bytes on disk, or FILE_BYTES for each entry where that is more.
 *
 * Counting files is slow and runs can make a million of them, so it is done rarely: when the file system as a
 * whole has filled by as much as the workspace had left, and every few seconds while runs are alive. Between two
 * counts a run can overshoot by what it writes in that time; RLIMIT_FSIZE bounds each file meanwhile. Runs that end
 * between two counts are seen by the next, before it begins.
 *
 * A run can move what it has out of the way of a count, into what has been counted already. So a count beside runs
 * that move is believed when it says too much, not when it says too little: where so much has been written since the
 * last one that can be believed that the workspace may be full, its runs are held still while it is counted (freeze.ts),
 * for a small part of their time: others fill the file system too.
 */
import { statfsSync, statSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { NoxError } from '../protocol/errors.ts';
import { FILE_BYTES, shareOf } from '../protocol/limits.ts';
import { frozen } from './freeze.ts';
import { deletedShare } from './meter.ts';
import { usageOf, type Usage } from './trees.ts';
import { Turn } from './turns.ts';

const TICK_MS = 250;
const RECOUNT_MS = 5000;
/** Between two counts that are made before something is refused. */
const PAUSE_MS = 500;
/** Beyond its limit and this, or the limit once more, a workspace has no runs: RLIMIT_FSIZE does not see holes filled through a mapping. */
const EXCESS_BYTES = 256 * 2 ** 20;
/** Counting may take at most this part of the time, while nothing says that the workspace may be full. */
const SHARE = 0.05;
/** Runs are held still for at most this part of their time. */
const HELD_SHARE = 0.1;
/** With less room than this, or this part of its limit, a workspace is counted when so much has been written. */
const STEP_BYTES = 16 * 2 ** 20;
const STEP_PART = 1 / 8;

/** A run, as far as its disk is concerned. */
export interface DiskUser {
  /** Called when the workspace is over its limit and has grown since the run began. */
  stop(): void;
  /** Its processes, as LaunchedRun has them. */
  pids(): readonly number[];
}

interface Watched extends DiskUser {
  /** What growth is measured against; a count of a workspace that was full may be old, and is not taken. */
  baseline: number | undefined;
}

/** Of the whole file system; one that makes inodes as they are asked for has none to count (statfs(2)). */
interface Filled {
  readonly bytes: number;
  readonly files: number;
}

export class DiskWatch {
  readonly #path: string;
  /** In bytes; may be changed. */
  limit: number;
  readonly #onFault: (error: unknown) => void;
  readonly #runs = new Set<Watched>();
  #used = 0;
  /** Of it, what was taken since the last count began, which may not have seen it. */
  #taken = 0;
  /** What the last count found that can be believed, and how full the file system was before it. */
  #base: { readonly used: number; readonly filled: Filled } = { used: 0, filled: { bytes: 0, files: 0 } };
  #usage: Usage | undefined;
  /** Runs that were ever watched. */
  #watches = 0;
  #nextCount = 0;
  /** Not before this time are runs held still again. */
  #nextHeld = 0;
  #countedAt = 0;
  #took = 0;
  #counting: Promise<void> | undefined;
  /** Of the count that is under way, and how many runs wait for one. */
  #turn: Turn | undefined;
  #hurried = 0;
  #waiting: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;

  /** @param onFault told when the workspace cannot be counted; the runs of that time are then not limited by it */
  constructor(path: string, limit: number, onFault: (error: unknown) => void) {
    this.#path = path;
    this.limit = limit;
    this.#onFault = onFault;
  }

  /** Its share at the last count, and what was taken since. */
  get used(): number {
    return this.#used;
  }

  get room(): number {
    return this.limit - this.#used;
  }

  /**
   * Takes room for bytes that are about to be written. Nobody is refused for a count that is old: another one is
   * made first, which takes up to half a second more when others were made lately.
   *
   * @returns false where there is none
   */
  async take(bytes: number): Promise<boolean> {
    await this.ready(bytes);
    return this.takeNow(bytes);
  }

  /** Counts again where that may be too little. */
  async ready(bytes: number): Promise<void> {
    if (bytes > this.room || this.#isOutgrown()) await this.#countAgain();
  }

  /** `take` for whoever was `ready` for as much. */
  takeNow(bytes: number): boolean {
    if (bytes > this.room) return false;
    this.#used += bytes;
    this.#taken += bytes;
    return true;
  }

  /** Gives back what was taken for bytes that were not written after all. */
  giveBack(bytes: number): void {
    this.#used -= bytes;
    // What was taken before the count began is not in it.
    this.#taken = Math.max(0, this.#taken - bytes);
  }

  /**
   * What a new count finds; of far more than the limit only so much. One is made at most every half second.
   *
   * @throws Error where it cannot be counted
   */
  async usage(): Promise<Usage> {
    await this.#countAgain();
    if (this.#usage === undefined) throw new Error(`${this.#path} could not be counted`);
    return this.#usage;
  }

  /** Resolves when no count is under way, which could miss what is moved now. */
  async still(): Promise<void> {
    while (this.#counting !== undefined) await this.#counting;
  }

  /** Counts now; calls at the same time share one count. */
  count(): Promise<void> {
    this.#counting ??= this.#count().finally(() => {
      this.#counting = undefined;
    });
    return this.#counting;
  }

  /**
   * To be called before a run: counts again where others, too short to be watched, may have filled the workspace.
   *
   * @returns whether it is full; the run may then free room, and must not take any
   * @throws NoxError `workspace_full` where so much is beyond the limit that runs must have got around it
   */
  async isFull(): Promise<boolean> {
    if (this.room <= 0 || this.#isOutgrown()) await this.#countForRun();
    if (-this.room > Math.max(this.limit, EXCESS_BYTES))
      throw new NoxError(
        'workspace_full',
        `The workspace holds ${String(this.#used)} bytes (a file counts as ${String(FILE_BYTES)} at least), and may hold ${String(this.limit)}: no run begins in it before files are deleted (DELETE /v1/workspaces/{id}/files)`,
      );
    return this.room <= 0;
  }

  /**
   * Watches while a run is alive. A run that cleans a full workspace is left alone.
   *
   * @returns to be called at the end of the run
   */
  watch(user: DiskUser): () => void {
    this.#watches += 1;
    const watched: Watched = { ...user, baseline: this.#used <= this.limit ? this.#used : undefined };
    this.#runs.add(watched);
    this.#timer ??= setInterval(() => {
      this.#tick();
    }, TICK_MS).unref();
    return () => {
      this.#runs.delete(watched);
      if (this.#runs.size > 0) return;
      clearInterval(this.#timer);
      this.#timer = undefined;
    };
  }

  async #countForRun(): Promise<void> {
    this.#hurried += 1;
    this.#turn?.hurry();
    await this.#countAgain().finally(() => {
      this.#hurried -= 1;
    });
  }

  /** A count that begins after this call; waiting calls share it. */
  #countAgain(): Promise<void> {
    this.#waiting ??= (async () => {
      await sleep(Math.max(0, this.#countedAt + PAUSE_MS - performance.now()));
      // Begun before somebody who waits here may have come.
      await this.#counting;
      this.#waiting = undefined;
      await this.count();
    })();
    return this.#waiting;
  }

  #tick(): void {
    if (this.#counting !== undefined) {
      // One that a client has brought about may be waiting for its turn.
      this.#turn?.hurry();
      return;
    }
    const due = this.#isOutgrown() ? this.#countedAt + this.#took : this.#nextCount;
    if (performance.now() >= due) void this.count();
  }

  /** Whether the file system has filled by more than the workspace had left, whoever filled it. */
  #isOutgrown(): boolean {
    const { bytes, files } = this.#filled();
    const { used, filled: before } = this.#base;
    // What others have freed since hides nothing that is written here.
    const filled = { bytes: Math.min(bytes, before.bytes), files: Math.min(files, before.files) };
    this.#base = { used, filled };
    const grown = shareOf({ bytes: bytes - filled.bytes, entries: files - filled.files });
    return grown > Math.max(this.limit - used, Math.min(STEP_BYTES, this.limit * STEP_PART));
  }

  async #count(): Promise<void> {
    const turn = new Turn();
    this.#turn = turn;
    if (this.#hurried + this.#runs.size > 0) turn.hurry();
    await turn.granted;
    await this.#countNow().finally(() => {
      turn.end();
    });
  }

  async #countNow(): Promise<void> {
    const began = performance.now();
    const alive = this.#runs.size > 0;
    const held = alive && this.#isOutgrown() && began >= this.#nextHeld;
    try {
      const filled = this.#filled();
      const watches = this.#watches;
      this.#taken = 0;
      const share = held
        ? await frozen(
            () => this.#pids(),
            () => this.#share(),
          )
        : await this.#share();
      if (share === undefined) {
        this.#onFault(new Error(`${this.#path}: runs that cannot be held still are ended`));
        for (const run of this.#runs) run.stop();
      } else {
        this.#used = share + this.#taken;
        if ((held || !alive) && watches === this.#watches) this.#base = { used: share, filled };
      }
    } catch (error) {
      this.#usage = undefined;
      this.#onFault(error);
    }
    const now = performance.now();
    this.#countedAt = now;
    this.#took = now - began;
    if (held) this.#nextHeld = now + this.#took / HELD_SHARE;
    this.#nextCount = now + Math.max(RECOUNT_MS, this.#took / SHARE);
    if (this.#used <= this.limit) return;
    for (const run of this.#runs) {
      if (run.baseline !== undefined && this.#used > run.baseline) run.stop();
      run.baseline ??= this.#used;
    }
  }

  async #share(): Promise<number> {
    const most = (2 * this.limit + EXCESS_BYTES) / FILE_BYTES;
    this.#usage = await usageOf(this.#path, '', most);
    const deleted = await deletedShare(this.#pids(), statSync(this.#path).dev);
    return shareOf(this.#usage) + deleted;
  }

  #pids(): number[] {
    return [...this.#runs].flatMap((run) => run.pids());
  }

  #filled(): Filled {
    try {
      const { blocks, bfree, bsize, files, ffree } = statfsSync(this.#path);
      return { bytes: (blocks - bfree) * bsize, files: files - ffree };
    } catch {
      return { bytes: 0, files: 0 };
    }
  }
}

/**
 * The size of a workspace, kept within its limit without help from the file system (quotas need root). Its share of
 * the limit is its bytes on disk, or FILE_BYTES for each entry where that is more.
 *
 * Counting files is slow and runs can make a million of them, so it is done rarely: when the file system as a
 * whole has filled by as much as the workspace had left, and every few seconds while runs are alive. Between two
 * counts a run can overshoot by what it writes in that time; RLIMIT_FSIZE bounds each file meanwhile. Runs that end
 * between two counts are seen by the next, before it begins.
 */
import { statfsSync, statSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { NoxError } from '../protocol/errors.ts';
import { FILE_BYTES, shareOf } from '../protocol/limits.ts';
import { deletedShare } from './meter.ts';
import { usageOf } from './trees.ts';

const TICK_MS = 250;
const RECOUNT_MS = 5000;
/** Between two counts that are made before something is refused. */
const PAUSE_MS = 500;
/** Beyond its limit and this, or the limit once more, a workspace has no runs: RLIMIT_FSIZE does not see holes filled through a mapping. */
const EXCESS_BYTES = 256 * 2 ** 20;
/** Counting may take at most this part of the time. */
const SHARE = 0.05;

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
  #filledAtCount: Filled = { bytes: 0, files: 0 };
  #nextCount = 0;
  #countedAt = 0;
  #counting: Promise<void> | undefined;
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
    if (this.room <= 0 || this.#isOutgrown()) await this.#countAgain();
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
    if (this.#counting !== undefined) return;
    if (!this.#isOutgrown() && performance.now() < this.#nextCount) return;
    void this.count();
  }

  /** Whether the file system has filled by more than the workspace had left, whoever filled it. */
  #isOutgrown(): boolean {
    const { bytes, files } = this.#filled();
    const before = this.#filledAtCount;
    const grown = shareOf({ bytes: bytes - before.bytes, entries: files - before.files });
    return grown > this.room + this.#taken;
  }

  async #count(): Promise<void> {
    const began = performance.now();
    try {
      const filled = this.#filled();
      this.#taken = 0;
      this.#used = shareOf(await usageOf(this.#path)) + this.#deleted() + this.#taken;
      this.#filledAtCount = filled;
    } catch (error) {
      this.#onFault(error);
    }
    const now = performance.now();
    this.#countedAt = now;
    this.#nextCount = now + Math.max(RECOUNT_MS, (now - began) / SHARE);
    if (this.#used <= this.limit) return;
    for (const run of this.#runs) {
      if (run.baseline !== undefined && this.#used > run.baseline) run.stop();
      run.baseline ??= this.#used;
    }
  }

  #deleted(): number {
    const dev = statSync(this.#path).dev;
    return deletedShare(
      [...this.#runs].flatMap((run) => run.pids()),
      dev,
    );
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

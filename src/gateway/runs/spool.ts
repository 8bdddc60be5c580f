/**
 * The events of runs in the background, on disk: `<NOX_STATE>/runs/<id>.ndjson`, as their readers get them.
 *
 * Each has a bound, and so have all together: the oldest that have ended make room. The disk is the database's too, and
 * output leaves it some. Nothing that a client sends becomes a name here.
 */
import { mkdirSync } from 'node:fs';
import { open, readdir, rm, stat, statfs } from 'node:fs/promises';
import { join } from 'node:path';
import { NoxError } from '../../protocol/errors.ts';
import { eventLine, headOf } from './events.ts';
import { FileLog } from './log.ts';

const RUN_FILE = /^(run_[0-9a-z]+)\.ndjson$/;
/** Longer than any event: 64 KiB, each byte of which may become six in JSON. */
const LAST_BYTES = 512 * 1024;
const NEWLINE = 10;
/** What output leaves free; of a small disk a tenth. */
const SPARED_BYTES = 64 * 1024 * 1024;
/** So much is written, and so long waited, before it is looked again what is free. */
const LOOK_BYTES = 1024 * 1024;
const LOOK_MS = 1000;

export interface SpoolLimits {
  /** Of one run, in bytes (NOX_KEEP_OUTPUT). */
  readonly outputBytes: number;
  /** Of all (NOX_KEEP_OUTPUT_ALL). */
  readonly allOutputBytes: number;
}

export class Spool {
  readonly #dir: string;
  readonly #limits: SpoolLimits;
  /** Bytes that may be written until `#look`, on the monotonic clock. */
  #room = 0;
  #look = 0;

  constructor(state: string, limits: SpoolLimits) {
    this.#dir = join(state, 'runs');
    this.#limits = limits;
  }

  create(id: string): FileLog {
    mkdirSync(this.#dir, { recursive: true, mode: 0o700 });
    return FileLog.create(this.#path(id), this.#limits.outputBytes, (bytes) => this.#take(bytes));
  }

  async #take(bytes: number): Promise<boolean> {
    if (this.#room < bytes || performance.now() >= this.#look) {
      const { bsize, blocks, bavail } = await statfs(this.#dir);
      // A file system that does not say how large it is.
      const free = blocks === 0 ? Infinity : bsize * (bavail - Math.min(SPARED_BYTES / bsize, blocks / 10));
      this.#room = Math.min(free, LOOK_BYTES);
      this.#look = performance.now() + LOOK_MS;
    }
    if (this.#room < bytes) return false;
    this.#room -= bytes;
    return true;
  }

  /** @throws NoxError `run_not_found` where its events are not kept, or not any more */
  async open(id: string): Promise<FileLog> {
    try {
      return await FileLog.open(this.#path(id));
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code !== 'ENOENT') throw cause;
      throw new NoxError('run_not_found', `The output of the run ${id} is not kept`, { cause });
    }
  }

  /** Gives events their end that a crash or a full disk has kept from it. @param view the run as a client sees it */
  async complete(id: string, view: Readonly<Record<string, unknown>>): Promise<void> {
    const file = await open(this.#path(id), 'r+').catch((error: unknown) => {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
      throw error;
    });
    if (file === undefined) return;
    try {
      const { size } = await file.stat();
      const from = Math.max(0, size - LAST_BYTES);
      const { buffer, bytesRead } = await file.read(Buffer.alloc(size - from), 0, size - from, from);
      // What comes after the last line is the beginning of one.
      const whole = buffer.subarray(0, buffer.subarray(0, bytesRead).lastIndexOf(NEWLINE) + 1);
      const last = whole.subarray(whole.lastIndexOf(NEWLINE, -2) + 1);
      if (last.length > 0 && headOf(last).type === 'end') return;
      await file.truncate(from + whole.length);
      const end = eventLine({ type: 'end', run: view })(from + whole.length);
      await file.write(end, 0, end.length, from + whole.length);
    } finally {
      await file.close();
    }
  }

  async remove(id: string): Promise<void> {
    await rm(this.#path(id), { force: true });
  }

  /**
   * Forgets what belongs to no run, then the oldest until the rest is within its bound.
   *
   * @param kept whether the run is still known
   * @param alive whether it has not ended
   */
  async tidy(kept: (id: string) => boolean, alive: (id: string) => boolean): Promise<void> {
    let total = 0;
    const files: { readonly id: string; readonly size: number; readonly at: number }[] = [];
    const names = await readdir(this.#dir).catch((error: unknown) => {
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
      throw error;
    });
    for (const name of names) {
      const id = RUN_FILE.exec(name)?.[1];
      if (id === undefined) continue;
      if (!kept(id)) {
        await this.remove(id);
        continue;
      }
      const found = await stat(join(this.#dir, name)).catch(() => undefined);
      if (found === undefined) continue;
      total += found.size;
      files.push({ id, size: found.size, at: found.mtimeMs });
    }
    files.sort((a, b) => a.at - b.at);
    for (const { id, size } of files) {
      if (total <= this.#limits.allOutputBytes) return;
      if (alive(id)) continue;
      await this.remove(id);
      total -= size;
    }
  }

  #path(id: string): string {
    return join(this.#dir, `${id}.ndjson`);
  }
}

/**
 * The audit file: one JSON line for an entry, written behind the requests.
 *
 * Rotation is somebody else's, by renaming (src/admin/logs.ts). Before each batch the name is compared with the open
 * file; if they differ, the name is opened, and made if it is not there. A batch that was under way goes to the
 * renamed file whole, which is why that one must not be compressed at once.
 *
 * A disk that is full keeps nobody waiting: entries wait in a queue of bounded size, then they are counted, and the
 * count is written where they would have stood.
 */
import { constants } from 'node:fs';
import { open, stat, type FileHandle } from 'node:fs/promises';
import type { Logger } from 'pino';
import type { AuditSink } from './audit.ts';

const MODE = 0o640;
// O_NONBLOCK: a FIFO in the file's place would hold the opening until somebody reads it.
const FLAGS =
  constants.O_RDWR | constants.O_APPEND | constants.O_CREAT | constants.O_NOFOLLOW | constants.O_NONBLOCK;
const QUEUE_BYTES = 4 * 1024 * 1024;
const BATCH_BYTES = 256 * 1024;
const RETRY_MS = 1000;
const CLOSE_MS = 2000;
/** Not the administrator's mistake: these go by. */
const FULL = new Set(['ENOSPC', 'EDQUOT', 'EIO']);
const NEWLINE = 10;

export class AuditFile implements AuditSink {
  readonly #path: string;
  readonly #log: Logger;
  readonly #queueBytes: number;
  #handle: FileHandle | undefined;
  /** Whole lines, and how many bytes they are. */
  #queue: string[] = [];
  #queued = 0;
  #lost = 0;
  /** The file ends within a line that will never be completed. */
  #torn = false;
  #failing = false;
  #closed = false;
  #work: Promise<void> | undefined;
  #retry: NodeJS.Timeout | undefined;

  private constructor(path: string, log: Logger, queueBytes: number) {
    this.#path = path;
    this.#log = log;
    this.#queueBytes = queueBytes;
  }

  /**
   * @param path empty for none
   * @throws Error with the remedy, if the file cannot be used; a disk that is full is no such error
   */
  static async open(path: string, log: Logger, queueBytes = QUEUE_BYTES): Promise<AuditFile | undefined> {
    if (path === '') return undefined;
    const file = new AuditFile(path, log, queueBytes);
    try {
      await file.#follow();
    } catch (error) {
      if (!FULL.has((error as NodeJS.ErrnoException).code ?? '')) {
        throw new Error(
          `NOX_AUDIT_FILE: cannot write ${path} (${(error as Error).message}): make it a regular file, or none yet, in a directory that the server's user may write to`,
          { cause: error },
        );
      }
      file.#failed(error);
    }
    return file;
  }

  write(entry: object): void {
    if (this.#closed) return;
    const line = `${JSON.stringify(entry)}\n`;
    const bytes = Buffer.byteLength(line);
    if (this.#queued + bytes > this.#queueBytes) {
      this.#lost += 1;
      return;
    }
    this.#countLost();
    this.#push(line, bytes);
    this.#start();
  }

  /** Writes what waits, within a bound. Nothing is taken after it. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#retry);
    const drained = (this.#work ?? Promise.resolve()).then(() => this.#drain());
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, CLOSE_MS)));
    await Promise.race([drained, late]);
    clearTimeout(timer);
    clearTimeout(this.#retry);
    const lost = this.#queue.length + this.#lost;
    if (lost > 0) this.#log.error({ file: this.#path, lost }, 'audit file: lines lost at the stop');
    // One that hangs in the kernel would hang again.
    else await this.#handle?.close();
  }

  #push(line: string, bytes: number): void {
    this.#queue.push(line);
    this.#queued += bytes;
  }

  #countLost(): void {
    if (this.#lost === 0) return;
    const line = `${JSON.stringify({ time: new Date().toISOString(), lost: this.#lost })}\n`;
    this.#lost = 0;
    this.#push(line, line.length);
  }

  #start(): void {
    if (this.#work !== undefined || this.#retry !== undefined) return;
    this.#work = this.#drain().finally(() => {
      this.#work = undefined;
      // What came between the last look at the queue and now.
      if (this.#queue.length > 0 && !this.#closed) this.#start();
    });
  }

  async #drain(): Promise<void> {
    try {
      while (this.#queue.length > 0) {
        await this.#follow();
        await this.#writeBatch();
        if (this.#failing) {
          this.#failing = false;
          this.#log.info({ file: this.#path, lost: this.#lost }, 'audit file: writing again');
        }
        if (this.#queue.length === 0) this.#countLost();
      }
    } catch (error) {
      this.#failed(error);
    }
  }

  #failed(error: unknown): void {
    if (!this.#failing) {
      const message = 'audit file: cannot write; lines wait, and are counted when they are too many';
      this.#log.error({ err: error, file: this.#path }, message);
    }
    this.#failing = true;
    if (this.#closed) return;
    this.#retry = setTimeout(() => {
      this.#retry = undefined;
      this.#start();
    }, RETRY_MS).unref();
  }

  /** Makes the open file the one that has the name. */
  async #follow(): Promise<void> {
    const old = this.#handle;
    if (old !== undefined) {
      const [named, opened] = await Promise.all([
        stat(this.#path, { bigint: true }).catch(() => undefined),
        old.stat({ bigint: true }),
      ]);
      if (named?.ino === opened.ino && named.dev === opened.dev) return;
    }
    const next = await open(this.#path, FLAGS, MODE);
    try {
      const info = await next.stat();
      if (!info.isFile()) throw new Error('not a regular file');
      if ((info.mode & 0o7777) !== MODE) await next.chmod(MODE);
      this.#torn = info.size > 0 && (await lastByte(next, info.size)) !== NEWLINE;
    } catch (error) {
      await next.close();
      throw error;
    }
    this.#handle = next;
    await old?.close();
  }

  /** Lines leave the queue when they are in the file, whole. */
  async #writeBatch(): Promise<void> {
    const handle = this.#handle;
    if (handle === undefined) return;
    let lines = 0;
    let bytes = 0;
    const ends: number[] = [];
    for (const line of this.#queue) {
      if (bytes > 0 && bytes + line.length > BATCH_BYTES) break;
      bytes += Buffer.byteLength(line);
      ends.push(bytes);
      lines += 1;
    }
    const text = this.#queue.slice(0, lines).join('');
    if (this.#torn) {
      await handle.write('\n');
      this.#torn = false;
    }
    const data = Buffer.from(text);
    let written = 0;
    try {
      while (written < data.length) written += (await handle.write(data, written)).bytesWritten;
    } finally {
      const whole = ends.findLastIndex((end) => end <= written) + 1;
      const wholeBytes = ends[whole - 1] ?? 0;
      this.#queue.splice(0, whole);
      this.#queued -= wholeBytes;
      if (written > wholeBytes) await this.#takeBack(handle, written - wholeBytes);
    }
  }

  /** Cuts off the part of a line that still fitted on the disk: the line is written again, maybe to another file. */
  async #takeBack(handle: FileHandle, bytes: number): Promise<void> {
    try {
      const { size } = await handle.stat();
      await handle.truncate(size - bytes);
    } catch {
      this.#torn = true;
    }
  }
}

async function lastByte(handle: FileHandle, size: number): Promise<number | undefined> {
  const { buffer } = await handle.read(Buffer.alloc(1), 0, 1, size - 1);
  return buffer[0];
}

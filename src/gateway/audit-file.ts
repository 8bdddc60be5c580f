/**
 * The audit file: one JSON line for an entry, chained to the one before it (audit-chain.ts), written behind the requests.
 *
 * Rotation is somebody else's, by renaming (src/admin/logs.ts). Before each batch the name is compared with the open
 * file; if they differ, the name is opened, and made if it is not there. A batch that was under way goes to the
 * renamed file whole, which is why that one must not be compressed at once.
 *
 * How far the chain goes is kept in `<file>.head` too, at most a second behind: without it nobody could tell that the
 * end has been cut off. The lines are on the disk before the head is, so that a loss of power looks like no attack.
 * A start goes on from the end of the file or from the head, whichever is further; if they contradict each other, from
 * the head, and the contradiction stays in the file for the verifier to see.
 *
 * A disk that is full keeps nobody waiting: entries wait in a queue of bounded size, then they are counted, and the
 * count is written where they would have stood.
 */
import { constants } from 'node:fs';
import { open, readFile, rename, stat, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import type { Logger } from 'pino';
import type { AuditSink, AuditState } from './audit.ts';
import {
  chainLine,
  describeRest,
  encodeHead,
  findEnd,
  GENESIS,
  parseHead,
  sourceOf,
  TORN,
  type Head,
  type Unchained,
} from './audit-chain.ts';
import { lock, unlock } from './audit-lock.ts';
import { endOfRotated } from './audit-rotated.ts';

const MODE = 0o640;
// O_NONBLOCK: a FIFO in the file's place would hold the opening until somebody reads it.
const SAFELY = constants.O_NOFOLLOW | constants.O_NONBLOCK;
const FLAGS = constants.O_RDWR | constants.O_APPEND | constants.O_CREAT | SAFELY;
const QUEUE_BYTES = 4 * 1024 * 1024;
const BATCH_BYTES = 256 * 1024;
const RETRY_MS = 1000;
const CLOSE_MS = 2000;
/** To sync a disk and to replace a file at every line would cost the runs' own disk. */
const HEAD_MS = 1000;
/** The journal gets the head so often: it is root's. */
const HEAD_LOG_MS = 600_000;
/** Not the administrator's mistake: these go by. */
const FULL = new Set(['ENOSPC', 'EDQUOT', 'EIO']);

/** The open file, as it is to be continued. */
interface Current {
  readonly handle: FileHandle;
  /** It has no line of the chain yet. */
  first: boolean;
  /** What stands at its end and is no line. */
  unchained: Unchained | undefined;
}

export class AuditFile implements AuditSink {
  readonly #path: string;
  readonly #log: Logger;
  readonly #queueBytes: number;
  #current: Current | undefined;
  #locked = false;
  /** Undefined until the file has been opened once. */
  #chain: Head | undefined;
  #saved: Head | undefined;
  #savedAt = -HEAD_MS;
  #saving: Promise<void> | undefined;
  #saveTimer: NodeJS.Timeout | undefined;
  /** Files that are written to no more, to be synced before the next head, and closed. */
  #retired: FileHandle[] = [];
  #loggedAt = -HEAD_LOG_MS;
  /** Entries as JSON, and how many bytes they are. */
  #queue: string[] = [];
  #queued = 0;
  #lost = 0;
  #lostEver = 0;
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
      await file.#saveHead();
    } catch (error) {
      if (!FULL.has((error as NodeJS.ErrnoException).code ?? '')) {
        await file.#letGo();
        throw new Error(
          `NOX_AUDIT_FILE: cannot write ${path} (${(error as Error).message}): make it a regular file, or none yet, of one server alone, in a directory that the server's user may write to`,
          { cause: error },
        );
      }
      file.#failed(error);
    }
    return file;
  }

  write(entry: object): void {
    if (this.#closed) return;
    const text = JSON.stringify(entry);
    const bytes = Buffer.byteLength(text);
    if (this.#queued + bytes > this.#queueBytes) {
      this.#lost += 1;
      this.#lostEver += 1;
      return;
    }
    this.#countLost();
    this.#push(text, bytes);
    this.#start();
  }

  get #lockPath(): string {
    return join(dirname(this.#path), `.${basename(this.#path)}.lock`);
  }

  get state(): AuditState {
    return { head: this.#chain ?? GENESIS, lost: this.#lostEver, waiting: this.#queue.length };
  }

  /** Writes what waits, within a bound. Nothing is taken after it. */
  async close(): Promise<void> {
    this.#closed = true;
    clearTimeout(this.#retry);
    clearTimeout(this.#saveTimer);
    const drained = (this.#work ?? Promise.resolve())
      .then(() => this.#drain())
      .then(() => this.#saving)
      .then(() => (this.#failing ? undefined : this.#saveHead()))
      .catch((error: unknown) => {
        this.#failed(error);
      });
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<'late'>((resolve) => (timer = setTimeout(resolve, CLOSE_MS, 'late')));
    const end = await Promise.race([drained, late]);
    clearTimeout(timer);
    const lost = this.#queue.length + this.#lost;
    this.#log.info({ file: this.#path, ...this.#chain }, 'audit file: head');
    if (lost > 0) this.#log.error({ file: this.#path, lost }, 'audit file: lines lost at the stop');
    // One that hangs in the kernel would hang again.
    if (end === 'late' || lost > 0) this.#unlock();
    else await this.#letGo();
  }

  #push(text: string, bytes: number): void {
    this.#queue.push(text);
    this.#queued += bytes;
  }

  #countLost(): void {
    if (this.#lost === 0) return;
    const text = JSON.stringify({ time: new Date().toISOString(), lost: this.#lost });
    this.#lost = 0;
    this.#push(text, text.length);
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
        this.#saveSoon();
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
    this.#retry ??= setTimeout(() => {
      this.#retry = undefined;
      this.#start();
    }, RETRY_MS).unref();
  }

  /** Beside the lines, which do not wait for a disk that syncs slowly: a kill -9 would take those that wait. */
  #saveSoon(): void {
    if (this.#closed || this.#saveTimer !== undefined || this.#saving !== undefined) return;
    const wait = Math.max(0, this.#savedAt + HEAD_MS - performance.now());
    this.#saveTimer = setTimeout(() => {
      this.#saveTimer = undefined;
      this.#saving = this.#saveHead()
        .catch((error: unknown) => {
          this.#failed(error);
        })
        .finally(() => {
          this.#saving = undefined;
          if (this.#chain !== this.#saved) this.#saveSoon();
        });
    }, wait).unref();
  }

  /** Lines first, then the head that promises them. */
  async #saveHead(): Promise<void> {
    const head = this.#chain;
    this.#savedAt = performance.now();
    if (head === undefined || head === this.#saved) return;
    const retired = this.#retired.splice(0);
    const current = this.#current?.handle;
    for (const handle of retired) await handle.datasync().finally(() => handle.close());
    await current?.datasync();
    const path = `${this.#path}.head`;
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_TRUNC | SAFELY;
    const next = await open(`${path}.new`, flags, MODE);
    try {
      await next.writeFile(encodeHead(head));
      await next.datasync();
    } finally {
      await next.close();
    }
    await rename(`${path}.new`, path);
    this.#saved = head;
    if (this.#savedAt - this.#loggedAt < HEAD_LOG_MS) return;
    this.#loggedAt = this.#savedAt;
    this.#log.info({ file: this.#path, ...head }, 'audit file: head');
  }

  /** Makes the open file the one that has the name. */
  async #follow(): Promise<void> {
    const old = this.#current;
    if (old !== undefined) {
      const [named, opened] = await Promise.all([
        stat(this.#path, { bigint: true }).catch(() => undefined),
        old.handle.stat({ bigint: true }),
      ]);
      if (named?.ino === opened.ino && named.dev === opened.dev) return;
    }
    const handle = await open(this.#path, FLAGS, MODE);
    try {
      const info = await handle.stat();
      if (!info.isFile()) throw new Error('not a regular file');
      if ((info.mode & 0o7777) !== MODE) await handle.chmod(MODE);
      if (!this.#locked) lock(this.#lockPath);
      this.#locked = true;
      const { last, at } = await findEnd(sourceOf(handle, info.size));
      const whole = this.#chain !== undefined || (await this.#resume(handle, info.size));
      const unchained = at < info.size ? await describeRest(handle, at, info.size, TORN) : undefined;
      this.#current = { handle, first: last === undefined && whole, unchained };
    } catch (error) {
      await handle.close();
      throw error;
    }
    if (old !== undefined) this.#retired.push(old.handle);
  }

  /**
   * Where the chain goes on after a stop of any kind.
   *
   * @returns whether the files have what the head promises; where not, the next line says so to the verifier, also in
   *   a file that was emptied: it is not the first of a file
   */
  async #resume(handle: FileHandle, size: number): Promise<boolean> {
    const head = parseHead(await readFile(`${this.#path}.head`, 'utf8').catch(() => ''));
    const own = await findEnd(sourceOf(handle, size), head);
    const end = own.keeps === 'older' ? await endOfRotated(this.#path, head) : own;
    const last = own.last ?? end.last;
    const keeps = head === undefined ? last === undefined : end.keeps === 'yes';
    const whole = keeps || (last === undefined && (head?.seq ?? 0) === 0);
    this.#saved = head;
    this.#chain = head === undefined || (last !== undefined && keeps) ? (last ?? GENESIS) : head;
    if (!whole) {
      const message =
        'audit file: it does not have the line that its head promises: lines were cut off or changed, or the head taken away, while no server ran; noxctl audit verify says where';
      this.#log.error({ file: this.#path, end: last, head }, message);
    }
    return whole || head === undefined;
  }

  /** Lines leave the queue when they are in the file, whole. */
  async #writeBatch(): Promise<void> {
    const current = this.#current;
    const before = this.#chain;
    if (current === undefined || before === undefined) return;
    const { handle, first, unchained } = current;
    const lines: { readonly head: Head; readonly end: number; readonly bytes: number }[] = [];
    const texts = unchained === undefined ? [] : [`${TORN}\n`];
    let end = unchained === undefined ? 0 : TORN.length + 1;
    let head = before;
    for (const entry of this.#queue) {
      if (lines.length > 0 && end > BATCH_BYTES) break;
      const extras = lines.length > 0 ? {} : { prev: first ? before.hash : undefined, unchained };
      const line = chainLine(head, entry, extras);
      ({ head } = line);
      end += Buffer.byteLength(line.text);
      texts.push(line.text);
      lines.push({ head, end, bytes: Buffer.byteLength(entry) });
    }
    const data = Buffer.from(texts.join(''));
    let written = 0;
    try {
      while (written < data.length) written += (await handle.write(data, written)).bytesWritten;
    } finally {
      const whole = lines.filter((line) => line.end <= written);
      const last = whole.at(-1);
      this.#queue.splice(0, whole.length);
      this.#queued -= whole.reduce((sum, { bytes }) => sum + bytes, 0);
      if (last !== undefined) {
        this.#chain = last.head;
        current.first = false;
        current.unchained = undefined;
      }
      if (written > (last?.end ?? 0)) await this.#takeBack(current, written - (last?.end ?? 0));
    }
  }

  /** Cuts off the part of a line that still fitted on the disk: the line is written again, maybe to another file. */
  async #takeBack(current: Current, bytes: number): Promise<void> {
    try {
      const { size } = await current.handle.stat();
      await current.handle.truncate(size - bytes);
    } catch {
      // It may be one that can only be appended to (chattr +a): opened again, it is found what stands at its end.
      this.#current = undefined;
      this.#retired.push(current.handle);
    }
  }

  async #letGo(): Promise<void> {
    const current = this.#current;
    this.#current = undefined;
    for (const handle of this.#retired.splice(0)) await handle.close();
    await current?.handle.close();
    this.#unlock();
  }

  #unlock(): void {
    if (this.#locked) unlock(this.#lockPath);
    this.#locked = false;
  }
}

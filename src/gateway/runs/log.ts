/**
 * The events of one run, in order, for readers that come and go. The id of an event is its place, in bytes from the
 * start, so that it is all that a reader needs to go on after it.
 *
 * Two kinds. `MemoryLog`, of a run that somebody watches: holds what nobody has read yet, and a little of what was
 * read, for a reader whose connection broke; the run waits when it is full. `FileLog`, of a run in the background: on
 * disk, whole, up to its bound; the run never waits, and what is beyond the bound is counted and left out.
 */
import { open, type FileHandle } from 'node:fs/promises';
import { headOf, type Line } from './events.ts';

export interface EventLog {
  /** Something was left out: it was too much, or the disk was full. */
  readonly truncated: boolean;
  /** Takes a line, and gives it its id. */
  append(line: Line): void;
  /** Resolves when there is room for more. */
  room(signal: AbortSignal): Promise<void>;
  /** Nothing comes any more; readers end when they have read all. */
  close(): void;
  /**
   * Whole lines, as they come: all, or those after an event. The loop over them throws PlaceError for a reader that was
   * overtaken: what it has not read yet is not held any more.
   *
   * @throws PlaceError for the id of no event, or of one that is not held any more
   */
  read(after: number | undefined, signal: AbortSignal): Promise<AsyncIterable<Buffer>>;
}

/** The place is not one to go on from. */
export class PlaceError extends Error {
  override readonly name = 'PlaceError';
}

/** Wakes whoever waits for the log to change. */
class Change {
  readonly #waiting = new Set<() => void>();

  tell(): void {
    for (const wake of this.#waiting) wake();
  }

  async wait(signal: AbortSignal): Promise<void> {
    if (signal.aborted) return;
    await new Promise<void>((resolve) => {
      const wake = () => {
        this.#waiting.delete(wake);
        signal.removeEventListener('abort', wake);
        resolve();
      };
      this.#waiting.add(wake);
      signal.addEventListener('abort', wake);
    });
  }
}

/** Short lines are handed to a reader together. */
const GATHERED_BYTES = 32 * 1024;
/** Bytes that wait for a reader before the run is held up, and bytes kept for one that comes back. */
const AHEAD_BYTES = 1024 * 1024;
const KEPT_BYTES = 1024 * 1024;

export class MemoryLog implements EventLog {
  readonly truncated = false;
  readonly #change = new Change();
  #lines: Buffer[] = [];
  /** Where each of them begins. */
  #places: number[] = [];
  #end = 0;
  /** How far the furthest reader has come. */
  #read = 0;
  #closed = false;

  /** Bytes in memory. */
  get held(): number {
    return this.#end - this.#start;
  }

  /** Place of the first line that is held. */
  get #start(): number {
    return this.#places[0] ?? this.#end;
  }

  append(line: Line): void {
    const whole = line(this.#end);
    this.#lines.push(whole);
    this.#places.push(this.#end);
    this.#end += whole.length;
    this.#change.tell();
  }

  async room(signal: AbortSignal): Promise<void> {
    while (this.#end - this.#read > AHEAD_BYTES && !signal.aborted) await this.#change.wait(signal);
  }

  close(): void {
    this.#closed = true;
    this.#change.tell();
  }

  async read(after: number | undefined, signal: AbortSignal): Promise<AsyncIterable<Buffer>> {
    await Promise.resolve();
    return this.#follow(after === undefined ? this.#whole() : this.#behind(after), signal);
  }

  async *#follow(from: number, signal: AbortSignal): AsyncGenerator<Buffer> {
    let at = from;
    while (!signal.aborted) {
      if (at < this.#end) {
        const lines = this.#gather(this.#find(at));
        at += lines.length;
        yield lines;
        this.#read = Math.max(this.#read, at);
        this.#forget();
        this.#change.tell();
      } else if (this.#closed) return;
      else await this.#change.wait(signal);
    }
  }

  /** One line, and short ones after it. */
  #gather(from: number): Buffer {
    let to = from;
    let bytes = 0;
    do {
      bytes += this.#lines[to]?.length ?? 0;
      to += 1;
    } while (bytes + (this.#lines[to]?.length ?? Infinity) <= GATHERED_BYTES);
    const lines = this.#lines.slice(from, to);
    const [first] = lines;
    return first !== undefined && lines.length === 1 ? first : Buffer.concat(lines);
  }

  #whole(): number {
    if (this.#start > 0)
      throw new PlaceError(`the first ${String(this.#start)} bytes of events are not held any more`);
    return 0;
  }

  /** @returns the place after an event */
  #behind(event: number): number {
    const line = this.#lines[this.#find(event)];
    if (line === undefined) throw new PlaceError(`there is no event ${String(event)}`);
    return event + line.length;
  }

  /** @returns the index of the line that begins at a place, or of the next one that comes */
  #find(place: number): number {
    let from = 0;
    let to = this.#places.length;
    while (from < to) {
      const middle = (from + to) >> 1;
      if ((this.#places[middle] ?? 0) < place) from = middle + 1;
      else to = middle;
    }
    if ((this.#places[from] ?? this.#end) === place) return from;
    throw new PlaceError(
      place < this.#start
        ? `event ${String(place)} is not held any more; the first that is has the id ${String(this.#start)}`
        : `there is no event ${String(place)}`,
    );
  }

  #forget(): void {
    let drop = 0;
    while ((this.#places[drop + 1] ?? this.#end) <= this.#read - KEPT_BYTES) drop += 1;
    this.#lines.splice(0, drop);
    this.#places.splice(0, drop);
  }
}

const READ_BYTES = 256 * 1024;
const NEWLINE = 10;

type HasRoom = (bytes: number) => Promise<boolean>;
const always: HasRoom = () => Promise.resolve(true);

export class FileLog implements EventLog {
  readonly #change = new Change();
  readonly #limit: number;
  readonly #hasRoom: HasRoom;
  readonly #open: () => Promise<FileHandle>;
  #handle: FileHandle | undefined;
  #written: number;
  #writing: Promise<void> = Promise.resolve();
  /** The end of a run for which there was no room on the disk: told to those who read it here. */
  #end: Buffer = Buffer.alloc(0);
  #truncated = false;
  #closed: boolean;
  /** Readers, and whoever writes it or has just opened it. */
  #users = 1;

  private constructor(
    open: () => Promise<FileHandle>,
    { limit, size, hasRoom = always }: { limit: number; size?: number; hasRoom?: HasRoom },
  ) {
    this.#open = open;
    this.#limit = limit;
    this.#hasRoom = hasRoom;
    this.#written = size ?? 0;
    this.#closed = size !== undefined;
  }

  /**
   * The file is made with the first event: of those that wait there may be thousands.
   *
   * @param limit bytes; output beyond it is left out
   * @param hasRoom whether the disk has room for so many bytes of output
   */
  static create(path: string, limit: number, hasRoom?: HasRoom): FileLog {
    return new FileLog(() => open(path, 'w+', 0o600), { limit, ...(hasRoom && { hasRoom }) });
  }

  /** One that is whole, or that a crash has ended. */
  static async open(path: string): Promise<FileLog> {
    const handle = await open(path, 'r');
    const log = new FileLog(() => Promise.resolve(handle), { limit: 0, size: (await handle.stat()).size });
    log.#handle = handle;
    return log;
  }

  get truncated(): boolean {
    return this.#truncated;
  }

  append(line: Line): void {
    this.#writing = this.#writing.then(async () => {
      await this.#write(line);
      this.#change.tell();
    });
  }

  async #write(line: Line): Promise<void> {
    const whole = line(this.#written);
    // How it ended is always told.
    const { type } = headOf(whole);
    if (type === 'output' && (this.#truncated || this.#written + whole.length > this.#limit)) {
      this.#truncated = true;
      return;
    }
    try {
      if (type === 'output' && !(await this.#hasRoom(whole.length))) throw new Error('no room');
      this.#handle ??= await this.#open();
      for (let done = 0; done < whole.length;) {
        const place = this.#written + done;
        done += (await this.#handle.write(whole, done, whole.length - done, place)).bytesWritten;
      }
      this.#written += whole.length;
    } catch {
      // A full disk: what was written of the line is written over by the next.
      this.#truncated = true;
      if (type === 'end') this.#end = whole;
    }
  }

  async room(): Promise<void> {
    await this.#writing;
  }

  close(): void {
    void this.#writing.then(() => {
      this.#closed = true;
      this.#change.tell();
    });
  }

  /**
   * Whoever has made or opened it needs it no more.
   *
   * @param whole called when all is written, before it may be closed
   */
  async letGo(whole: () => void = () => undefined): Promise<void> {
    await this.#writing;
    whole();
    await this.#leave();
  }

  async read(after: number | undefined, signal: AbortSignal): Promise<AsyncIterable<Buffer>> {
    this.#users += 1;
    try {
      if (after !== undefined) await this.#check(after);
    } catch (error) {
      await this.#leave();
      throw error;
    }
    return this.#follow(after, signal);
  }

  async *#follow(after: number | undefined, signal: AbortSignal): AsyncGenerator<Buffer> {
    try {
      yield* this.#lines(after, signal);
    } finally {
      await this.#leave();
    }
  }

  async *#lines(after: number | undefined, signal: AbortSignal): AsyncGenerator<Buffer> {
    let at = after ?? 0;
    let skip = after !== undefined;
    let size = READ_BYTES;
    while (!signal.aborted) {
      if (at < this.#written && this.#handle !== undefined) {
        const piece = Buffer.allocUnsafe(Math.min(size, this.#written - at));
        const { bytesRead } = await this.#handle.read(piece, 0, piece.length, at);
        const lines = piece.subarray(0, piece.subarray(0, bytesRead).lastIndexOf(NEWLINE) + 1);
        // What a crash has left of a line is none.
        if (lines.length === 0 && at + piece.length >= this.#written) return;
        // A line that is longer than that: control characters grow sixfold in JSON.
        size = lines.length === 0 ? size * 2 : READ_BYTES;
        at += lines.length;
        const rest = skip ? lines.subarray(lines.indexOf(NEWLINE) + 1) : lines;
        if (lines.length > 0) skip = false;
        if (rest.length > 0) yield rest;
      } else if (this.#closed) {
        if (this.#end.length > 0) yield this.#end;
        return;
      } else await this.#change.wait(signal);
    }
  }

  /** The file is closed by the last who needs it. */
  async #leave(): Promise<void> {
    this.#users -= 1;
    if (this.#users === 0) await this.#handle?.close().catch(() => undefined);
  }

  /** Whether an event begins there. */
  async #check(place: number): Promise<void> {
    const head = Buffer.from(`{"id":${String(place)},`);
    const found = Buffer.alloc(head.length);
    if (place < this.#written) await this.#handle?.read(found, 0, found.length, place);
    if (!found.equals(head)) throw new PlaceError(`there is no event ${String(place)}`);
  }
}

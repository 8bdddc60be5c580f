/**
 * The events of one run, in order, for readers that come and go. The id of an event is its place, in bytes from the
 * start, so that it is all that a reader needs to go on after it.
 *
 * Two kinds. `MemoryLog`, of a run that somebody watches: holds what nobody has read yet, and a little of what was
 * read, for a reader whose connection broke; the run waits when it is full. `FileLog`, of a run in the background: on
 * disk, whole, up to its bound; the run never waits, and what is beyond the bound is counted and left out.
 */
import { open, type FileHandle } from 'node:fs/promises';
import { withId } from './events.ts';

export interface EventLog {
  /** Takes a whole line (events.ts), and gives it its id. */
  append(line: Buffer): void;
  /** Resolves when there is room for more. */
  room(signal: AbortSignal): Promise<void>;
  /** Nothing comes any more; readers end when they have read all. */
  close(): void;
  /**
   * Whole lines, as they come: all, or those after an event.
   *
   * @throws PlaceError for the id of no event, or of one that is not held any more
   */
  read(after: number | undefined, signal: AbortSignal): AsyncIterable<Buffer>;
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

/** Bytes that wait for a reader before the run is held up, and bytes kept for one that comes back. */
const AHEAD_BYTES = 1024 * 1024;
const KEPT_BYTES = 1024 * 1024;

export class MemoryLog implements EventLog {
  readonly #change = new Change();
  #lines: Buffer[] = [];
  /** Place of the first line that is held, and of the end. */
  #start = 0;
  #end = 0;
  /** How far the furthest reader has come. */
  #read = 0;
  #closed = false;

  append(line: Buffer): void {
    const whole = withId(line, this.#end);
    this.#lines.push(whole);
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

  async *read(after: number | undefined, signal: AbortSignal): AsyncGenerator<Buffer> {
    let at = after === undefined ? this.#whole() : after + (this.#lines[this.#find(after)]?.length ?? 0);
    while (!signal.aborted) {
      if (at < this.#end) {
        const lines = Buffer.concat(this.#lines.slice(this.#find(at)));
        at = this.#end;
        yield lines;
        this.#read = Math.max(this.#read, at);
        this.#forget();
        this.#change.tell();
      } else if (this.#closed) return;
      else await this.#change.wait(signal);
    }
  }

  #whole(): number {
    if (this.#start > 0)
      throw new PlaceError(`the first ${String(this.#start)} bytes of events are not held any more`);
    return 0;
  }

  /** @returns the index of the line that begins at a place */
  #find(place: number): number {
    // From the end: a reader that follows is there.
    let at = this.#end;
    for (let index = this.#lines.length; at >= place; index -= 1) {
      if (at === place) return index;
      at -= this.#lines[index - 1]?.length ?? Infinity;
    }
    throw new PlaceError(
      place < this.#start
        ? `event ${String(place)} is not held any more; the first that is has the id ${String(this.#start)}`
        : `there is no event ${String(place)}`,
    );
  }

  #forget(): void {
    let drop = 0;
    for (const line of this.#lines) {
      if (this.#start + line.length > this.#read - KEPT_BYTES) break;
      this.#start += line.length;
      drop += 1;
    }
    this.#lines.splice(0, drop);
  }
}

const READ_BYTES = 256 * 1024;
const NEWLINE = 10;

export class FileLog implements EventLog {
  readonly #change = new Change();
  readonly #handle: FileHandle;
  #written: number;
  #writing: Promise<void> = Promise.resolve();
  #failure: unknown;
  #closed = false;

  private constructor(handle: FileHandle, size: number) {
    this.#handle = handle;
    this.#written = size;
  }

  /** A new one, or one that is whole already and is only to be read. */
  static async open(path: string, mode: 'new' | 'whole'): Promise<FileLog> {
    const handle = await open(path, mode === 'new' ? 'wx+' : 'r', 0o600);
    const log = new FileLog(handle, (await handle.stat()).size);
    if (mode === 'whole') log.#closed = true;
    return log;
  }

  append(line: Buffer): void {
    this.#writing = this.#writing.then(async () => {
      if (this.#failure !== undefined) return;
      try {
        const whole = withId(line, this.#written);
        for (let done = 0; done < whole.length;) {
          const place = this.#written + done;
          done += (await this.#handle.write(whole, done, whole.length - done, place)).bytesWritten;
        }
        this.#written += whole.length;
      } catch (error) {
        // A full disk: what was written of the line is written over by the next, or cut off at the end.
        this.#failure = error;
      }
      this.#change.tell();
    });
  }

  /** Why nothing more can be written. */
  get failure(): unknown {
    return this.#failure;
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

  async *read(after: number | undefined, signal: AbortSignal): AsyncGenerator<Buffer> {
    let at = after ?? 0;
    let skip = after !== undefined;
    let size = READ_BYTES;
    if (skip) await this.#check(at);
    while (!signal.aborted) {
      if (at < this.#written) {
        const piece = Buffer.allocUnsafe(Math.min(size, this.#written - at));
        const { bytesRead } = await this.#handle.read(piece, 0, piece.length, at);
        const lines = piece.subarray(0, piece.subarray(0, bytesRead).lastIndexOf(NEWLINE) + 1);
        // A line that is longer than that: control characters grow sixfold in JSON.
        size = lines.length === 0 ? size * 2 : READ_BYTES;
        at += lines.length;
        const rest = skip ? lines.subarray(lines.indexOf(NEWLINE) + 1) : lines;
        if (lines.length > 0) skip = false;
        if (rest.length > 0) yield rest;
      } else if (this.#closed) return;
      else await this.#change.wait(signal);
    }
  }

  async release(): Promise<void> {
    await this.#writing;
    await this.#handle.close();
  }

  /** Whether an event begins there. */
  async #check(place: number): Promise<void> {
    const head = Buffer.from(`{"id":${String(place)},`);
    const found = Buffer.alloc(head.length);
    if (place < this.#written) await this.#handle.read(found, 0, found.length, place);
    if (!found.equals(head)) throw new PlaceError(`there is no event ${String(place)}`);
  }
}

/** Writes what a client sends to a new file, to the disk. */
import { constants } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { NoxError } from '../protocol/errors.ts';

const { O_CREAT, O_EXCL, O_NOFOLLOW, O_WRONLY } = constants;

export type Body = AsyncIterable<Uint8Array> | Iterable<Uint8Array>;

/** Where the bytes of a workspace are taken from, before they are written (disk.ts). */
export interface Room {
  readonly room: number;
  take(bytes: number): Promise<boolean>;
  giveBack(bytes: number): void;
}

/** So much may wait to be written; then the sender is made to wait. */
const AHEAD_BYTES = 1024 * 1024;
/** IOV_MAX of Linux (writev(2)). */
const IOV_MAX = 1024;
/** After so much the disk begins, so that little is left for it at the end. */
const SYNC_BYTES = 32 * 1024 * 1024;

/**
 * @returns how many bytes, when they are on the disk
 * @throws NoxError `workspace_full`; what the body throws
 */
export async function writeAndSync(path: Buffer, body: Body, room: Room): Promise<number> {
  const file = await open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o666);
  const writer = new Writer(file);
  let bytes = 0;
  try {
    for await (const chunk of body) {
      if (!(await room.take(chunk.length))) {
        throw new NoxError(
          'workspace_full',
          `The workspace has room for ${Math.max(0, room.room + bytes)} bytes more`,
        );
      }
      bytes += chunk.length;
      await writer.write(chunk);
    }
    await writer.sync();
    return bytes;
  } catch (error) {
    room.giveBack(bytes);
    throw error;
  } finally {
    await writer.settled();
    await file.close();
  }
}

/** The background sync of one file at a time: each keeps a thread of the few that do all work on files. */
let syncing = false;

/** Chunks that come while others are being written are written together. */
class Writer {
  readonly #file: FileHandle;
  #waiting: Uint8Array[] = [];
  #bytes = 0;
  #unsynced = 0;
  #writing: Promise<void> | undefined;
  #syncing: Promise<void> | undefined;
  #error: unknown;

  constructor(file: FileHandle) {
    this.#file = file;
  }

  /** Resolves when there is room for more. @throws what a write before it threw */
  async write(chunk: Uint8Array): Promise<void> {
    this.#waiting.push(chunk);
    this.#bytes += chunk.length;
    this.#writing ??= this.#drain();
    if (this.#bytes >= AHEAD_BYTES) await this.#writing;
    this.#check();
  }

  async sync(): Promise<void> {
    await this.settled();
    this.#check();
    await this.#file.sync();
  }

  /** Resolves when nothing is under way. */
  async settled(): Promise<void> {
    await this.#writing;
    await this.#syncing;
  }

  #check(): void {
    if (this.#error !== undefined) throw this.#error as Error;
  }

  /** Never rejects: whoever writes next, or syncs, is told. */
  async #drain(): Promise<void> {
    try {
      while (this.#waiting.length > 0 && this.#error === undefined) {
        const chunks = this.#waiting.splice(0, IOV_MAX);
        const bytes = chunks.reduce((sum, { length }) => sum + length, 0);
        this.#bytes -= bytes;
        await this.#writeAll(chunks, bytes);
        this.#unsynced += bytes;
        if (this.#unsynced >= SYNC_BYTES && !syncing) this.#syncing = this.#syncSoFar();
      }
    } catch (error) {
      this.#error ??= error;
    }
    this.#writing = undefined;
  }

  async #writeAll(chunks: Uint8Array[], bytes: number): Promise<void> {
    let { bytesWritten } = await this.#file.writev(chunks);
    if (bytesWritten === bytes) return;
    // A disk that is nearly full takes a part; the rest says why.
    const all = Buffer.concat(chunks, bytes);
    while (bytesWritten < bytes) bytesWritten += (await this.#file.write(all, bytesWritten)).bytesWritten;
  }

  async #syncSoFar(): Promise<void> {
    syncing = true;
    this.#unsynced = 0;
    try {
      await this.#file.datasync();
    } catch (error) {
      this.#error ??= error;
    }
    syncing = false;
  }
}

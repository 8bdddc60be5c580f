/** Writes what a client sends to a new file, to the disk. */
import { constants } from 'node:fs';
import { open, type FileHandle } from 'node:fs/promises';
import { NoxError } from '../protocol/errors.ts';
import { FILE_BYTES, fileShare } from '../protocol/limits.ts';

const { O_CREAT, O_EXCL, O_NOFOLLOW, O_WRONLY } = constants;

export type Body = AsyncIterable<Uint8Array> | Iterable<Uint8Array>;

/** What the share of a file is taken from, before it is written (disk.ts). */
export interface Room {
  readonly room: number;
  take(bytes: number): Promise<boolean>;
  ready(bytes: number): Promise<void>;
  takeNow(bytes: number): boolean;
  giveBack(bytes: number): void;
}

/** So much may wait to be written; then the sender is made to wait. */
const AHEAD_BYTES = 1024 * 1024;
/** IOV_MAX of Linux (writev(2)). */
const IOV_MAX = 1024;
/** After so much the disk begins, so that little is left for it at the end. */
const SYNC_BYTES = 32 * 1024 * 1024;

/** For a walk that makes the directories on its way, which have been made `ready` for. @throws NoxError `workspace_full` */
export function takeDirectory(room: Room): void {
  if (!room.takeNow(FILE_BYTES)) throw noRoom(room.room, FILE_BYTES);
}

export const noRoom = (room: number, wanted: number): NoxError =>
  new NoxError(
    'workspace_full',
    `The workspace has room for ${String(Math.max(0, room))} bytes more, not for ${String(wanted)} (a file or directory counts as ${String(FILE_BYTES)} at least)`,
  );

/**
 * Takes the share of the file (`fileShare`) as it grows.
 *
 * @returns how many bytes, when they are on the disk
 * @throws NoxError `workspace_full`; what the body throws
 */
export async function writeAndSync(path: Buffer, body: Body, room: Room): Promise<number> {
  let taken = 0;
  let bytes = 0;
  const take = async () => {
    const share = fileShare(bytes);
    if (!(await room.take(share - taken))) throw noRoom(room.room + taken, share);
    taken = share;
  };
  await take();
  const file = await open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o666);
  const writer = new Writer(file);
  try {
    for await (const chunk of body) {
      bytes += chunk.length;
      await take();
      await writer.write(chunk);
    }
    await writer.sync();
    return bytes;
  } catch (error) {
    room.giveBack(taken);
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

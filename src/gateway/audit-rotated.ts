/** The files that logrotate made of the audit file: their names, their bytes, and where the chain ends in them. */
import { constants, createReadStream } from 'node:fs';
import { open, readdir } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { createGunzip } from 'node:zlib';
import { END_BYTES, findEnd, type FileEnd, type Head } from './audit-chain.ts';

/** What logrotate makes of a name, with `dateext` or without. */
export const ROTATED = /(?:\.\d+|-\d{8}(?:-\d+)?)(?:\.gz)?$/;

/**
 * The bytes of a file, unpacked if its name ends in `.gz`.
 *
 * @throws Error for what is no regular file; the iteration throws for what cannot be unpacked
 */
export async function bytesOf(path: string): Promise<AsyncIterable<Buffer>> {
  // O_NONBLOCK: a FIFO in the file's place would hold the opening until somebody writes to it.
  const handle = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
  if (!(await handle.stat()).isFile()) {
    await handle.close();
    throw new Error(`${path} is no regular file`);
  }
  const stream = createReadStream(path, { fd: handle });
  if (!path.endsWith('.gz')) return stream;
  const unpacked = createGunzip();
  stream.on('error', (error) => unpacked.destroy(error));
  unpacked.once('close', () => stream.destroy());
  return stream.pipe(unpacked);
}

/**
 * The end of the chain in the newest rotated file that has a line of it: one of which a crash left but the beginning
 * of a line is rotated too. A file that cannot be read ends the search, and does not have what the head promises.
 */
export async function endOfRotated(path: string, head: Head | undefined): Promise<FileEnd> {
  const own = basename(path);
  const endings = (await readdir(dirname(path)))
    .filter((name) => name.startsWith(own))
    .map((name) => name.slice(own.length))
    .filter((ending) => ending.replace(ROTATED, '') === '' && ending !== '');
  for (const ending of endings.sort(newestFirst)) {
    const end = await endOf(join(dirname(path), own + ending), head).catch(() => undefined);
    if (end === undefined) break;
    if (end.last !== undefined || end.keeps !== 'older') return end;
  }
  return { last: undefined, at: 0, keeps: 'no' };
}

/** `.1` is newer than `.2`, `-20261130` newer than `-20261129`. */
function newestFirst(a: string, b: string): number {
  const order = new Intl.Collator('en', { numeric: true }).compare(a, b);
  return a.startsWith('.') || b.startsWith('.') ? order : -order;
}

async function endOf(path: string, head: Head | undefined): Promise<FileEnd> {
  const pieces: Buffer[] = [];
  let kept = 0;
  let size = 0;
  for await (const piece of await bytesOf(path)) {
    pieces.push(piece);
    kept += piece.length;
    size += piece.length;
    while (kept - (pieces[0]?.length ?? 0) >= END_BYTES) kept -= pieces.shift()?.length ?? 0;
  }
  const text = Buffer.concat(pieces);
  const start = size - text.length;
  const read = (from: number, to: number) => Promise.resolve(text.subarray(from - start, to - start));
  return findEnd({ size, read }, head);
}

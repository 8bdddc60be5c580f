/**
 * A directory as an archive, written as it is read: one entry and one piece of content are in memory, and of a zip the
 * list of its entries.
 *
 * Files, directories and links go in; a FIFO or a socket does not. A file that grows while it is read is cut where it
 * was. One that becomes shorter is shorter in the archive; only in a tar, whose sizes come before the content, a large
 * one breaks the archive off.
 */
import { closeSync, fstatSync, type BigIntStats } from 'node:fs';
import { createDeflateRaw, createGzip, crc32, type Gzip } from 'node:zlib';
import { Readable } from 'node:stream';
import { NoxError } from '../protocol/errors.ts';
import { entriesBelow, targetOf, type Entry } from './entries.ts';
import { textOf } from '../protocol/bytes.ts';
import { PIECE, piecesOf } from './pieces.ts';
import { tarHeader, tarPadding, TAR_END } from './tar.ts';
import { at, errorCode, openFile, withAccess } from './walk.ts';
import { zipCentralHeader, zipDescriptor, zipEnd, zipLocalHeader, type ZipEntry } from './zip.ts';

/** Fast, and most of the way there. */
const LEVEL = 1;
/** Bounds the memory of a zip's own list; a tar has none. */
const ZIP_ENTRIES_MAX = 200_000;

/** @param hidden names of the directory that are left out */
export async function* packTar(dir: number, hidden: (name: string) => boolean): AsyncGenerator<Uint8Array> {
  yield* through(createGzip({ level: LEVEL }), tarOf(dir, hidden));
}

async function* tarOf(dir: number, hidden: (name: string) => boolean): AsyncGenerator<Uint8Array> {
  for await (const entry of entriesBelow(dir, { recursive: true, hidden })) {
    const { stats } = entry;
    const facts = {
      name: entry.names.join('/'),
      mode: Number(stats.mode),
      mtime: Number(stats.mtimeMs) / 1000,
    };
    if (stats.isDirectory()) yield tarHeader({ ...facts, type: 'directory', size: 0 });
    else if (stats.isSymbolicLink()) {
      const target = targetOf(entry.dir, entry.name);
      if (target !== undefined) yield tarHeader({ ...facts, type: 'link', size: 0, target });
    } else {
      const file = openEntry(entry);
      if (file === undefined) continue;
      try {
        const own = { ...facts, mode: Number(file.stats.mode), type: 'file' } as const;
        const announced = Number(file.stats.size);
        // The size comes first. Of what is small it is known when it has been read.
        const whole =
          announced <= PIECE ? await bytesOfAll(piecesOf(file.fd, 0, announced, 'end')) : undefined;
        const size = whole?.length ?? announced;
        yield tarHeader({ ...own, size });
        if (whole === undefined) yield* piecesOf(file.fd, 0, size, 'fail');
        else yield whole;
        yield tarPadding(size);
      } finally {
        closeSync(file.fd);
      }
    }
  }
  yield TAR_END;
}

export async function* packZip(dir: number, hidden: (name: string) => boolean): AsyncGenerator<Uint8Array> {
  const directory: Buffer[] = [];
  let offset = 0;
  for await (const entry of entriesBelow(dir, { recursive: true, hidden })) {
    if (directory.length === ZIP_ENTRIES_MAX)
      throw new NoxError('invalid_path', `A zip takes ${String(ZIP_ENTRIES_MAX)} entries; take a tar.gz`);
    const { stats } = entry;
    const isFile = stats.isFile();
    const name = `${entry.names.join('/')}${stats.isDirectory() ? '/' : ''}`;
    const target = stats.isSymbolicLink() ? targetOf(entry.dir, entry.name) : undefined;
    if (!isFile && !stats.isDirectory() && target === undefined) continue;
    const file = isFile ? openEntry(entry) : undefined;
    if (isFile && file === undefined) continue;
    const facts: ZipEntry = {
      ...{
        name,
        mode: Number((file ?? entry).stats.mode),
        mtime: Number(stats.mtimeMs) / 1000,
        deflated: isFile,
      },
    };
    const start = offset;
    const header = zipLocalHeader(facts);
    yield header;
    offset += header.length;
    let [crc, size, packed] = [0, 0, 0];
    const counted = async function* (source: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
      for await (const piece of source) {
        crc = crc32(piece, crc);
        size += piece.length;
        yield piece;
      }
    };
    try {
      const source =
        file === undefined
          ? counted(once(Buffer.from(target ?? '', 'latin1')))
          : through(
              createDeflateRaw({ level: LEVEL }),
              counted(piecesOf(file.fd, 0, Number(file.stats.size), 'end')),
            );
      for await (const piece of source) {
        packed += piece.length;
        yield piece;
      }
    } finally {
      if (file !== undefined) closeSync(file.fd);
    }
    const descriptor = zipDescriptor({ crc, packed, size });
    yield descriptor;
    offset += packed + descriptor.length;
    directory.push(zipCentralHeader(facts, { crc, packed, size }, start));
  }
  const length = directory.reduce((sum, each) => sum + each.length, 0);
  yield* directory;
  yield zipEnd(directory.length, offset, length);
}

async function bytesOfAll(source: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const pieces: Uint8Array[] = [];
  for await (const piece of source) pieces.push(piece);
  return Buffer.concat(pieces);
}

async function* once(data: Uint8Array): AsyncGenerator<Uint8Array> {
  await Promise.resolve();
  if (data.length > 0) yield data;
}

/** @returns undefined for what is no regular file, any more */
function openEntry({ dir, name, stats, names }: Entry): { fd: number; stats: BigIntStats } | undefined {
  if (!stats.isFile()) return undefined;
  try {
    const fd = withAccess(dir, () => openFile(at(dir, name), 'read'));
    return { fd, stats: fstatSync(fd, { bigint: true }) };
  } catch (error) {
    if (['ENOENT', 'EINVAL', 'ELOOP', 'ENXIO'].includes(errorCode(error))) return undefined;
    throw new NoxError('workspace_conflict', `${textOf(names.join('/'))}: cannot be read`, { cause: error });
  }
}

/** Node's own way to feed a stream, with its end and its failures. */
async function* through(
  stream: Gzip | ReturnType<typeof createDeflateRaw>,
  source: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  const input = Readable.from(source, { objectMode: false });
  input.on('error', (error) => stream.destroy(error));
  input.pipe(stream);
  try {
    for await (const piece of stream) yield piece as Uint8Array;
  } finally {
    input.destroy();
    stream.destroy();
    // Its source has let go of the file when this is over.
    if (!input.closed) await new Promise((resolve) => input.once('close', resolve));
  }
}

/**
 * Archives from clients, each of them hostile: the libraries read the formats and never see a path of the host; what
 * they find is judged and placed by staging.ts. docs/decisions/0015-files-and-archives.md has the list.
 */
import { closeSync } from 'node:fs';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { createGunzip, crc32 } from 'node:zlib';
import { extract } from 'tar-stream';
import yauzl from 'yauzl';
import { NoxError } from '../protocol/errors.ts';
import { PATH_MAX } from '../protocol/messages.ts';
import { ENTRIES_MAX, hostile, type Facts, type Staging } from './staging.ts';

type Bytes = AsyncIterable<Uint8Array>;

/** What went wrong with the body or with the files is told as it is; what the reader complains of is the archive's. */
class Blame {
  #own: unknown;

  async *watch(body: Bytes): AsyncGenerator<Uint8Array> {
    try {
      yield* body;
    } catch (error) {
      this.#own ??= error;
      throw error;
    }
  }

  async own(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      this.#own ??= error;
      throw error;
    }
  }

  /** Of a content that turns out to be damaged it is the archive's fault; else of who writes it. */
  async file(staging: Staging, name: string, facts: Facts, content: Bytes): Promise<void> {
    const damaged: unknown[] = [];
    const watched = async function* (): AsyncGenerator<Uint8Array> {
      try {
        yield* content;
      } catch (error) {
        damaged.push(error);
        throw error;
      }
    };
    try {
      await staging.file(name, facts, watched());
    } catch (error) {
      if (damaged.length === 0) this.#own ??= error;
      throw error;
    }
  }

  of(error: unknown): unknown {
    if (this.#own !== undefined) return this.#own;
    if (error instanceof NoxError) return error;
    return hostile(error instanceof Error ? error.message : String(error));
  }
}

/** @throws NoxError `hostile_archive`, `workspace_full`; what `body` throws */
export async function unpackTar(body: Bytes, staging: Staging): Promise<void> {
  const blame = new Blame();
  const reader = extract({ filenameEncoding: 'latin1' } as object);
  const counted = async function* (): AsyncGenerator<Uint8Array> {
    for await (const piece of blame.watch(body)) {
      staging.packed += piece.length;
      yield piece;
    }
  };
  const fed = pipeline(Readable.from(counted(), { objectMode: false }), createGunzip(), reader);
  fed.catch(() => undefined);
  try {
    for await (const entry of reader) {
      await placeTarEntry(entry.header as unknown as TarHeader, entry as Bytes, staging, blame);
      entry.resume();
    }
    await fed;
  } catch (error) {
    reader.destroy();
    await fed.catch(() => undefined);
    throw blame.of(error);
  }
}

/** tar-stream's own types leave out what is missing in an archive. */
interface TarHeader {
  readonly name: string;
  readonly linkname: string | null;
  /** null: one that is not known. */
  readonly type: string | null;
  readonly mode: number;
  readonly size: number;
  readonly mtime: Date;
  readonly pax: Readonly<Record<string, string>> | null;
}

async function placeTarEntry(
  header: TarHeader,
  content: Bytes,
  staging: Staging,
  blame: Blame,
): Promise<void> {
  const { type, mode, mtime, size } = header;
  // What a pax header gives is text, everything else is bytes.
  const name = header.pax?.['path'] === undefined ? header.name : bytes(header.name);
  const target =
    header.pax?.['linkpath'] === undefined ? (header.linkname ?? '') : bytes(header.linkname ?? '');
  if (Object.keys(header.pax ?? {}).some((each) => each.startsWith('GNU.sparse')))
    throw hostile(`${name}: a sparse file, which this reader does not know`);
  const seconds = mtime.getTime() / 1000;
  const facts = { mode, mtime: Number.isFinite(seconds) ? seconds : 0 };
  if (type === 'file' || type === 'contiguous-file') await blame.file(staging, name, facts, content);
  else if (type === 'directory') await blame.own(() => staging.directory(name));
  else if (type === 'symlink') await blame.own(() => staging.link(name, target));
  else if (type === 'link') await blame.own(() => staging.hardLink(name, target));
  else throw hostile(`${name}: ${type ?? 'an entry of unknown type'}, which is no file, directory or link`);
  if (type !== 'file' && type !== 'contiguous-file' && type !== 'directory' && size > 0)
    throw hostile(`${name}: a ${type} with content`);
}

function bytes(text: string): string {
  if (text.includes('\ufffd')) throw hostile(`${JSON.stringify(text)}: a pax name that is no UTF-8`);
  return Buffer.from(text, 'utf8').toString('latin1');
}

const S_IFMT = 0o170000;
const FILE = 0o100000;
const DIRECTORY = 0o040000;
const LINK = 0o120000;
const MADE_ON_UNIX = 3;
const STORED = 0;
const DEFLATED = 8;

/**
 * @param fd of the whole archive; closed here
 * @throws as unpackTar
 */
export async function unpackZip(fd: number, staging: Staging): Promise<void> {
  const blame = new Blame();
  let zip: yauzl.ZipFile | undefined;
  try {
    zip = await openZip(fd);
    if (zip.entryCount > ENTRIES_MAX) throw hostile(`has more than ${String(ENTRIES_MAX)} entries`);
    const opened = zip;
    for await (const entry of entriesOf(opened)) await placeZipEntry(opened, entry, staging, blame);
  } catch (error) {
    throw blame.of(error);
  } finally {
    if (zip === undefined) closeSync(fd);
    else zip.close();
  }
}

function openZip(fd: number): Promise<yauzl.ZipFile> {
  const options = { lazyEntries: true, decodeStrings: false, validateEntrySizes: true, autoClose: false };
  return new Promise((resolve, reject) => {
    yauzl.fromFd(fd, options, (error, zip) => {
      if (error === null) resolve(zip);
      else reject(error);
    });
  });
}

async function* entriesOf(zip: yauzl.ZipFile): AsyncGenerator<yauzl.Entry> {
  for (;;) {
    const entry = await new Promise<yauzl.Entry | undefined>((resolve, reject) => {
      zip.removeAllListeners();
      zip.once('entry', resolve);
      zip.once('end', () => {
        resolve(undefined);
      });
      zip.once('error', reject);
      zip.readEntry();
    });
    if (entry === undefined) return;
    yield entry;
  }
}

async function placeZipEntry(
  zip: yauzl.ZipFile,
  entry: yauzl.Entry,
  staging: Staging,
  blame: Blame,
): Promise<void> {
  const name = (entry.fileName as unknown as Buffer).toString('latin1');
  const unix = entry.versionMadeBy >>> 8 === MADE_ON_UNIX ? entry.externalFileAttributes >>> 16 : 0;
  const kind = unix & S_IFMT;
  const facts = { mode: unix & 0o777 || 0o644, mtime: entry.getLastModDate().getTime() / 1000 || 0 };
  if ((entry.generalPurposeBitFlag & 1) !== 0) throw hostile(`${name}: is encrypted`);
  if (![STORED, DEFLATED].includes(entry.compressionMethod))
    throw hostile(`${name}: compressed by method ${String(entry.compressionMethod)}; take deflate or none`);
  if (name.endsWith('/') || kind === DIRECTORY) {
    await blame.own(() => staging.directory(name));
    return;
  }
  if (kind !== 0 && kind !== FILE && kind !== LINK)
    throw hostile(`${name}: is no file, directory or link (mode ${unix.toString(8)})`);
  const content = contentOf(zip, entry, name);
  if (kind === LINK) {
    if (entry.uncompressedSize > PATH_MAX) throw hostile(`${name}: a link that is too long`);
    const target: Uint8Array[] = [];
    for await (const piece of content) target.push(piece);
    await blame.own(() => staging.link(name, Buffer.concat(target).toString('latin1')));
    return;
  }
  await blame.file(staging, name, facts, content);
}

function openContent(zip: yauzl.ZipFile, entry: yauzl.Entry): Promise<Readable> {
  return new Promise((resolve, reject) => {
    zip.openReadStream(entry, (error, stream) => {
      if (error === null) resolve(stream);
      else reject(error);
    });
  });
}

/**
 * With the checksum that yauzl leaves out. Opened when it is read: a stream whose errors nobody hears yet ends the
 * program with one.
 */
async function* contentOf(zip: yauzl.ZipFile, entry: yauzl.Entry, name: string): AsyncGenerator<Uint8Array> {
  let crc = 0;
  for await (const piece of await openContent(zip, entry)) {
    crc = crc32(piece as Uint8Array, crc);
    yield piece as Uint8Array;
  }
  if (crc !== entry.crc32) throw hostile(`${name}: has a wrong checksum`);
}

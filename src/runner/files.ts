/**
 * What a client does with the files of a workspace, beside live runs that may change every name meanwhile (walk.ts).
 *
 * Two calls of clients never interleave between a look and the change that depends on it: both are in one turn of the
 * event loop. A run is not held back by that: what it changes in the instant between the two is lost, as it is when
 * two runs write one file.
 */
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  constants,
  copyFile,
  fstatSync,
  linkSync,
  mkdirSync,
  rmdirSync,
  unlinkSync,
  write as writeFd,
  fsync,
  type BigIntStats,
} from 'node:fs';
import { promisify } from 'node:util';
import { NoxError } from '../protocol/errors.ts';
import { LIST_MAX, type FileInfo, type FileList, type WatchEvent } from '../protocol/files.ts';
import { FILE_BYTES, fileShare, shareOf } from '../protocol/limits.ts';
import type { Asks, Fetched, Fetches, Sends } from '../protocol/operations.ts';
import { entriesBelow, etagOf, infoOf, isOneOf, isTemporary, settled, targetOf } from './entries.ts';
import { badPath, fileNames, showPath, treeNames } from './names.ts';
import { packTar, packZip } from './pack.ts';
import { PIECE, piecesOf } from './pieces.ts';
import { sendFile } from './send-file.ts';
import { Staging } from './staging.ts';
import { copyWithin, removeTree, usageOf } from './trees.ts';
import { inTurn } from './turns.ts';
import { unpackTar, unpackZip } from './unpack.ts';
import { changesOf } from './watch.ts';
import {
  at,
  conflict,
  errorCode,
  moveEntry,
  openDirectory,
  openFile,
  reopenFile,
  self,
  statEntry,
  Walk,
  withAccess,
  type Place,
} from './walk.ts';
import { unlinkIfPossible } from './workspace.ts';
import { noRoom, takeDirectory } from './write.ts';
import { Body } from './body.ts';
import type { WorkspaceState } from './workspace-state.ts';

const LIST_DEFAULT = 100;

type Ask<Name extends keyof Asks> = Asks[Name]['request'];
type Bytes = AsyncIterable<Uint8Array>;
interface Opened {
  readonly root: number;
  readonly walk: Walk;
}

/** What is Nox's own in the root: unfinished files, and what only stands in for the code of runs. */
export function hiddenIn({ workspace }: WorkspaceState): (name: string) => boolean {
  return (name) => isTemporary(name) || workspace.isPlaceholder(name);
}

/** @throws NoxError `invalid_path`, `file_not_found`, `workspace_conflict` from each, for what stands at its path */
export class Files {
  readonly #state: WorkspaceState;

  constructor(state: WorkspaceState) {
    this.#state = state;
  }

  stat({ path }: Ask<'stat'>): Promise<FileInfo> {
    return this.#open(path, async ({ walk }) =>
      this.#infoOf(found(path, walk.to(treeNames(path), KEEP)), path),
    );
  }

  async #infoOf({ dir, name, names }: Place, path: string): Promise<FileInfo> {
    const stats = await settled(() => statEntry(dir, name));
    if (stats === undefined) throw missing(path);
    return infoOf(names, stats, stats.isSymbolicLink() ? targetOf(dir, name) : undefined);
  }

  list({ path, recursive = false, limit = LIST_DEFAULT, after }: Ask<'list'>): Promise<FileList> {
    return this.#open(path, async ({ walk }) => {
      const { names, fd } = openListed(path, walk.to(treeNames(path)));
      try {
        const entries: FileInfo[] = [];
        let last: readonly string[] = [];
        const search = {
          ...{ recursive, piece: limit + 1, hidden: this.#hidden(names) },
          ...(after === undefined ? {} : { after: namesOfCursor(after) }),
        };
        for await (const entry of entriesBelow(fd, search)) {
          if (entries.length === Math.min(limit, LIST_MAX)) return { entries, next: cursorOf(last) };
          const target = entry.stats.isSymbolicLink() ? targetOf(entry.dir, entry.name) : undefined;
          entries.push(infoOf([...names, ...entry.names], entry.stats, target));
          last = entry.names;
        }
        return { entries, next: null };
      } finally {
        closeSync(fd);
      }
    });
  }

  #hidden(names: readonly string[]): (name: string) => boolean {
    return names.length > 0 ? () => false : hiddenIn(this.#state);
  }

  read(
    { path, range, ifRange }: Fetches['read']['request'],
    signal: AbortSignal,
  ): Promise<Fetched<Fetches['read']['answer']>> {
    return this.#open(path, async ({ walk }) => {
      const { dir, name, names, stats } = found(path, walk.to(fileNames(path)));
      if (stats.isDirectory()) throw badPath(path, 'is a directory');
      if (!stats.isFile()) throw badPath(path, 'is no regular file');
      const fd = withAccess(dir, () => openFile(at(dir, name), 'read'));
      try {
        const now = await settled(() => fstatSync(fd, { bigint: true }));
        const size = Number(now.size);
        const holds = ifRange === undefined || ifRange === etagOf(now);
        const { start, end } = holds ? cut(path, range, size) : { start: 0, end: size };
        const release = () => {
          closeSync(fd);
        };
        return {
          answer: { file: infoOf(names, now), start, end },
          body: new Body(
            piecesOf(fd, start, end, 'fail', memoryFor(end - start)),
            release,
            signal,
            (socket, framing) => sendFile({ fd, start, end }, socket, framing, signal),
          ),
        };
      } catch (error) {
        closeSync(fd);
        throw error;
      }
    });
  }

  /** The root of the watch may be moved or removed meanwhile: what is watched is the directory, not its name. */
  watch(
    { path, recursive = false }: Fetches['watch']['request'],
    signal: AbortSignal,
    ended: () => void,
  ): Promise<Fetched<Fetches['watch']['answer']>> {
    return this.#open(path, ({ walk }) => {
      const { names, fd } = openListed(path, walk.to(treeNames(path)));
      const lines = linesOf(changesOf(fd, names, recursive, this.#hidden(names), signal));
      const release = () => {
        closeSync(fd);
        ended();
      };
      return { answer: {}, body: new Body(lines, release, signal) };
    });
  }

  pack(
    { path, format }: Fetches['pack']['request'],
    signal: AbortSignal,
  ): Promise<Fetched<Fetches['pack']['answer']>> {
    return this.#open(path, ({ walk }) => {
      const { names, fd } = openListed(path, walk.to(treeNames(path)));
      const source = (format === 'zip' ? packZip : packTar)(fd, this.#hidden(names));
      const release = () => {
        closeSync(fd);
      };
      return { answer: {}, body: new Body(source, release, signal) };
    });
  }

  async unpack(
    { path, format }: Sends['unpack']['request'],
    body: Bytes,
  ): Promise<Sends['unpack']['answer']> {
    const { workspace, disk } = this.#state;
    const names = treeNames(path);
    // Before the body.
    await this.#open(
      path,
      ({ walk }) => {
        checkUnpackTarget(path, walk, names);
      },
      conflict,
    );
    let staging: Staging | undefined;
    try {
      staging = new Staging(workspace, disk);
      await this.#unpackInto(staging, path, format, body);
      const make = await this.#making(names);
      await disk.still();
      await this.#open(path, ({ walk }) => staging?.place(walk.to(names, { make })), conflict);
      const { entries, bytes } = staging;
      return { entries, bytes };
    } catch (error) {
      throw conflict(path, error);
    } finally {
      await staging?.close();
    }
  }

  #unpackInto(
    staging: Staging,
    path: string,
    format: Sends['unpack']['request']['format'],
    body: Bytes,
  ): Promise<void> {
    return format === 'zip' ? this.#unpackZip(path, body, staging) : unpackTar(body, staging);
  }

  /** What a zip has is told at its end: it is on disk before it is read. */
  async #unpackZip(path: string, body: Bytes, staging: Staging): Promise<void> {
    const { workspace, disk } = this.#state;
    const spool = `.nox-${randomBytes(12).toString('hex')}.tmp`;
    const { place, bytes } = await workspace.replace(path, [spool], body, disk);
    try {
      staging.packed = bytes;
      await unpackZip(reopenFile(place, 'read'), staging);
    } finally {
      closeSync(place);
      this.#unlinkTemporary(spool);
      disk.giveBack(fileShare(bytes));
    }
  }

  async write(request: Sends['write']['request'], body: Bytes): Promise<Sends['write']['answer']> {
    const { path, append = false } = request;
    const names = fileNames(path);
    const { workspace, disk } = this.#state;
    let created = true;
    const check = (stats: BigIntStats | undefined) => {
      created = stats === undefined;
      checkWanted(path, request, stats);
    };
    // Before the body: what is refused must not cost an upload.
    await this.#open(
      path,
      ({ walk }) => {
        check(thereNow(path, walk, names));
      },
      conflict,
    );
    const how = { mode: request.mode ?? 'keep', check, exclusive: request.exclusive === true } as const;
    if (append) return this.#append(request, names, body, check);
    const { place, names: placed } = await workspace
      .replace(path, names, body, disk, how)
      .catch((error: unknown) => {
        // link(2) has found something that came there meanwhile.
        if (how.exclusive && (error as NoxError).code === 'workspace_conflict')
          throw new NoxError('precondition_failed', `${showPath(path)}: is there already`);
        throw error;
      });
    try {
      const stats = await settled(() => fstatSync(place, { bigint: true }));
      return { ...infoOf(placed, stats), created };
    } finally {
      closeSync(place);
    }
  }

  /** The new bytes are taken whole before the first is added, so that a client that goes away adds none. */
  async #append(
    request: Sends['write']['request'],
    names: readonly string[],
    body: Bytes,
    check: (stats: BigIntStats | undefined) => void,
  ): Promise<Sends['write']['answer']> {
    const { path } = request;
    const { workspace, disk } = this.#state;
    const spool = [`.nox-${randomBytes(12).toString('hex')}.tmp`];
    const make = await this.#making(names);
    const { place, bytes } = await workspace.replace(path, spool, body, disk);
    let own: number | undefined;
    try {
      const add = async ({ root, walk }: Opened) => {
        const to = walk.to(names, { make });
        const { dir, name, stats } = to;
        check(stats);
        if (stats === undefined) {
          // link(2), so that nothing is replaced that has come there meanwhile.
          withAccess(dir, () => {
            linkSync(at(root, spool[0] ?? ''), at(dir, name));
          });
        } else {
          own = withAccess(dir, () => openFile(at(dir, name), 'append'));
          await copyBytes(place, own);
        }
        const file = own ?? place;
        const now = await settled(() => fstatSync(file, { bigint: true }));
        return { ...infoOf(to.names, now), created: stats === undefined };
      };
      return await this.#open(path, add, conflict);
    } catch (error) {
      disk.giveBack(fileShare(bytes));
      throw error;
    } finally {
      closeSync(place);
      if (own !== undefined) closeSync(own);
      this.#unlinkTemporary(spool[0] ?? '');
    }
  }

  #unlinkTemporary(name: string): void {
    const root = openDirectory(this.#state.workspace.path);
    unlinkIfPossible(at(root, name), root);
    closeSync(root);
  }

  async remove({ path, recursive = false, ifMatch }: Ask<'remove'>): Promise<object> {
    const { workspace, disk } = this.#state;
    const trash = await this.#open(path, ({ walk, root }) => {
      const { dir, name, stats } = found(path, walk.to(targetNames(path), KEEP));
      if (name === '.') throw badPath(path, 'is the workspace itself');
      checkWanted(path, { ifMatch }, stats);
      if (!stats.isDirectory()) {
        withAccess(dir, () => {
          unlinkSync(at(dir, name));
        });
        return undefined;
      }
      try {
        withAccess(dir, () => {
          rmdirSync(at(dir, name));
        });
        return undefined;
      } catch (error) {
        if (errorCode(error) !== 'ENOTEMPTY') throw error;
        if (!recursive)
          throw badPath(path, 'is a directory that is not empty; say `recursive` to remove all of it');
      }
      const aside = `.nox-${randomBytes(12).toString('hex')}.tmp`;
      moveEntry(dir, name, root, aside);
      return aside;
    });
    // All of it has gone at once; now it is taken apart.
    if (trash !== undefined) {
      await removeTree(workspace.path, trash);
      await disk.count();
    }
    return {};
  }

  async move({ from, to, overwrite = false }: Ask<'move'>): Promise<FileInfo> {
    targetNames(to);
    return this.#open(from, async ({ root, walk }) => {
      const source = found(from, walk.to(targetNames(from), KEEP));
      if (source.name === '.') throw badPath(from, 'is the workspace itself');
      return this.#withTarget(to, root, overwrite, source.stats, (target) => {
        place(source.dir, source.name, source.stats, target, overwrite, to);
        return this.#infoOf(target, to);
      });
    });
  }

  async copy({ from, to, overwrite = false }: Ask<'copy'>, signal: AbortSignal): Promise<FileInfo> {
    targetNames(to);
    return this.#open(from, async ({ root, walk }) => {
      const source = found(from, walk.to(treeNames(from)));
      const stem = `.nox-${randomBytes(12).toString('hex')}.tmp`;
      // Before anything is copied.
      await this.#withTarget(to, root, overwrite, source.stats, () => Promise.resolve());
      const { disk, workspace } = this.#state;
      try {
        if (source.stats.isFile()) await this.#copyFile(source, root, stem);
        else if (source.stats.isDirectory()) await this.#copyTree(source, stem, signal);
        else throw badPath(from, 'is no regular file and no directory');
        return await this.#withTarget(to, root, overwrite, source.stats, async (target) => {
          place(root, stem, source.stats, target, overwrite, to);
          return this.#infoOf(target, to);
        });
      } catch (error) {
        if (source.stats.isDirectory()) await removeTree(workspace.path, stem).catch(() => undefined);
        else unlinkIfPossible(at(root, stem), root);
        await disk.count();
        throw error;
      }
    });
  }

  /** By the kernel, which shares the blocks where the file system can. */
  async #copyFile({ dir, name }: Place, root: number, stem: string): Promise<void> {
    const { disk } = this.#state;
    const fd = withAccess(dir, () => openFile(at(dir, name), 'read'));
    try {
      const { size } = fstatSync(fd);
      if (!(await disk.take(fileShare(size)))) throw noRoom(disk.room, fileShare(size));
      const flags = constants.COPYFILE_EXCL | constants.COPYFILE_FICLONE;
      await promisify(copyFile)(self(fd), at(root, stem), flags);
    } finally {
      closeSync(fd);
    }
  }

  async #copyTree({ names }: Place, stem: string, signal: AbortSignal): Promise<void> {
    const { disk, workspace } = this.#state;
    const below = names.join('/');
    const share = shareOf(await inTurn(() => usageOf(workspace.path, below)));
    if (!(await disk.take(share))) throw noRoom(disk.room, share);
    await copyWithin(workspace.path, below, stem, disk.room + share, signal);
    await disk.count();
  }

  async makeDirectory({ path, parents = false }: Ask<'makeDirectory'>): Promise<FileInfo> {
    const names = targetNames(path);
    const make = await this.#making(names);
    return this.#open(path, ({ walk }) => {
      const target = walk.to(names, parents ? { make } : {});
      const { dir, name, stats } = target;
      if (stats !== undefined && !(parents && stats.isDirectory())) throw exists(path);
      if (stats === undefined) {
        make();
        try {
          withAccess(dir, () => {
            mkdirSync(at(dir, name));
          });
        } catch (error) {
          if (errorCode(error) === 'EEXIST') throw exists(path);
          throw error;
        }
      }
      return this.#infoOf(target, path);
    });
  }

  /** For a walk that makes the directories on its way, each of which takes its room. */
  async #making(names: readonly string[]): Promise<() => void> {
    const { disk } = this.#state;
    await disk.ready(names.length * FILE_BYTES);
    return () => {
      takeDirectory(disk);
    };
  }

  /** Where something is to be put that is there already. */
  async #withTarget<T>(
    to: string,
    root: number,
    overwrite: boolean,
    source: BigIntStats,
    action: (target: Place) => Promise<T>,
  ): Promise<T> {
    const { workspace } = this.#state;
    const walk = new Walk(workspace.shown, root, to);
    try {
      const names = targetNames(to);
      const make = await this.#making(names);
      await this.#state.disk.still();
      const target = walk.to(names, { keepLink: true, make });
      const { stats, name } = target;
      if (name === '.') throw badPath(to, 'is the workspace itself');
      if (stats !== undefined && !overwrite) throw exists(to);
      if (stats?.isDirectory() === true || (stats !== undefined && source.isDirectory()))
        throw new NoxError('already_exists', `${showPath(to)}: a directory neither replaces nor is replaced`);
      if (workspace.isHeld(target.names))
        throw new NoxError('workspace_conflict', `${showPath(to)}: a live run executes this file`);
      return await action(target);
    } catch (error) {
      throw explain(to, error);
    } finally {
      walk.close();
    }
  }

  /** @param explained what an error is for the client; `conflict` where all that is missing is made */
  async #open<T>(
    path: string,
    action: (opened: Opened) => Promise<T> | T,
    explained: (path: string, error: unknown) => unknown = explain,
  ): Promise<T> {
    const { workspace, placeholder } = this.#state;
    placeholder.remove();
    workspace.prepare();
    const root = openDirectory(workspace.path);
    const walk = new Walk(workspace.shown, root, path);
    try {
      return await action({ root, walk });
    } catch (error) {
      throw explained(path, error);
    } finally {
      walk.close();
      closeSync(root);
    }
  }
}

/** Of a file or a directory; `dir/` is the directory. */
const targetNames = (path: string): string[] => fileNames(path.replace(/\/+$/, ''));

const KEEP = { keepLink: true } as const;

function explain(path: string, error: unknown): unknown {
  if (error instanceof NoxError) return error;
  if (errorCode(error) === 'ENOENT') return missing(path);
  if (errorCode(error) === 'EEXIST') return exists(path);
  // rename(2): into itself.
  if (errorCode(error) === 'EINVAL') return badPath(path, 'cannot be done with what stands there');
  return conflict(path, error);
}

const missing = (path: string) => new NoxError('file_not_found', `${showPath(path)}: there is no such file`);
const exists = (path: string) => new NoxError('already_exists', `${showPath(path)}: is there already`);

function found(path: string, place: Place): Place & { readonly stats: BigIntStats } {
  const { stats } = place;
  if (stats === undefined) throw missing(path);
  return { ...place, stats };
}

function openListed(path: string, place: Place): { names: readonly string[]; fd: number } {
  const { dir, name, names, stats } = found(path, place);
  if (!stats.isDirectory()) throw badPath(path, 'is no directory');
  return { names, fd: withAccess(dir, () => openDirectory(at(dir, name))) };
}

/** What a file would replace. */
function thereNow(path: string, walk: Walk, names: readonly string[]): BigIntStats | undefined {
  try {
    const { stats, name } = walk.to(names);
    if (name === '.' || stats?.isDirectory() === true) throw badPath(path, 'is a directory');
    return stats;
  } catch (error) {
    // Its directory is to be made.
    if (errorCode(error) === 'file_not_found') return undefined;
    throw error;
  }
}

function checkUnpackTarget(path: string, walk: Walk, names: readonly string[]): void {
  try {
    const { stats } = walk.to(names);
    if (stats !== undefined && !stats.isDirectory()) throw exists(path);
  } catch (error) {
    if (errorCode(error) !== 'file_not_found') throw error;
  }
}

/** @throws NoxError `precondition_failed` */
function checkWanted(
  path: string,
  { ifMatch, exclusive }: { ifMatch?: readonly string[] | undefined; exclusive?: boolean },
  stats: BigIntStats | undefined,
): void {
  if (exclusive === true && stats !== undefined)
    throw new NoxError('precondition_failed', `${showPath(path)}: is there already`);
  if (ifMatch === undefined || (stats !== undefined && isOneOf(stats, ifMatch))) return;
  const now = stats === undefined ? 'is not there' : `has now the ETag ${etagOf(stats)}`;
  throw new NoxError('precondition_failed', `${showPath(path)}: ${now}`);
}

/** Moves an entry to where, a moment ago, nothing stood, or to where something is to be replaced. */
function place(
  fromDir: number,
  fromName: string,
  stats: BigIntStats,
  { dir, name }: Place,
  overwrite: boolean,
  to: string,
): void {
  if (overwrite || stats.isDirectory()) {
    // Of what may have come there meanwhile, a directory's rename(2) replaces no more than an empty directory.
    moveEntry(fromDir, fromName, dir, name);
    return;
  }
  try {
    withAccess(dir, () => {
      withAccess(fromDir, () => {
        linkSync(at(fromDir, fromName), at(dir, name));
      });
    });
  } catch (error) {
    if (errorCode(error) === 'EEXIST') throw exists(to);
    throw error;
  }
  withAccess(fromDir, () => {
    unlinkSync(at(fromDir, fromName));
  });
}

/** @throws NoxError `range_not_satisfiable` */
function cut(
  path: string,
  range: Fetches['read']['request']['range'],
  size: number,
): { start: number; end: number } {
  if (range === undefined) return { start: 0, end: size };
  if ('last' in range) {
    if (range.last > 0 && size > 0) return { start: Math.max(0, size - range.last), end: size };
  } else if (range.first < size && range.first <= (range.to ?? Infinity)) {
    return { start: range.first, end: Math.min(size, (range.to ?? Infinity) + 1) };
  }
  throw new NoxError('range_not_satisfiable', `${showPath(path)}: the file has ${String(size)} bytes`);
}

const write = promisify(writeFd);
const memoryFor = (bytes: number): Buffer => Buffer.allocUnsafeSlow(Math.min(PIECE, bytes));

/** From the start of one file to the end of another. */
async function copyBytes(from: number, to: number): Promise<void> {
  const source = reopenFile(from, 'read');
  try {
    const { size } = fstatSync(source);
    for await (const piece of piecesOf(source, 0, size, 'fail', memoryFor(size)))
      for (let done = 0; done < piece.length;) done += (await write(to, piece, done)).bytesWritten;
    await promisify(fsync)(to);
  } finally {
    closeSync(source);
  }
}

async function* linesOf(events: AsyncIterable<WatchEvent>): AsyncGenerator<Uint8Array> {
  for await (const event of events) yield Buffer.from(`${JSON.stringify(event)}\n`);
}

const cursorOf = (names: readonly string[]): string =>
  Buffer.from(names.join('/'), 'latin1').toString('base64url');
const namesOfCursor = (cursor: string): string[] =>
  Buffer.from(cursor, 'base64url')
    .toString('latin1')
    .split('/')
    .filter((name) => name !== '');

/**
 * What a client does with the files of a workspace, beside live runs that may change every name meanwhile (walk.ts).
 *
 * Two calls of clients never interleave between a look and the change that depends on it: both are in one turn of the
 * event loop, or, where that takes longer (an append) or would be lost, one by one (workspace.ts). A run is not held back by that: what it changes in the instant between the two is lost, as it is when
 * two runs write one file.
 */
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  constants,
  copyFile,
  fstatSync,
  fsync,
  ftruncateSync,
  linkSync,
  mkdirSync,
  rmdirSync,
  unlinkSync,
  write as writeFd,
  type BigIntStats,
} from 'node:fs';
import { promisify } from 'node:util';
import { NoxError } from '../protocol/errors.ts';
import type { FileInfo } from '../protocol/files.ts';
import { FILE_BYTES, fileShare, shareOf } from '../protocol/limits.ts';
import type { Asks, Sends } from '../protocol/operations.ts';
import { etagOf, infoOf, isOneOf, settled } from './entries.ts';
import { badPath, fileNames, showPath, treeNames } from './names.ts';
import { exists, explain, found, infoAt, KEEP, targetNames, withOpened, type Opened } from './opened.ts';
import { memoryFor, piecesOf } from './pieces.ts';
import { ReadFiles } from './read-files.ts';
import { Staging } from './staging.ts';
import { copyWithin, removeTree, usageOf } from './trees.ts';
import { inTurn } from './turns.ts';
import { unpackTar, unpackZip } from './unpack.ts';
import {
  at,
  conflict,
  errorCode,
  moveEntry,
  openDirectory,
  openFile,
  reopenFile,
  self,
  Walk,
  withAccess,
  type Place,
} from './walk.ts';
import { unlinkIfPossible } from './workspace.ts';
import { noRoom, takeDirectory } from './write.ts';

type Ask<Name extends keyof Asks> = Asks[Name]['request'];
type Bytes = AsyncIterable<Uint8Array>;
/** All of it: what is read (read-files.ts), and what is changed. */
export class Files extends ReadFiles {
  async unpack(
    { path, format }: Sends['unpack']['request'],
    body: Bytes,
  ): Promise<Sends['unpack']['answer']> {
    const { workspace, disk } = this.state;
    const names = treeNames(path);
    // Before the body.
    await withOpened(
      this.state,
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
      const placed = staging;
      const take = ({ walk }: Opened) => placed.place(walk.to(names, { make }));
      await workspace.oneByOne(() => withOpened(this.state, path, take, conflict));
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
    const { workspace, disk } = this.state;
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
    const { workspace, disk } = this.state;
    let created = true;
    const check = (stats: BigIntStats | undefined) => {
      created = stats === undefined;
      checkWanted(path, request, stats);
    };
    // Before the body: what is refused must not cost an upload.
    await withOpened(
      this.state,
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
    const { workspace, disk } = this.state;
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
          await addBytes(place, own);
        }
        const file = own ?? place;
        const now = await settled(() => fstatSync(file, { bigint: true }));
        return { ...infoOf(to.names, now), created: stats === undefined };
      };
      return await workspace.oneByOne(() => withOpened(this.state, path, add, conflict));
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
    const root = openDirectory(this.state.workspace.path);
    unlinkIfPossible(at(root, name), root);
    closeSync(root);
  }

  async remove({ path, recursive = false, ifMatch }: Ask<'remove'>): Promise<object> {
    const { workspace, disk } = this.state;
    const take = ({ walk, root }: Opened) => {
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
    };
    const trash = await workspace.oneByOne(() => withOpened(this.state, path, take));
    // All of it has gone at once; now it is taken apart.
    if (trash !== undefined) {
      await removeTree(workspace.path, trash);
      await disk.count();
    }
    return {};
  }

  async move({ from, to, overwrite = false }: Ask<'move'>): Promise<FileInfo> {
    targetNames(to);
    return withOpened(this.state, from, async ({ root, walk }) => {
      const source = found(from, walk.to(targetNames(from), KEEP));
      if (source.name === '.') throw badPath(from, 'is the workspace itself');
      return this.#withTarget(to, root, overwrite, source.stats, (target) => {
        place(source.dir, source.name, source.stats, target, overwrite, to);
        return infoAt(target, to);
      });
    });
  }

  async copy({ from, to, overwrite = false }: Ask<'copy'>, signal: AbortSignal): Promise<FileInfo> {
    targetNames(to);
    return withOpened(this.state, from, async ({ root, walk }) => {
      const source = found(from, walk.to(treeNames(from)));
      const stem = `.nox-${randomBytes(12).toString('hex')}.tmp`;
      // Before anything is copied.
      await this.#withTarget(to, root, overwrite, source.stats, () => Promise.resolve());
      const { disk, workspace } = this.state;
      try {
        if (source.stats.isFile()) await this.#copyFile(source, root, stem);
        else if (source.stats.isDirectory()) await this.#copyTree(source, stem, signal);
        else throw badPath(from, 'is no regular file and no directory');
        return await this.#withTarget(to, root, overwrite, source.stats, async (target) => {
          place(root, stem, source.stats, target, overwrite, to);
          return infoAt(target, to);
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
    const { disk } = this.state;
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
    const { disk, workspace } = this.state;
    const below = names.join('/');
    const share = shareOf(await inTurn(() => usageOf(workspace.path, below)));
    if (!(await disk.take(share))) throw noRoom(disk.room, share);
    await copyWithin(workspace.path, below, stem, disk.room + share, signal);
    await disk.count();
  }

  async makeDirectory({ path, parents = false }: Ask<'makeDirectory'>): Promise<FileInfo> {
    const names = targetNames(path);
    const make = await this.#making(names);
    return withOpened(this.state, path, ({ walk }) => {
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
      return infoAt(target, path);
    });
  }

  /** For a walk that makes the directories on its way, each of which takes its room. */
  async #making(names: readonly string[]): Promise<() => void> {
    const { disk } = this.state;
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
    const { workspace } = this.state;
    const walk = new Walk(workspace.shown, root, to);
    try {
      const names = targetNames(to);
      const make = await this.#making(names);
      await this.state.disk.still();
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

const write = promisify(writeFd);

/** The bytes of one file to the end of another: all or none. */
async function addBytes(from: number, to: number): Promise<void> {
  const source = reopenFile(from, 'read');
  const before = fstatSync(to).size;
  let added = 0;
  try {
    const { size } = fstatSync(source);
    for await (const piece of piecesOf(source, 0, size, 'fail', memoryFor(size)))
      for (let done = 0; done < piece.length;) {
        const { bytesWritten } = await write(to, piece, done);
        done += bytesWritten;
        added += bytesWritten;
      }
    await promisify(fsync)(to);
  } catch (error) {
    // What a run has added meanwhile is not ours to cut.
    if (fstatSync(to).size === before + added) ftruncateSync(to, before);
    throw error;
  } finally {
    closeSync(source);
  }
}

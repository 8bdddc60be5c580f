/**
 * Where the entries of an archive are put before any of them takes its place: a directory of the workspace with a name
 * of Nox's own. Runs can reach it, so every step is from descriptor to descriptor, and no link is followed.
 *
 * What takes its place: where the target does not exist, all of it with one rename(2); else entry by entry, after it is
 * known that nothing is in the way, each with a rename of its own. A directory that is there stays, with what it has.
 */
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  constants,
  fchmodSync,
  futimesSync,
  linkSync,
  mkdirSync,
  openSync,
  renameSync,
  symlinkSync,
  write as writeFd,
} from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import { promisify } from 'node:util';
import { NoxError } from '../protocol/errors.ts';
import { FILE_BYTES, shareOf } from '../protocol/limits.ts';
import { NAME_MAX, PATH_MAX } from '../protocol/messages.ts';
import { removeTree } from './trees.ts';
import { DEPTH_MAX, entriesBelow } from './entries.ts';
import { textOf } from '../protocol/bytes.ts';
import { at, errorCode, openDirectory, statEntry, withAccess, type Place } from './walk.ts';
import type { Workspace } from './workspace.ts';
import type { DiskWatch } from './disk.ts';

export const ENTRIES_MAX = 100_000;
/** An archive may unpack to so many times its own size, once it is beyond what is harmless anyway. */
const RATIO_MAX = 200;
const RATIO_FROM = 64 * 1024 * 1024;
/** What an entry takes on disk beside its content, about. */
const ENTRY_BYTES = 4096;
const { O_CREAT, O_EXCL, O_NOFOLLOW, O_WRONLY } = constants;
const write = promisify(writeFd);

export const hostile = (why: string): NoxError => new NoxError('hostile_archive', `archive: ${why}`);
const shown = (name: string): string => JSON.stringify(textOf(name.slice(0, 200)));

export interface Facts {
  readonly mode: number;
  /** In seconds. */
  readonly mtime: number;
}

export class Staging {
  readonly #workspace: Workspace;
  readonly #disk: DiskWatch;
  /** Its name in the workspace's root. */
  readonly #name = `.nox-${randomBytes(12).toString('hex')}.tmp`;
  readonly #root: number;
  readonly #top: number;
  /** The directory of the last entry: the next is likely to be in it. */
  #last: { path: string; fd: number } | undefined;
  #placed = false;
  /** Directories that were made for the path of an entry, and are none themselves. */
  #between = 0;
  /** Of the limit. */
  #taken = 0;
  entries = 0;
  bytes = 0;
  /** Of the archive, so far. */
  packed = 0;

  constructor(workspace: Workspace, disk: DiskWatch) {
    this.#workspace = workspace;
    this.#disk = disk;
    workspace.prepare();
    this.#root = openDirectory(workspace.path);
    try {
      mkdirSync(at(this.#root, this.#name), { mode: 0o700 });
      this.#top = openDirectory(at(this.#root, this.#name));
    } catch (error) {
      closeSync(this.#root);
      throw error;
    }
  }

  async directory(name: string): Promise<void> {
    const names = await this.#count(name);
    if (names.length === 0) return;
    await this.#enter(names, name);
    // It has been counted as an entry.
    this.#between -= 1;
  }

  async file(name: string, { mode, mtime }: Facts, body: AsyncIterable<Uint8Array>): Promise<void> {
    const { dir, last } = await this.#placeOf(name);
    let fd: number;
    try {
      fd = openSync(at(dir, last), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
    } catch (error) {
      throw explain(name, error);
    }
    try {
      for await (const piece of body) {
        await this.#take(piece.length);
        for (let done = 0; done < piece.length;) done += (await write(fd, piece, done)).bytesWritten;
      }
      fchmodSync(fd, (mode & 0o777) | 0o600);
      futimesSync(fd, mtime, mtime);
    } finally {
      closeSync(fd);
    }
  }

  /** One that leads out of the archive is refused, as it would lead nowhere good in any workspace. */
  async link(name: string, target: string): Promise<void> {
    const { dir, last, names } = await this.#placeOf(name);
    if (target === '' || target.includes('\0') || target.length > PATH_MAX)
      throw hostile(`${shown(name)}: a link to ${shown(target)}`);
    let depth = names.length - 1;
    for (const each of target.split('/')) {
      if (each === '..') depth -= 1;
      else if (each !== '' && each !== '.') depth += 1;
      if (depth < 0) break;
    }
    if (depth < 0 || target.startsWith('/'))
      throw hostile(`${shown(name)}: a link that leaves the archive, to ${shown(target)}`);
    try {
      symlinkSync(Buffer.from(target, 'latin1'), at(dir, last));
    } catch (error) {
      throw explain(name, error);
    }
  }

  /** To a file that has come before. */
  async hardLink(name: string, target: string): Promise<void> {
    const { dir, last } = await this.#placeOf(name);
    const own = openDirectory(at(dir, '.'));
    try {
      const source = await this.#placeOf(target);
      if (statEntry(source.dir, source.last)?.isFile() !== true)
        throw hostile(
          `${shown(name)}: a hard link to ${shown(target)}, which is no file of the archive before it`,
        );
      linkSync(at(source.dir, source.last), at(own, last));
    } catch (error) {
      throw explain(name, error);
    } finally {
      closeSync(own);
    }
  }

  /**
   * Puts everything in its place.
   *
   * @param target of which the directory is, or is to be, the root of the entries
   * @throws NoxError `already_exists`, with nothing moved, where a file and a directory are in each other's way
   */
  async place({ dir, name, names, stats }: Place): Promise<void> {
    this.#forget();
    if (stats === undefined) {
      const rename = () => {
        renameSync(at(this.#root, this.#name), at(dir, name));
      };
      withAccess(dir, rename);
      this.#placed = true;
      return;
    }
    if (!stats.isDirectory()) throw inTheWay(names);
    const into = openDirectory(at(dir, name));
    try {
      await this.#merge(this.#top, into, names, false);
      await this.#merge(this.#top, into, names, true);
    } finally {
      closeSync(into);
    }
  }

  /** Ends it; what has not taken its place is removed. */
  async close(): Promise<void> {
    this.#forget();
    closeSync(this.#top);
    closeSync(this.#root);
    if (this.#placed) return;
    // What a live run keeps changing is left to the next start.
    await removeTree(this.#workspace.path, this.#name).catch(() => undefined);
    await this.#disk.count();
  }

  async #merge(from: number, into: number, names: readonly string[], move: boolean): Promise<void> {
    let done = 0;
    for await (const { name, stats } of entriesBelow(from, { recursive: false })) {
      const there = statEntry(into, name);
      const path = [...names, name];
      done += 1;
      if (done % 256 === 0) await setImmediate();
      if (stats.isDirectory() && there?.isDirectory() === true) {
        const [below, belowInto] = [openDirectory(at(from, name)), openDirectory(at(into, name))];
        try {
          await this.#merge(below, belowInto, path, move);
        } finally {
          closeSync(below);
          closeSync(belowInto);
        }
      } else {
        if (there !== undefined && (stats.isDirectory() || there.isDirectory())) throw inTheWay(path);
        if (this.#workspace.isHeld(path))
          throw new NoxError('workspace_conflict', `${shown(path.join('/'))}: a live run executes this file`);
        if (move)
          withAccess(into, () => {
            renameSync(at(from, name), at(into, name));
          });
      }
    }
  }

  async #placeOf(name: string): Promise<{ dir: number; last: string; names: readonly string[] }> {
    const names = await this.#count(name);
    const last = names.at(-1);
    if (last === undefined) throw hostile(`${shown(name)}: names no file`);
    return { dir: await this.#enter(names.slice(0, -1), name), last, names };
  }

  /** Every entry has its price, also one without content. */
  async #count(name: string): Promise<string[]> {
    this.entries += 1;
    if (this.entries > ENTRIES_MAX) throw hostile(`has more than ${String(ENTRIES_MAX)} entries`);
    await this.#take(ENTRY_BYTES);
    if (name.startsWith('/')) throw hostile(`${shown(name)}: an absolute name`);
    if (name.includes('\0')) throw hostile(`${shown(name)}: a name with NUL`);
    const names = name.split('/').filter((each) => each !== '' && each !== '.');
    if (names.includes('..')) throw hostile(`${shown(name)}: a name with \`..\``);
    if (name.length > PATH_MAX || names.some((each) => each.length > NAME_MAX))
      throw hostile(`${shown(name)}: a name that is too long`);
    if (names.length > DEPTH_MAX)
      throw hostile(`${shown(name)}: deeper than ${String(DEPTH_MAX)} directories`);
    return names;
  }

  async #take(bytes: number): Promise<void> {
    this.bytes += bytes;
    const share = shareOf({ bytes: this.bytes, entries: this.entries + this.#between });
    if (!(await this.#disk.take(share - this.#taken)))
      throw new NoxError(
        'workspace_full',
        `archive: the workspace has room for ${String(Math.max(0, this.#disk.room + this.#taken))} bytes (a file or directory counts as ${String(FILE_BYTES)} at least)`,
      );
    this.#taken = share;
    if (this.bytes > RATIO_FROM && this.bytes > RATIO_MAX * this.packed)
      throw hostile(`unpacks to more than ${String(RATIO_MAX)} times its size`);
  }

  async #enter(names: readonly string[], name: string): Promise<number> {
    const path = names.join('/');
    if (this.#last?.path === path) return this.#last.fd;
    this.#forget();
    let fd = openDirectory(at(this.#top, '.'));
    for (const each of names) {
      try {
        if (statEntry(fd, each) === undefined) {
          mkdirSync(at(fd, each));
          this.#between += 1;
        }
        const next = openDirectory(at(fd, each));
        closeSync(fd);
        fd = next;
      } catch (error) {
        closeSync(fd);
        throw explain(name, error);
      }
    }
    this.#last = { path, fd };
    await this.#take(0);
    return fd;
  }

  #forget(): void {
    if (this.#last !== undefined) closeSync(this.#last.fd);
    this.#last = undefined;
  }
}

function inTheWay(names: readonly string[]): NoxError {
  return new NoxError(
    'already_exists',
    `${shown(names.join('/'))}: a file and a directory are in each other's way`,
  );
}

function explain(name: string, error: unknown): unknown {
  if (errorCode(error) === 'EEXIST') return hostile(`${shown(name)}: comes twice`);
  if (['ENOTDIR', 'ELOOP'].includes(errorCode(error)))
    return hostile(`${shown(name)}: goes through what is no directory`);
  return error;
}

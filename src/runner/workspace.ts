/**
 * How files take their places in a workspace, without races: a run can swap any name for a link at any moment, so
 * nothing is checked by name and then opened by name (walk.ts).
 *
 * Names are handled by synchronous calls (microseconds each, and a request needs a dozen), data by asynchronous ones.
 */
import { randomBytes } from 'node:crypto';
import {
  chmodSync,
  closeSync,
  constants,
  fstatSync,
  fsync,
  fsyncSync,
  ftruncateSync,
  futimesSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  renameSync,
  unlinkSync,
  writeFileSync,
  writeSync,
  type BigIntStats,
} from 'node:fs';
import { join, relative } from 'node:path';
import { promisify } from 'node:util';
import { NoxError } from '../protocol/errors.ts';
import { FILE_BYTES, fileShare } from '../protocol/limits.ts';
import { PATH_MAX } from '../protocol/messages.ts';
import { bytesOf, textOf } from '../protocol/bytes.ts';
import { badPath, fileNames } from './names.ts';
import {
  at,
  conflict,
  errorCode,
  openDirectory,
  openFile,
  openPlace,
  self,
  Walk,
  withAccess,
} from './walk.ts';
import { takeDirectory, writeAndSync, type Body, type Room } from './write.ts';

const { O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_WRONLY } = constants;
const TEMPORARY = /^\.nox-[0-9a-f]{24}\.tmp$/;
/** Holds the path over whose content the temporary file of the same number is being copied. */
const REDO = /^\.nox-[0-9a-f]{24}\.redo$/;
/** No file of anybody was changed at 1970-01-01T00:12:19Z. It marks a placeholder of ours. */
const PLACEHOLDER_TIME = 739;
const CLAIM_TRIES = 32;
const COPY_PIECE = 1024 * 1024;

/**
 * Splits a path of the four calls into names, as text: half of a surrogate pair is U+FFFD there.
 *
 * @throws NoxError `invalid_path` for an empty or over-long path, NUL, `..`, or a path that names a directory
 */
export function pathNames(path: string): string[] {
  return fileNames(path.toWellFormed()).map(textOf);
}

/** How a file takes its place. */
export interface Replacing {
  /** Permissions; `keep`: those of the file that is replaced. Without either, what the umask leaves. */
  readonly mode?: number | 'keep' | undefined;
  /** Is given what stands there, at the last moment; throws where that must not be replaced. */
  readonly check?: (there: BigIntStats | undefined) => void;
  /** Only where nothing stands. */
  readonly exclusive?: boolean;
}

export interface Written {
  /** From the root, without links. */
  readonly names: readonly string[];
  readonly bytes: number;
  /** The file itself, to be asked about and then closed. */
  readonly place: number;
}

export class Workspace {
  readonly path: string;
  /** Where its runs see it; what is told of it, and where absolute links lead, is below this path. */
  readonly shown: string;
  /** How many live runs have their code mounted on each file. */
  readonly #claims = new Map<string, number>();
  /** The last of the changes that are made one after the other. */
  #changing: Promise<unknown> = Promise.resolve();
  /** The claimed names, all in the workspace's root. */
  readonly #placeholders = new Set<string>();

  constructor(path: string, shown = path) {
    this.path = path;
    this.shown = shown;
  }

  /**
   * Makes the workspace usable again, whatever the last run did to its mode, and creates it if it is missing. Its
   * own name cannot have been touched by a run: its parent is not in the sandbox.
   */
  prepare(): void {
    const stats = lstatSync(this.path, { throwIfNoEntry: false });
    if (stats === undefined) mkdirSync(this.path, { recursive: true, mode: 0o755 });
    else if (!stats.isDirectory()) throw new Error(`workspace ${this.path} is not a directory`);
    else if ((stats.mode & 0o700) !== 0o700) chmodSync(this.path, (stats.mode & 0o777) | 0o700);
  }

  /**
   * After a crash: finishes what was half copied, removes unfinished uploads and placeholders of a runner that is
   * gone. Call with no run alive. Runs can make entries of these names, of every kind: none may hold up the start.
   *
   * @returns directories of such names, which are left to be removed
   */
  sweep(): string[] {
    return this.#withRoot((root) => {
      const names = readdirSync(self(root), 'latin1');
      for (const name of names.filter((each) => REDO.test(each))) this.#redo(root, name);
      for (const name of names.filter((each) => TEMPORARY.test(each))) unlinkIfPossible(at(root, name));
      for (const name of names) removePlaceholder(root, name);
      return readdirSync(self(root), 'latin1').filter((each) => TEMPORARY.test(each));
    });
  }

  /**
   * Writes a file from a stream: to a temporary name, synced, then renamed over `path`. Where runs are alive whose
   * code is mounted on that file, its content is replaced instead: a rename would take their code away from them
   * (the kernel drops what is mounted on a name that another file takes).
   *
   * @param room what its share is taken from; more than it has is `workspace_full`
   * @throws NoxError `invalid_path`, `workspace_full`, `workspace_conflict`; what `body` throws; the errors of a
   *   machine that is full or broken
   */
  async write(path: string, body: Body, room: Room): Promise<{ saved: string; bytes: number }> {
    const names = pathNames(path).map(bytesOf);
    const written = await this.replace(path, names, body, room);
    closeSync(written.place);
    return { saved: join(this.shown, ...written.names.map(textOf)), bytes: written.bytes };
  }

  /**
   * The same, for names as bytes.
   *
   * @param path for messages
   */
  async replace(
    path: string,
    names: readonly string[],
    body: Body,
    room: Room,
    how: Replacing = {},
  ): Promise<Written> {
    this.prepare();
    const root = openDirectory(this.path);
    const number = randomBytes(12).toString('hex');
    const temporary = at(root, `.nox-${number}.tmp`);
    const walk = new Walk(this.shown, root, path);
    try {
      const bytes = await writeAndSync(temporary, body, room);
      try {
        const put = () => this.#putInPlace(root, walk, path, names, `.nox-${number}`, room, how);
        return { ...(await this.oneByOne(put)), bytes };
      } catch (error) {
        room.giveBack(fileShare(bytes));
        throw conflict(path, error);
      }
    } catch (error) {
      unlinkIfPossible(temporary, root);
      throw error;
    } finally {
      walk.close();
      closeSync(root);
    }
  }

  async #putInPlace(
    root: number,
    walk: Walk,
    path: string,
    names: readonly string[],
    stem: string,
    room: Room,
    how: Replacing,
  ): Promise<{ names: readonly string[]; place: number }> {
    await room.ready(names.length * FILE_BYTES);
    const make = () => {
      takeDirectory(room);
    };
    const place = walk.to(names, { make });
    const { dir, name, stats } = place;
    if (name === '.' || stats?.isDirectory() === true) throw badPath(path, 'is a directory');
    how.check?.(stats);
    const temporary = at(root, `${stem}.tmp`);
    let file = openPlace(temporary);
    try {
      const mode = how.mode !== 'keep' ? how.mode : stats?.isFile() === true ? Number(stats.mode) : undefined;
      if (mode !== undefined) chmodSync(self(file), mode & 0o777);
      if (how.exclusive === true) {
        withAccess(dir, () => {
          linkSync(temporary, at(dir, name));
        });
        unlinkIfPossible(temporary, root);
        await syncDirectory(dir);
      } else if (this.isHeld(place.names)) {
        const saved = join(this.shown, ...place.names.map(textOf));
        withAccess(dir, () => {
          replaceContent(at(dir, name), temporary, at(root, `${stem}.redo`), saved);
        });
        closeSync(file);
        file = openPlace(at(dir, name));
      } else {
        withAccess(dir, () => {
          renameSync(temporary, at(dir, name));
        });
        await syncDirectory(dir);
      }
      return { names: place.names, place: file };
    } catch (error) {
      closeSync(file);
      throw error;
    }
  }

  /** What looks at a file, and then changes it over more than one turn of the event loop, or would be lost with it. */
  oneByOne<T>(change: () => Promise<T> | T): Promise<T> {
    const done = this.#changing.then(change);
    this.#changing = done.catch(() => undefined);
    return done;
  }

  /** Whether a run is alive whose code is mounted there. */
  isHeld(names: readonly string[]): boolean {
    return this.#claims.has(names.map(textOf).join('/'));
  }

  /** Whether it is an empty file that only stands in for the code of runs. */
  isPlaceholder(name: string): boolean {
    // Where a client's own file has the name the code is mounted on that.
    if (!this.#placeholders.has(name)) return false;
    try {
      return isPlaceholder(Buffer.from(join(this.path, name)));
    } catch {
      // A run has closed the workspace to us; it holds what it held.
      return true;
    }
  }

  /**
   * Sees to it that a regular file stands at `name` in the workspace's root, for a run's code to be mounted on.
   * Where there is none an empty one is made, and removed by the last `release`; where something else has the
   * name, another name is taken.
   *
   * @returns the name that was taken
   */
  claim(name: string): string {
    return this.#withRoot((root) => {
      for (let attempt = 0; attempt < CLAIM_TRIES; attempt += 1) {
        // A run may have taken the names that are easy to guess.
        const suffix = attempt < CLAIM_TRIES / 2 ? String(attempt) : randomBytes(8).toString('hex');
        const candidate = attempt === 0 ? name : name.replace(/(\.[^.]*)?$/, `-${suffix}$1`);
        if (!standsAsFile(root, candidate)) continue;
        this.#placeholders.add(candidate);
        this.hold(candidate);
        return candidate;
      }
      throw new NoxError('workspace_conflict', `No free name like ${name} in the workspace`);
    });
  }

  /** Counts a run whose code is mounted on a file that stands at `name`, a path in the workspace. */
  hold(name: string): void {
    this.#claims.set(name, (this.#claims.get(name) ?? 0) + 1);
  }

  /** Ends a `claim` or a `hold`. Never throws: the run has ended, whatever it made of its workspace. */
  release(name: string): void {
    const left = (this.#claims.get(name) ?? 1) - 1;
    if (left > 0) {
      this.#claims.set(name, left);
      return;
    }
    this.#claims.delete(name);
    // Only a claimed name is one of the root's own, and may be looked up without walking.
    if (!this.#placeholders.delete(name)) return;
    try {
      this.#withRoot((root) => {
        removePlaceholder(root, name);
      });
    } catch {
      // Left behind; the next claim of the name, or the next start, takes it away.
    }
  }

  #redo(root: number, name: string): void {
    let walk: Walk | undefined;
    try {
      const saved = readNote(at(root, name));
      walk = new Walk(this.shown, root, saved);
      const place = walk.to(pathNames(relative(this.shown, saved)).map(bytesOf), { make: () => undefined });
      renameSync(at(root, name.replace(/redo$/, 'tmp')), at(place.dir, place.name));
    } catch {
      // Its directory is gone, the copy was finished, or it is no note of ours: nothing is left to do.
    } finally {
      walk?.close();
      unlinkIfPossible(at(root, name));
    }
  }

  #withRoot<T>(action: (root: number) => T): T {
    this.prepare();
    const root = openDirectory(this.path);
    try {
      return action(root);
    } finally {
      closeSync(root);
    }
  }
}

/**
 * Copies one file over another without giving it a new place in its directory. `redo` makes a crash in the middle
 * good: `sweep` finishes what it names. In one go, so that no other request sees half of it.
 */
function replaceContent(target: Buffer, source: Buffer, redo: Buffer, saved: string): void {
  const from = openSync(source, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  let to: number | undefined;
  try {
    to = openFile(target, 'write');
    reserve(to, fstatSync(from).size);
    writeFileSync(redo, saved, { flag: 'wx', mode: 0o600, flush: true });
    const piece = Buffer.alloc(COPY_PIECE);
    let size = 0;
    for (let read = readSync(from, piece); read > 0; read = readSync(from, piece)) {
      for (let done = 0; done < read;) done += writeSync(to, piece, done, read - done, size + done);
      size += read;
    }
    ftruncateSync(to, size);
    fsyncSync(to);
  } catch (error) {
    // Its source will be gone.
    unlinkIfPossible(redo);
    throw error;
  } finally {
    closeSync(from);
    if (to !== undefined) closeSync(to);
  }
  unlinkIfThere(source);
  unlinkIfThere(redo);
}

/** Makes a file as long as it is to become, with blocks: on a full disk it stays as it is, and nothing is half replaced. */
function reserve(file: number, length: number): void {
  const { size } = fstatSync(file);
  const zeros = Buffer.alloc(Math.min(COPY_PIECE, Math.max(0, length - size)));
  try {
    for (let at = size; at < length;)
      at += writeSync(file, zeros, 0, Math.min(zeros.length, length - at), at);
  } catch (error) {
    ftruncateSync(file, size);
    throw error;
  }
}

/** The path that a note holds: whoever made it, a regular file of at most PATH_MAX bytes. */
function readNote(path: Buffer): string {
  const fd = openSync(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  try {
    const stats = fstatSync(fd);
    if (!stats.isFile() || stats.size > PATH_MAX) throw new Error('no note');
    return readFileSync(fd, 'utf8');
  } finally {
    closeSync(fd);
  }
}

/** The rename is on disk only when its directory is (fsync(2)). */
async function syncDirectory(dir: number): Promise<void> {
  const fd = withAccess(dir, () => openSync(self(dir), O_RDONLY | O_DIRECTORY));
  try {
    await promisify(fsync)(fd);
  } finally {
    closeSync(fd);
  }
}

/** @returns whether a regular file stands at `name` now; makes an empty one where nothing stands */
function standsAsFile(root: number, name: string): boolean {
  const stats = lstatSync(at(root, name), { throwIfNoEntry: false });
  if (stats !== undefined) return stats.isFile();
  let fd: number;
  try {
    fd = openSync(at(root, name), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o666);
  } catch (error) {
    // Another run of the workspace was faster, with whatever it made there.
    if (errorCode(error) === 'EEXIST')
      return lstatSync(at(root, name), { throwIfNoEntry: false })?.isFile() === true;
    throw error;
  }
  futimesSync(fd, PLACEHOLDER_TIME, PLACEHOLDER_TIME);
  closeSync(fd);
  return true;
}

/** For what is not worth an error: a run may have put anything in its place. */
export function unlinkIfPossible(path: Buffer, dir?: number): void {
  try {
    if (dir === undefined) unlinkSync(path);
    else
      withAccess(dir, () => {
        unlinkSync(path);
      });
  } catch {
    // The sweep of the next start meets it again.
  }
}

/**
 * Removes `name` only if it is a placeholder of ours and nobody has written to it. Somebody may do so at this moment:
 * so it is moved aside, looked at again, and put back if it is not what it was.
 */
function removePlaceholder(root: number, name: string): void {
  if (!isPlaceholder(at(root, name))) return;
  const aside = at(root, `.nox-${randomBytes(12).toString('hex')}.tmp`);
  renameSync(at(root, name), aside);
  try {
    // Fails if a new file has the name by now, which is then the later one.
    if (!isPlaceholder(aside)) linkSync(aside, at(root, name));
  } catch (error) {
    if (errorCode(error) !== 'EEXIST') throw error;
  }
  unlinkIfThere(aside);
}

function isPlaceholder(path: Buffer): boolean {
  const stats = lstatSync(path, { throwIfNoEntry: false });
  return stats?.isFile() === true && stats.size === 0 && stats.mtimeMs === PLACEHOLDER_TIME * 1000;
}

function unlinkIfThere(path: Buffer): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') throw error;
  }
}

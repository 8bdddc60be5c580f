/**
 * Files of a workspace, without races: a run can swap any name for a link at any moment, so nothing is checked by
 * name and then opened by name. Every directory is opened from its parent's descriptor, following no link
 * (openat(2) by way of /proc/self/fd, as Node has no openat); a link inside the workspace is read and walked here.
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
  readlinkSync,
  renameSync,
  unlinkSync,
  writeFileSync,
  writeSync,
  type Stats,
} from 'node:fs';
import { open } from 'node:fs/promises';
import { join, relative } from 'node:path';
import { promisify } from 'node:util';
import { NoxError } from '../protocol/errors.ts';
import { NAME_MAX, PATH_MAX } from '../protocol/messages.ts';

const { O_CREAT, O_DIRECTORY, O_EXCL, O_NOFOLLOW, O_NONBLOCK, O_RDONLY, O_WRONLY } = constants;
/** open(2); Node does not export it. The same on x86_64 and aarch64. */
const O_PATH = 0o10000000;
/** path_resolution(7): the kernel's own bound. */
const LINKS_MAX = 40;
const TEMPORARY = /^\.nox-[0-9a-f]{24}\.tmp$/;
/** Holds the path over whose content the temporary file of the same number is being copied. */
const REDO = /^\.nox-[0-9a-f]{24}\.redo$/;
/** No file of anybody was changed at 1970-01-01T00:12:19Z. It marks a placeholder of ours. */
const PLACEHOLDER_TIME = 739;
const CLAIM_TRIES = 32;
/** How often permissions that a run keeps taking away are given back. */
const ACCESS_TRIES = 5;
const COPY_PIECE = 1024 * 1024;

/** Where the bytes of a workspace are taken from, before they are written (disk.ts). */
export interface Room {
  readonly room: number;
  take(bytes: number): boolean;
  giveBack(bytes: number): void;
}

/**
 * Splits a client's path into names.
 *
 * @throws NoxError `invalid_path` for an empty or over-long path, NUL, `..`, or a path that names a directory
 */
export function pathNames(path: string): string[] {
  if (path.includes('\0')) throw badPath(path, 'contains NUL');
  if (Buffer.byteLength(path) > PATH_MAX) throw badPath(path, `is longer than ${String(PATH_MAX)} bytes`);
  const names = path.split('/').filter((name) => name !== '' && name !== '.');
  if (names.length === 0) throw badPath(path, 'is empty');
  if (names.includes('..')) throw badPath(path, 'contains `..`');
  if (path.endsWith('/') || path.endsWith('/.')) throw badPath(path, 'names a directory');
  if (names.some((name) => Buffer.byteLength(name) > NAME_MAX)) {
    throw badPath(path, `has a name longer than ${String(NAME_MAX)} bytes`);
  }
  return names;
}

function badPath(path: string, why: string): NoxError {
  return new NoxError('invalid_path', `path ${JSON.stringify(path.slice(0, 200))}: ${why}`);
}

export class Workspace {
  readonly path: string;
  /** Where its runs see it; what is told of it, and where absolute links lead, is below this path. */
  readonly shown: string;
  /** How many live runs have their code mounted on each file. */
  readonly #claims = new Map<string, number>();
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
   */
  sweep(): void {
    this.#withRoot((root) => {
      const names = readdirSync(self(root));
      for (const name of names.filter((each) => REDO.test(each))) this.#redo(root, name);
      for (const name of names.filter((each) => TEMPORARY.test(each))) unlinkIfPossible(at(root, name));
      for (const name of names) removePlaceholder(root, name);
    });
  }

  /**
   * Writes a file from a stream: to a temporary name, synced, then renamed over `path`. Where runs are alive whose
   * code is mounted on that file, its content is replaced instead: a rename would take their code away from them
   * (the kernel drops what is mounted on a name that another file takes).
   *
   * @param room where the bytes are taken from; more than it has is `workspace_full`
   * @throws NoxError `invalid_path`, `workspace_full`, `workspace_conflict`; what `body` throws; the errors of a
   *   machine that is full or broken
   */
  async write(
    path: string,
    body: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
    room: Room,
  ): Promise<{ saved: string; bytes: number }> {
    const names = pathNames(path);
    this.prepare();
    const root = openDirectory(this.path);
    const number = randomBytes(12).toString('hex');
    const temporary = at(root, `.nox-${number}.tmp`);
    const walk = new Walk(this.shown, root, path);
    try {
      const bytes = await writeAndSync(temporary, body, room);
      try {
        const saved = await this.#putInPlace(root, walk, names, `.nox-${number}`);
        return { saved, bytes };
      } catch (error) {
        room.giveBack(bytes);
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

  async #putInPlace(root: number, walk: Walk, names: readonly string[], stem: string): Promise<string> {
    const { dir, name, saved } = walk.to(names);
    const temporary = at(root, `${stem}.tmp`);
    if (this.#claims.has(relative(this.shown, saved))) {
      withAccess(dir, () => {
        replaceContent(at(dir, name), temporary, at(root, `${stem}.redo`), saved);
      });
    } else {
      withAccess(dir, () => {
        renameSync(temporary, at(dir, name));
      });
      await syncDirectory(dir);
    }
    return saved;
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
      const place = walk.to(pathNames(relative(this.shown, saved)));
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

const at = (dir: number, name: string): string => `/proc/self/fd/${String(dir)}/${name}`;
const self = (dir: number): string => `/proc/self/fd/${String(dir)}`;
const errorCode = (error: unknown): string => (error as NodeJS.ErrnoException).code ?? String(error);
const openDirectory = (path: string): number => openSync(path, O_PATH | O_DIRECTORY | O_NOFOLLOW);

/** Walks from the workspace's root to where a file is to stand, one opened directory after the other. */
class Walk {
  readonly #workspace: string;
  readonly #root: number;
  readonly #path: string;
  #dirs: { readonly fd: number; readonly name: string }[] = [];

  constructor(workspace: string, root: number, path: string) {
    this.#workspace = workspace;
    this.#root = root;
    this.#path = path;
  }

  /** Makes the directories that are missing. The last name was no link and no directory when it was looked at. */
  to(names: readonly string[]): { dir: number; name: string; saved: string } {
    const todo = [...names];
    let links = 0;
    for (;;) {
      const name = todo.shift();
      if (name === undefined) throw badPath(this.#path, 'is a directory');
      if (name === '..') {
        this.#up();
        continue;
      }
      const dir = this.#dirs.at(-1)?.fd ?? this.#root;
      const stats = withAccess(dir, () => lstatSync(at(dir, name), { throwIfNoEntry: false }));
      if (stats?.isSymbolicLink() === true) {
        links += 1;
        if (links > LINKS_MAX) throw badPath(this.#path, 'has too many symbolic links');
        todo.unshift(...this.#linkNames(dir, name));
      } else if (todo.length > 0) {
        this.#dirs.push({ fd: this.#enter(dir, name, stats), name });
      } else {
        if (stats?.isDirectory() === true) throw badPath(this.#path, 'is a directory');
        return { dir, name, saved: join(this.#workspace, ...this.#dirs.map((each) => each.name), name) };
      }
    }
  }

  close(): void {
    for (const { fd } of this.#dirs.splice(0)) closeSync(fd);
  }

  #up(): void {
    const left = this.#dirs.pop();
    if (left === undefined) throw this.#leaves();
    closeSync(left.fd);
  }

  #enter(dir: number, name: string, stats: Stats | undefined): number {
    if (stats !== undefined && !stats.isDirectory()) {
      throw badPath(this.#path, `${JSON.stringify(name)} is not a directory`);
    }
    try {
      if (stats === undefined) withAccess(dir, () => mkdirSync(at(dir, name)));
      return openDirectory(at(dir, name));
    } catch (error) {
      if (!['EEXIST', 'ENOTDIR', 'ELOOP', 'ENOENT'].includes(errorCode(error))) throw error;
      throw badPath(this.#path, `${JSON.stringify(name)} was changed while it was opened`);
    }
  }

  /** The names that a link stands for; an absolute one that stays inside starts at the root again. */
  #linkNames(dir: number, name: string): string[] {
    let target: string;
    try {
      target = readlinkSync(at(dir, name));
    } catch {
      throw badPath(this.#path, `${JSON.stringify(name)} was changed while it was read`);
    }
    if (target.startsWith('/')) {
      if (!`${target}/`.startsWith(`${this.#workspace}/`)) throw this.#leaves();
      target = target.slice(this.#workspace.length);
      this.close();
    }
    return target.split('/').filter((each) => each !== '' && each !== '.');
  }

  #leaves(): NoxError {
    return badPath(this.#path, 'has a symbolic link that leaves the workspace');
  }
}

/** A run may have taken all permissions from a directory; its owner, the runner's user, can give them back. */
function withAccess<T>(dir: number, action: () => T): T {
  for (let tries = 1; ; tries += 1) {
    try {
      return action();
    } catch (error) {
      if (errorCode(error) !== 'EACCES' || tries === ACCESS_TRIES) throw error;
      chmodSync(self(dir), 0o755);
    }
  }
}

/** What runs can bring about by changing names while a file is put in its place; none of it is the machine's fault. */
const BY_RUNS = [
  'EACCES',
  'EPERM',
  'ENOENT',
  'EEXIST',
  'EISDIR',
  'ENOTDIR',
  'ENOTEMPTY',
  'ENXIO',
  'ELOOP',
  'EINVAL',
];

function conflict(path: string, error: unknown): unknown {
  if (errorCode(error) === 'ENAMETOOLONG')
    return badPath(path, 'has a symbolic link with a name that is too long');
  if (!BY_RUNS.includes(errorCode(error))) return error;
  const message = `path ${JSON.stringify(path.slice(0, 200))}: was changed by a run meanwhile`;
  return new NoxError('workspace_conflict', message, { cause: error });
}

async function writeAndSync(
  path: string,
  body: AsyncIterable<Uint8Array> | Iterable<Uint8Array>,
  room: Room,
): Promise<number> {
  const file = await open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o666);
  let bytes = 0;
  try {
    for await (const chunk of body) {
      if (!room.take(chunk.length)) {
        throw new NoxError(
          'workspace_full',
          `The workspace has room for ${Math.max(0, room.room + bytes)} bytes more`,
        );
      }
      bytes += chunk.length;
      for (let done = 0; done < chunk.length;) done += (await file.write(chunk, done)).bytesWritten;
    }
    await file.sync();
    return bytes;
  } catch (error) {
    room.giveBack(bytes);
    throw error;
  } finally {
    await file.close();
  }
}

/**
 * Copies one file over another without giving it a new place in its directory. `redo` makes a crash in the middle
 * good: `sweep` finishes what it names. In one go, so that no other request sees half of it.
 */
function replaceContent(target: string, source: string, redo: string, saved: string): void {
  const from = openSync(source, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  let to: number | undefined;
  try {
    to = openForWriting(target);
    writeFileSync(redo, saved, { flag: 'wx', mode: 0o600, flush: true });
    const piece = Buffer.alloc(COPY_PIECE);
    let size = 0;
    for (let read = readSync(from, piece); read > 0; read = readSync(from, piece)) {
      for (let done = 0; done < read;) done += writeSync(to, piece, done, read - done, size + done);
      size += read;
    }
    ftruncateSync(to, size);
    fsyncSync(to);
  } finally {
    closeSync(from);
    if (to !== undefined) closeSync(to);
  }
  unlinkIfThere(source);
  unlinkIfThere(redo);
}

/** Opens a regular file, giving back the permission to write that a run may have taken from it. */
function openForWriting(path: string): number {
  const place = openSync(path, O_PATH | O_NOFOLLOW);
  try {
    const stats = fstatSync(place);
    if (!stats.isFile()) throw Object.assign(new Error('no regular file'), { code: 'EINVAL' });
    if ((stats.mode & 0o200) === 0) chmodSync(self(place), (stats.mode & 0o777) | 0o200);
    return openSync(self(place), O_WRONLY);
  } finally {
    closeSync(place);
  }
}

/** The path that a note holds: whoever made it, a regular file of at most PATH_MAX bytes. */
function readNote(path: string): string {
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
function unlinkIfPossible(path: string, dir?: number): void {
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

function isPlaceholder(path: string): boolean {
  const stats = lstatSync(path, { throwIfNoEntry: false });
  return stats?.isFile() === true && stats.size === 0 && stats.mtimeMs === PLACEHOLDER_TIME * 1000;
}

function unlinkIfThere(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if (errorCode(error) !== 'ENOENT') throw error;
  }
}

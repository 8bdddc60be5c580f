/**
 * From the root of a workspace to an entry below it, without races: every directory is opened from its parent's
 * descriptor, following no link (openat(2) by way of /proc/self/fd, as Node has no openat); a link inside the workspace
 * is read and walked here, one that leaves it is refused. Names are bytes (names.ts).
 */
import {
  chmodSync,
  closeSync,
  constants,
  fstatSync,
  lstatSync,
  mkdirSync,
  openSync,
  readlinkSync,
  renameSync,
  type BigIntStats,
} from 'node:fs';
import { NoxError } from '../protocol/errors.ts';
import { bytesOf, textOf } from '../protocol/bytes.ts';
import { badPath, showPath } from './names.ts';

const { O_DIRECTORY, O_NOFOLLOW, O_RDONLY, O_WRONLY } = constants;
/** open(2); Node does not export it. The same on x86_64 and aarch64. */
const O_PATH = 0o10000000;
/** path_resolution(7): the kernel's own bound. */
const LINKS_MAX = 40;
/** How often permissions that a run keeps taking away are given back. */
const ACCESS_TRIES = 5;

/** An entry of an opened directory. */
export const at = (dir: number, name: string): Buffer =>
  Buffer.from(`/proc/self/fd/${String(dir)}/${name}`, 'latin1');
/** What is opened, by a name that nobody can change. */
export const self = (fd: number): string => `/proc/self/fd/${String(fd)}`;
export const errorCode = (error: unknown): string => (error as NodeJS.ErrnoException).code ?? String(error);

export const openDirectory = (path: string | Buffer): number =>
  openSync(path, O_PATH | O_DIRECTORY | O_NOFOLLOW);
/** Opens whatever it is, for nothing but to ask about it: no FIFO waits, no device acts. */
export const openPlace = (path: string | Buffer): number => openSync(path, O_PATH | O_NOFOLLOW);

export function statEntry(dir: number, name: string): BigIntStats | undefined {
  return withAccess(dir, () => lstatSync(at(dir, name), { bigint: true, throwIfNoEntry: false }));
}

/** Where a walk has ended. */
export interface Place {
  /** The directory, opened; as long as its walk. */
  readonly dir: number;
  /** `.` where the path is the directory itself. */
  readonly name: string;
  /** What stood there when it was looked at. */
  readonly stats: BigIntStats | undefined;
  /** From the root, without links. */
  readonly names: readonly string[];
}

interface WalkOptions {
  /** Directories that are missing are made; called before each, and may throw. */
  readonly make?: () => void;
  /** A link in the last place is the entry itself, and is not walked. */
  readonly keepLink?: boolean;
}

/** One opened directory after the other. */
export class Walk {
  readonly #shown: string;
  readonly #root: number;
  readonly #path: string;
  #dirs: { readonly fd: number; readonly name: string }[] = [];

  /**
   * @param shown where runs see the workspace: absolute links below it stay inside
   * @param root its directory, opened
   * @param path for messages
   */
  constructor(shown: string, root: number, path: string) {
    this.#shown = bytesOf(shown);
    this.#root = root;
    this.#path = path;
  }

  /** @throws NoxError `invalid_path`, `file_not_found` for a directory on the way that is missing and not to be made */
  to(names: readonly string[], { make, keepLink = false }: WalkOptions = {}): Place {
    const todo = [...names];
    let links = 0;
    for (;;) {
      const name = todo.shift();
      if (name === undefined) {
        const dir = this.#here;
        return { dir, name: '.', stats: statEntry(dir, '.'), names: this.#names };
      }
      if (name === '..') {
        this.#up();
        continue;
      }
      const dir = this.#here;
      const stats = statEntry(dir, name);
      if (stats?.isSymbolicLink() === true && !(keepLink && todo.length === 0)) {
        links += 1;
        if (links > LINKS_MAX) throw badPath(this.#path, 'has too many symbolic links');
        todo.unshift(...this.#linkNames(dir, name));
      } else if (todo.length > 0) {
        this.#dirs.push({ fd: this.#enter(dir, name, stats, make), name });
      } else {
        return { dir, name, stats, names: [...this.#names, name] };
      }
    }
  }

  close(): void {
    for (const { fd } of this.#dirs.splice(0)) closeSync(fd);
  }

  get #here(): number {
    return this.#dirs.at(-1)?.fd ?? this.#root;
  }

  get #names(): string[] {
    return this.#dirs.map((each) => each.name);
  }

  #up(): void {
    const left = this.#dirs.pop();
    if (left === undefined) throw this.#leaves();
    closeSync(left.fd);
  }

  #enter(dir: number, name: string, stats: BigIntStats | undefined, make?: () => void): number {
    if (stats === undefined && make === undefined)
      throw new NoxError('file_not_found', `${showPath(this.#path)}: there is no ${shown(name)}`);
    if (stats !== undefined && !stats.isDirectory())
      throw badPath(this.#path, `${shown(name)} is not a directory`);
    if (stats === undefined) make?.();
    try {
      if (stats === undefined) withAccess(dir, () => mkdirSync(at(dir, name)));
      return openDirectory(at(dir, name));
    } catch (error) {
      if (!['EEXIST', 'ENOTDIR', 'ELOOP', 'ENOENT'].includes(errorCode(error))) throw error;
      throw badPath(this.#path, `${shown(name)} was changed while it was opened`);
    }
  }

  /** The names that a link stands for; an absolute one that stays inside starts at the root again. */
  #linkNames(dir: number, name: string): string[] {
    let target: string;
    try {
      target = readlinkSync(at(dir, name), 'latin1');
    } catch {
      throw badPath(this.#path, `${shown(name)} was changed while it was read`);
    }
    if (target.startsWith('/')) {
      if (!`${target}/`.startsWith(`${this.#shown}/`)) throw this.#leaves();
      target = target.slice(this.#shown.length);
      this.close();
    }
    return target.split('/').filter((each) => each !== '' && each !== '.');
  }

  #leaves(): NoxError {
    return badPath(this.#path, 'has a symbolic link that leaves the workspace');
  }
}

const shown = (name: string): string => JSON.stringify(textOf(name));

/** A run may have taken all permissions from a directory; its owner, the runner's user, can give them back. */
export function withAccess<T>(dir: number, action: () => T): T {
  for (let tries = 1; ; tries += 1) {
    try {
      return action();
    } catch (error) {
      if (errorCode(error) !== 'EACCES' || tries === ACCESS_TRIES) throw error;
      chmodSync(self(dir), 0o755);
    }
  }
}

/** Opens a regular file, giving back the permission that a run may have taken from it. */
export function openFile(path: Buffer, access: keyof typeof FLAGS): number {
  const place = openPlace(path);
  try {
    return reopenFile(place, access);
  } finally {
    closeSync(place);
  }
}

/** The same for a file of which there is a descriptor already. */
export function reopenFile(place: number, access: keyof typeof FLAGS): number {
  const stats = fstatSync(place);
  if (!stats.isFile()) throw Object.assign(new Error('no regular file'), { code: 'EINVAL' });
  const wanted = access === 'read' ? 0o400 : 0o200;
  if ((stats.mode & wanted) === 0) chmodSync(self(place), (stats.mode & 0o777) | wanted);
  return openSync(self(place), FLAGS[access]);
}

const FLAGS = { read: O_RDONLY, write: O_WRONLY, append: O_WRONLY | constants.O_APPEND } as const;

/** rename(2); a directory that changes its parent must be writable itself. */
export function moveEntry(fromDir: number, fromName: string, dir: number, name: string): void {
  const rename = () => {
    withAccess(fromDir, () => {
      withAccess(dir, () => {
        renameSync(at(fromDir, fromName), at(dir, name));
      });
    });
  };
  try {
    rename();
  } catch (error) {
    if (errorCode(error) !== 'EACCES' || !giveAccess(fromDir, fromName)) throw error;
    rename();
  }
}

function giveAccess(dir: number, name: string): boolean {
  const fd = openPlace(at(dir, name));
  try {
    if (!fstatSync(fd).isDirectory()) return false;
    chmodSync(self(fd), 0o755);
    return true;
  } finally {
    closeSync(fd);
  }
}

/** What runs can bring about by changing names meanwhile; none of it is the machine's fault. */
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

/** Of an error that came while a path was worked on: what a client is to be told, else the error itself. */
export function conflict(path: string, error: unknown): unknown {
  if (errorCode(error) === 'ENAMETOOLONG')
    return badPath(path, 'has a symbolic link with a name that is too long');
  if (!BY_RUNS.includes(errorCode(error))) return error;
  const message = `${showPath(path)}: was changed by a run meanwhile`;
  return new NoxError('workspace_conflict', message, { cause: error });
}

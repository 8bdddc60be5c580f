/** What is in a directory of a workspace: facts of an entry, and entries in the order of their bytes. */
import { closeSync, opendirSync, readlinkSync, type BigIntStats } from 'node:fs';
import { setImmediate, setTimeout as sleep } from 'node:timers/promises';
import type { FileInfo } from '../protocol/files.ts';
import { PATH_MAX } from '../protocol/messages.ts';
import { textOf } from '../protocol/bytes.ts';
import { at, errorCode, openDirectory, self, statEntry, withAccess } from './walk.ts';

/** Deeper directories are named, not looked into: a descriptor is held for each level. Their own lists can be had. */
export const DEPTH_MAX = 256;
/** So many entries are read between two turns of the event loop. */
const PIECE = 1024;
/** The kernel's clock for files goes in ticks of at most 10 ms (CONFIG_HZ=100). */
const TICK_MS = 12;
const SETTLE_TRIES = 5;
const TEMPORARY = /^\.nox-[0-9a-f]{24}\.(tmp|redo)$/;

export interface Entry {
  /** Below the directory where the search began. */
  readonly names: readonly string[];
  /** Its directory, opened until the next entry is asked for. */
  readonly dir: number;
  readonly name: string;
  readonly stats: BigIntStats;
}

export const isTemporary = (name: string): boolean => TEMPORARY.test(name);

/**
 * The same for the same content: whatever changes a file also changes its ctime, which nobody can set. Only within one
 * tick of the kernel's clock it may not, so that of a file which has just been changed is weak (RFC 9110, 8.8.1).
 */
export function etagOf(stats: BigIntStats): string {
  const tag = [stats.ino, stats.size, stats.mtimeNs, stats.ctimeNs]
    .map((each) => each.toString(36))
    .join('-');
  return isFresh(stats) ? `W/"${tag}"` : `"${tag}"`;
}

const isFresh = (stats: BigIntStats): boolean => Math.abs(Date.now() - Number(stats.ctimeMs)) < TICK_MS;

/** Whether a file is one of those that an `If-Match` names. */
export function isOneOf(stats: BigIntStats, etags: readonly string[]): boolean {
  return etags.includes('*') || etags.includes(etagOf(stats).replace(/^W\//, ''));
}

/** Looks again until the last change is a tick ago, so that the next one can be told from it. */
export async function settled<T extends BigIntStats | undefined>(look: () => T): Promise<T> {
  let stats = look();
  for (let tries = 0; tries < SETTLE_TRIES && stats?.isFile() === true && isFresh(stats); tries += 1) {
    await sleep(TICK_MS);
    stats = look();
  }
  return stats;
}

export function infoOf(names: readonly string[], stats: BigIntStats, target?: string): FileInfo {
  const type = stats.isFile()
    ? 'file'
    : stats.isDirectory()
      ? 'directory'
      : stats.isSymbolicLink()
        ? 'link'
        : 'other';
  return {
    path: textOf(names.join('/')),
    type,
    size: Number(stats.size),
    mode: `0${(Number(stats.mode) & 0o777).toString(8).padStart(3, '0')}`,
    modified: new Date(Number(stats.mtimeMs)).toISOString(),
    ...(type === 'file' ? { etag: etagOf(stats) } : {}),
    ...(target === undefined ? {} : { target: textOf(target) }),
  };
}

/** @returns undefined where it is no link any more */
export function targetOf(dir: number, name: string): string | undefined {
  try {
    return withAccess(dir, () => readlinkSync(at(dir, name), 'latin1'));
  } catch {
    return undefined;
  }
}

interface Search {
  readonly recursive: boolean;
  /** Entries up to and with this one are left out. */
  readonly after?: readonly string[];
  /** Names of the first directory that are left out. */
  readonly hidden?: (name: string) => boolean;
  /** How many of one directory are held in memory. */
  readonly piece?: number;
}

/**
 * Entries in the order of the bytes of their names, each directory before what is in it. What runs change meanwhile may
 * be in it or not. A directory is read once for each `piece` of entries.
 */
export async function* entriesBelow(
  dir: number,
  search: Search,
  names: readonly string[] = [],
): AsyncGenerator<Entry> {
  const { recursive, hidden, piece = PIECE } = search;
  let [from, ...below] = search.after ?? [];
  // Of a directory that the last page ended with, what is in it is still to come.
  let inclusive = recursive && search.after !== undefined;
  for (;;) {
    const found: string[] = await smallest(dir, piece, from, inclusive, hidden);
    for (const name of found) {
      const stats = statEntry(dir, name);
      if (stats === undefined) continue;
      const path = [...names, name];
      const passed = inclusive && name === from;
      if (!passed) yield { names: path, dir, name, stats };
      if (recursive && stats.isDirectory() && path.length < DEPTH_MAX && lengthOf(path) < PATH_MAX)
        yield* descend(dir, name, path, { recursive, piece, ...(passed ? { after: below } : {}) });
    }
    from = found.at(-1);
    below = [];
    inclusive = false;
    if (from === undefined || found.length < piece) return;
  }
}

const lengthOf = (names: readonly string[]): number => names.reduce((sum, name) => sum + name.length + 1, 0);

async function* descend(
  dir: number,
  name: string,
  path: readonly string[],
  search: Search,
): AsyncGenerator<Entry> {
  let child: number;
  try {
    child = withAccess(dir, () => openDirectory(at(dir, name)));
  } catch (error) {
    // A run has put something else there.
    if (['ENOENT', 'ENOTDIR', 'ELOOP'].includes(errorCode(error))) return;
    throw error;
  }
  try {
    yield* entriesBelow(child, search, path);
  } finally {
    closeSync(child);
  }
}

/** The first names after `from`, sorted; with `inclusive`, from `from` on. */
async function smallest(
  dir: number,
  count: number,
  from: string | undefined,
  inclusive: boolean,
  hidden: Search['hidden'],
): Promise<string[]> {
  let kept: string[] = [];
  let read = 0;
  const reader = withAccess(dir, () => opendirSync(self(dir), { encoding: 'latin1', bufferSize: PIECE }));
  try {
    for (let entry = reader.readSync(); entry !== null; entry = reader.readSync()) {
      const { name } = entry;
      read += 1;
      if (read % PIECE === 0) await setImmediate();
      if (hidden?.(name) === true) continue;
      if (from !== undefined && (inclusive ? name < from : name <= from)) continue;
      kept.push(name);
      if (kept.length >= 4 * count + PIECE) kept = kept.sort().slice(0, count);
    }
  } finally {
    reader.closeSync();
  }
  return kept.sort().slice(0, count);
}

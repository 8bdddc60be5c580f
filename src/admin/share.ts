/**
 * Who owns what in a workspace. Its files are hostile: a name can become a link at any moment. So every directory is
 * opened from its parent's descriptor and every change is made by descriptor, links are left alone, and so is a file
 * with a second name, which may lie elsewhere.
 */
import {
  closeSync,
  constants,
  fchmodSync,
  fchownSync,
  fstatSync,
  openSync,
  readdirSync,
  type Stats,
} from 'node:fs';
import type { Host } from './host.ts';

const { O_DIRECTORY, O_NOFOLLOW, O_NONBLOCK, O_RDONLY } = constants;
const SEPARATOR = Buffer.from('/');
const DIRECTORY_GROUP = 0o2070;
const FILE_GROUP = 0o060;
const PERMISSIONS = 0o777;
/** Bytes (limits.h). */
const PATH_MAX = 4096;

/** Path below the workspace in hexadecimal (names are bytes, not text), mode, user, group. */
export type OwnerRow = readonly [path: string, mode: number, uid: number, gid: number];

/** Tells of every directory and file below `path`, and of `path` itself. */
export function listOwners(host: Host, path: string, tell: (row: OwnerRow) => void): void {
  walk(host.at(path), (name, _fd, stats) => {
    tell([name, stats.mode & 0o7777, stats.uid, stats.gid]);
  });
}

/** Puts back what `listOwners` found; what has come since is left as it is. */
export function restoreOwners(host: Host, path: string, rows: Iterable<OwnerRow>): void {
  const wanted = new Map<string, OwnerRow>();
  for (const row of rows) wanted.set(row[0], row);
  walk(host.at(path), (name, fd, stats) => {
    const row = wanted.get(name);
    if (row === undefined) return;
    fchownSync(fd, row[2], row[3]);
    // No set-id bit of a file: those that the runs own meanwhile could have put anything into it.
    fchmodSync(fd, stats.isDirectory() ? row[1] : row[1] & PERMISSIONS);
  });
}

/** Gives everything to a user and a group, group-writable; set-user-id bits are taken away. */
export function giveTo(host: Host, path: string, uid: number, gid: number): void {
  walk(host.at(path), (name, fd, stats) => {
    // The workspace itself has an owner of its own.
    if (name === '') return;
    fchownSync(fd, uid, gid);
    fchmodSync(fd, (stats.mode & PERMISSIONS) | (stats.isDirectory() ? DIRECTORY_GROUP : FILE_GROUP));
  });
}

/** Is there anything directly in the workspace that belongs to this user? */
export function belongsTo(host: Host, path: string, uid: number): boolean {
  return listTop(host, path).some((row) => row[2] === uid);
}

function listTop(host: Host, path: string): OwnerRow[] {
  const rows: OwnerRow[] = [];
  walk(host.at(path), (name, _fd, stats) => name !== '' && rows.push([name, 0, stats.uid, stats.gid]), 1);
  return rows;
}

type Visit = (name: string, fd: number, stats: Stats) => unknown;

function walk(path: string, visit: Visit, depth = Infinity): void {
  const fd = openSync(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  try {
    visit('', fd, fstatSync(fd));
    walkDirectory(fd, '', visit, depth);
  } finally {
    closeSync(fd);
  }
}

function walkDirectory(directory: number, prefix: string, visit: Visit, depth: number): void {
  const parent = Buffer.from(`/proc/self/fd/${String(directory)}/`);
  for (const entry of readdirSync(parent, { encoding: 'buffer', withFileTypes: true })) {
    if (!entry.isFile() && !entry.isDirectory()) continue;
    const fd = openEntry(Buffer.concat([parent, entry.name]));
    if (fd === undefined) continue;
    try {
      const stats = fstatSync(fd);
      const name = prefix + entry.name.toString('hex');
      if (stats.isFile() ? stats.nlink === 1 : stats.isDirectory()) visit(name, fd, stats);
      // Deeper than any path can name: a run that has made such a tree keeps it to itself.
      if (stats.isDirectory() && depth > 1 && name.length < 2 * PATH_MAX)
        walkDirectory(fd, name + SEPARATOR.toString('hex'), visit, depth - 1);
    } finally {
      closeSync(fd);
    }
  }
}

/** @returns undefined for what has gone, or become a link, meanwhile */
function openEntry(path: Buffer): number | undefined {
  try {
    return openSync(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  } catch {
    return undefined;
  }
}

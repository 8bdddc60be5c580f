/** Paths of clients, split into names of bytes (protocol/bytes.ts). */
import { bytesOf } from '../protocol/bytes.ts';
import { NoxError } from '../protocol/errors.ts';
import { NAME_MAX, PATH_MAX } from '../protocol/messages.ts';

/**
 * Splits a path below a workspace's root into names.
 *
 * @returns none for the root itself
 * @throws NoxError `invalid_path` for NUL, `..`, and what is longer than Linux takes
 */
export function treeNames(path: string): string[] {
  if (path.includes('\0')) throw badPath(path, 'contains NUL');
  const bytes = bytesOf(path);
  if (bytes.length > PATH_MAX) throw badPath(path, `is longer than ${String(PATH_MAX)} bytes`);
  const names = bytes.split('/').filter((name) => name !== '' && name !== '.');
  if (names.includes('..')) throw badPath(path, 'contains `..`');
  if (names.some((name) => name.length > NAME_MAX))
    throw badPath(path, `has a name longer than ${String(NAME_MAX)} bytes`);
  return names;
}

/**
 * The same for a path that is to be a file.
 *
 * @throws NoxError `invalid_path` also for an empty path, and one that names a directory
 */
export function fileNames(path: string): string[] {
  const names = treeNames(path);
  if (names.length === 0) throw badPath(path, 'is empty');
  if (path.endsWith('/') || path.endsWith('/.')) throw badPath(path, 'names a directory');
  return names;
}

export const showPath = (path: string): string => `path ${JSON.stringify(path.slice(0, 200))}`;

export function badPath(path: string, why: string): NoxError {
  return new NoxError('invalid_path', `${showPath(path)}: ${why}`);
}

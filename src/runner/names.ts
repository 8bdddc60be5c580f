/**
 * Names of files are bytes. Here a name is a string with a character for each byte (latin1), so that every name can be
 * compared, sorted and cut; in JSON it is text, and a byte that is no UTF-8 is a lone surrogate U+DC80 to U+DCFF, as
 * Python's `surrogateescape` has it (PEP 383).
 */
import { isUtf8 } from 'node:buffer';
import { NoxError } from '../protocol/errors.ts';
import { NAME_MAX, PATH_MAX } from '../protocol/messages.ts';

/** From bytes to text. */
export function textOf(name: string): string {
  const bytes = Buffer.from(name, 'latin1');
  if (isUtf8(bytes)) return bytes.toString('utf8');
  let text = '';
  for (let at = 0; at < bytes.length;) {
    const size = sequenceLength(bytes, at);
    text +=
      size === 0 ? String.fromCharCode(0xdc00 + (bytes[at] ?? 0)) : bytes.toString('utf8', at, at + size);
    at += Math.max(1, size);
  }
  return text;
}

/** @returns the length of the character that begins here, 0 where none does */
function sequenceLength(bytes: Buffer, at: number): number {
  for (let size = 1; size <= 4; size += 1) if (isUtf8(bytes.subarray(at, at + size))) return size;
  return 0;
}

/**
 * From text to bytes.
 *
 * @throws NoxError `invalid_path` for a surrogate that stands for no byte
 */
export function bytesOf(text: string): string {
  if (text.isWellFormed()) return Buffer.from(text, 'utf8').toString('latin1');
  let bytes = '';
  for (const character of text) {
    const code = character.codePointAt(0) ?? 0;
    if (code >= 0xdc80 && code <= 0xdcff) bytes += String.fromCharCode(code - 0xdc00);
    else if (character.isWellFormed()) bytes += Buffer.from(character, 'utf8').toString('latin1');
    else throw badPath(text, 'has half of a surrogate pair, which is no character');
  }
  return bytes;
}

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

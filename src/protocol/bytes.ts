/**
 * Names of files are bytes. In JSON a name is text, and a byte that is no UTF-8 is a lone surrogate U+DC80 to U+DCFF, as
 * Python's `surrogateescape` has it (PEP 383). Where names are compared, sorted and cut, each is a string with a
 * character for each byte (latin1).
 */
import { isUtf8 } from 'node:buffer';
import { NoxError } from './errors.ts';

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
    else
      throw new NoxError(
        'invalid_path',
        `path ${JSON.stringify(text.slice(0, 200))}: has half of a surrogate pair, which is no character`,
      );
  }
  return bytes;
}

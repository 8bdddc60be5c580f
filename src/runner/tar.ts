/**
 * What a tar archive is written of (POSIX, pax: section "ustar Interchange Format"). tar-stream, which reads archives
 * here, can only write names that are UTF-8, and files have names of every kind.
 */

const BLOCK = 512;
/** Eleven octal digits. */
const SIZE_MAX = 8 ** 11 - 1;
const NAME_FIELD = 100;

export interface TarEntry {
  /** A character a byte. */
  readonly name: string;
  readonly type: 'file' | 'directory' | 'link';
  readonly size: number;
  readonly mode: number;
  /** In seconds. */
  readonly mtime: number;
  readonly target?: string;
}

/** The blocks before an entry's content. */
export function tarHeader({ name, type, size, mode, mtime, target = '' }: TarEntry): Buffer {
  const path = type === 'directory' ? `${name}/` : name;
  return Buffer.concat([
    // As GNU tar has it: a name as it is, without a length that counts characters.
    ...(target.length > NAME_FIELD ? longName('K', target) : []),
    ...(path.length > NAME_FIELD ? longName('L', path) : []),
    block(path, { file: '0', directory: '5', link: '2' }[type], size, mode, mtime, target),
  ]);
}

function longName(kind: 'K' | 'L', name: string): Buffer[] {
  const bytes = Buffer.from(`${name}\0`, 'latin1');
  return [block('././@LongLink', kind, bytes.length, 0, 0, ''), bytes, tarPadding(bytes.length)];
}

/** What fills the last block of a content. */
export function tarPadding(size: number): Buffer {
  return Buffer.alloc((BLOCK - (size % BLOCK)) % BLOCK);
}

export const TAR_END = Buffer.alloc(2 * BLOCK);

function block(
  name: string,
  kind: string,
  size: number,
  mode: number,
  mtime: number,
  target: string,
): Buffer {
  const header = Buffer.alloc(BLOCK);
  const octal = (value: number, digits: number) => `${value.toString(8).padStart(digits, '0')}\0`;
  header.write(name.slice(0, NAME_FIELD), 0, 'latin1');
  header.write(octal(mode & 0o7777, 7), 100);
  header.write(octal(0, 7), 108);
  header.write(octal(0, 7), 116);
  if (size <= SIZE_MAX) header.write(octal(size, 11), 124);
  else {
    header.writeUInt8(0x80, 124);
    header.writeBigUInt64BE(BigInt(size), 128);
  }
  header.write(octal(Math.min(Math.max(0, Math.floor(mtime)), SIZE_MAX), 11), 136);
  header.write(' '.repeat(8), 148);
  header.write(kind, 156);
  header.write(target.slice(0, NAME_FIELD), 157, 'latin1');
  header.write('ustar  \0', 257);
  const sum = header.reduce((all, byte) => all + byte, 0);
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
  return header;
}

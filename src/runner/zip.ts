/**
 * What a zip archive is written of (PKWARE's APPNOTE 6.3.10; the numbers of its sections are below), with the sizes
 * after the content, so that nothing is read twice, and zip64 throughout, so that nothing is too large. yazl, which
 * one would take, refuses names that are no UTF-8 or have a backslash.
 */
import { isUtf8 } from 'node:buffer';

export interface ZipEntry {
  /** A character a byte; a directory's ends with `/`. */
  readonly name: string;
  /** Of stat(2), with the kind of file. */
  readonly mode: number;
  /** In seconds. */
  readonly mtime: number;
  readonly deflated: boolean;
}

export interface ZipSizes {
  readonly crc: number;
  readonly packed: number;
  readonly size: number;
}

const ZIP64 = 45;
const UNIX = 3 << 8;
const FLAG_DESCRIPTOR = 1 << 3;
const FLAG_UTF8 = 1 << 11;
const MAX32 = 0xffff_ffff;
const MAX16 = 0xffff;

/** What both headers of an entry share (4.3.7, 4.3.12). */
function shared({ name, mtime, deflated }: ZipEntry): Buffer {
  const fields = Buffer.alloc(10);
  const utf8 = isUtf8(Buffer.from(name, 'latin1')) ? FLAG_UTF8 : 0;
  fields.writeUInt16LE(ZIP64, 0);
  fields.writeUInt16LE(FLAG_DESCRIPTOR | utf8, 2);
  fields.writeUInt16LE(deflated ? 8 : 0, 4);
  const { time, date } = dosTime(mtime);
  fields.writeUInt16LE(time, 6);
  fields.writeUInt16LE(date, 8);
  return fields;
}

/** 4.3.7 */
export function zipLocalHeader(entry: ZipEntry): Buffer {
  const name = Buffer.from(entry.name, 'latin1');
  const sizes = Buffer.alloc(16);
  sizes.writeUInt32LE(MAX32, 4);
  sizes.writeUInt32LE(MAX32, 8);
  sizes.writeUInt16LE(name.length, 12);
  sizes.writeUInt16LE(20, 14);
  // 4.5.3, with sizes that only the descriptor knows.
  const extra = Buffer.alloc(20);
  extra.writeUInt16LE(1, 0);
  extra.writeUInt16LE(16, 2);
  return Buffer.concat([Buffer.from('PK\x03\x04', 'latin1'), shared(entry), sizes, name, extra]);
}

/** After the content (4.3.9). */
export function zipDescriptor({ crc, packed, size }: ZipSizes): Buffer {
  const descriptor = Buffer.alloc(24);
  descriptor.write('PK\x07\x08', 'latin1');
  descriptor.writeUInt32LE(crc, 4);
  descriptor.writeBigUInt64LE(BigInt(packed), 8);
  descriptor.writeBigUInt64LE(BigInt(size), 16);
  return descriptor;
}

/** An entry of the directory at the end (4.3.12). */
export function zipCentralHeader(entry: ZipEntry, { crc, packed, size }: ZipSizes, offset: number): Buffer {
  const name = Buffer.from(entry.name, 'latin1');
  const fields = Buffer.alloc(30);
  fields.writeUInt32LE(crc, 0);
  fields.writeUInt32LE(MAX32, 4);
  fields.writeUInt32LE(MAX32, 8);
  fields.writeUInt16LE(name.length, 12);
  fields.writeUInt16LE(28, 14);
  // 4.4.15: the upper half is the file's mode.
  fields.writeUInt32LE(((entry.mode & MAX16) * 2 ** 16) >>> 0, 22);
  fields.writeUInt32LE(MAX32, 26);
  const extra = Buffer.alloc(28);
  extra.writeUInt16LE(1, 0);
  extra.writeUInt16LE(24, 2);
  extra.writeBigUInt64LE(BigInt(size), 4);
  extra.writeBigUInt64LE(BigInt(packed), 12);
  extra.writeBigUInt64LE(BigInt(offset), 20);
  const made = Buffer.alloc(2);
  made.writeUInt16LE(UNIX | ZIP64);
  return Buffer.concat([Buffer.from('PK\x01\x02', 'latin1'), made, shared(entry), fields, name, extra]);
}

/** 4.3.14 to 4.3.16 */
export function zipEnd(entries: number, start: number, length: number): Buffer {
  const end = Buffer.alloc(56 + 20 + 22);
  end.write('PK\x06\x06', 0, 'latin1');
  end.writeBigUInt64LE(44n, 4);
  end.writeUInt16LE(UNIX | ZIP64, 12);
  end.writeUInt16LE(ZIP64, 14);
  end.writeBigUInt64LE(BigInt(entries), 24);
  end.writeBigUInt64LE(BigInt(entries), 32);
  end.writeBigUInt64LE(BigInt(length), 40);
  end.writeBigUInt64LE(BigInt(start), 48);
  end.write('PK\x06\x07', 56, 'latin1');
  end.writeBigUInt64LE(BigInt(start + length), 64);
  end.writeUInt32LE(1, 72);
  end.write('PK\x05\x06', 76, 'latin1');
  end.writeUInt16LE(MAX16, 84);
  end.writeUInt16LE(MAX16, 86);
  end.writeUInt32LE(MAX32, 88);
  end.writeUInt32LE(MAX32, 92);
  return end;
}

/** Two seconds are its unit, and 1980 to 2107 its range (4.4.6). */
function dosTime(seconds: number): { time: number; date: number } {
  const when = new Date(Math.max(0, seconds) * 1000);
  const year = when.getUTCFullYear() - 1980;
  if (!(year >= 0 && year < 128)) return { time: 0, date: 0x21 };
  return {
    time: (when.getUTCHours() << 11) | (when.getUTCMinutes() << 5) | (when.getUTCSeconds() >> 1),
    date: (year << 9) | ((when.getUTCMonth() + 1) << 5) | when.getUTCDate(),
  };
}

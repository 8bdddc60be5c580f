/** Archives: right ones, those with entries that no archive should have, and those that are broken. */
import { crc32, gzipSync } from 'node:zlib';
import { tarHeader, tarPadding, TAR_END } from '../../src/runner/tar.ts';
import type { Chance } from './requests.ts';

const NAMES = [
  ...['made', 'a/b', 'd/', 'a/b/../../x', '../x', '/etc/x', 'x'.repeat(300), './d/./f', '.', '\udcff', 'a/b'],
  ...['.nox-0.tmp', 'é', 'a'],
];
const CONTENTS = ['', 'x', 'x'.repeat(5000)];

export function archive(kind: 'tar' | 'zip', chance: Chance): Buffer {
  const entries = Array.from({ length: Math.floor(chance.next() * 4) }, (): Entry => {
    // The most are harmless: one that is not refuses all of them.
    const name = chance.often(0.7) ? chance.of(['made', 'a/b', 'd/f', 'main.py']) : chance.of(NAMES);
    return { name: Buffer.from(name).toString('latin1'), content: Buffer.from(chance.of(CONTENTS)) };
  });
  const bytes = kind === 'zip' ? zip(entries) : tar(entries, chance);
  if (chance.often(0.8)) return bytes;
  const at = Math.floor(chance.next() * bytes.length);
  if (chance.often(0.5)) return bytes.subarray(0, at);
  bytes[at] = Math.floor(chance.next() * 256);
  return bytes;
}

interface Entry {
  readonly name: string;
  readonly content: Buffer;
}

function tar(entries: readonly Entry[], chance: Chance): Buffer {
  const parts = entries.flatMap(({ name, content }) => {
    const facts = { name, mode: chance.of([0o644, 0, 0o7777]), mtime: chance.of([0, 1e9, 8e9]) };
    if (chance.often(0.1))
      return [tarHeader({ ...facts, type: 'link', size: 0, target: chance.of(['made', '..', '/etc', 'x']) })];
    const size = content.length;
    return [tarHeader({ ...facts, type: 'file', size }), content, tarPadding(size)];
  });
  return gzipSync(Buffer.concat([...parts, TAR_END]));
}

/** Stored, as APPNOTE.TXT of PKWARE has it (4.3). */
function zip(entries: readonly Entry[]): Buffer {
  const locals: Buffer[] = [];
  const central: Buffer[] = [];
  let offset = 0;
  for (const { name, content } of entries) {
    const names = Buffer.from(name, 'latin1');
    const common = Buffer.alloc(26);
    common.writeUInt16LE(20, 0);
    common.writeUInt32LE(crc32(content), 10);
    common.writeUInt32LE(content.length, 14);
    common.writeUInt32LE(content.length, 18);
    common.writeUInt16LE(names.length, 22);
    const place = Buffer.alloc(14);
    place.writeUInt32LE(offset, 10);
    const local = Buffer.concat([Buffer.from('PK\x03\x04'), common, names, content]);
    central.push(Buffer.from('PK\x01\x02\x14\0', 'latin1'), common, place, names);
    locals.push(local);
    offset += local.length;
  }
  const end = Buffer.alloc(22);
  end.write('PK\x05\x06');
  end.writeUInt16LE(entries.length, 8);
  end.writeUInt16LE(entries.length, 10);
  end.writeUInt32LE(Buffer.concat(central).length, 12);
  end.writeUInt32LE(offset, 16);
  return Buffer.concat([...locals, ...central, end]);
}

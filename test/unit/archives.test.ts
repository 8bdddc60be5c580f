import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { crc32, deflateRawSync, gzipSync } from 'node:zlib';
import { NoxError, type ErrorCode } from '../../src/protocol/errors.ts';
import { ENTRIES_MAX } from '../../src/runner/staging.ts';
import { tarHeader, tarPadding, TAR_END, type TarEntry } from '../../src/runner/tar.ts';
import { zipCentralHeader, zipDescriptor, zipEnd, zipLocalHeader } from '../../src/runner/zip.ts';
import { all, makeWorkspace, pieces, type Bench } from '../support/workspace.ts';

const workspace = 'default';
const never = new AbortController().signal;
const rejectsWith = (code: ErrorCode) => (error: unknown) => error instanceof NoxError && error.code === code;

let bench: Bench;
beforeEach(() => {
  bench = makeWorkspace();
});
afterEach(() => {
  bench.close();
});
const on = (path: string) => join(bench.path, path);

type Format = 'tar.gz' | 'zip';
const unpack = (format: Format, archive: Uint8Array, path = 'to') =>
  bench.files.unpack({ workspace, path, format }, pieces(archive));
const pack = async (format: Format, path = '') =>
  all((await bench.files.pack({ workspace, path, format }, never)).body);

const facts = { mode: 0o644, mtime: 1_700_000_000 };
interface Member extends Partial<Omit<TarEntry, 'name'>> {
  readonly name: string;
  readonly data?: string;
  /** The byte that says what it is. */
  readonly flag?: string;
}

function tar(...members: Member[]): Buffer {
  const parts = members.map(({ data = '', flag, ...rest }) => {
    const entry = { type: 'file' as const, size: Buffer.byteLength(data), ...facts, ...rest };
    const header = tarHeader(entry);
    if (flag !== undefined) mark(header, flag);
    return Buffer.concat([header, Buffer.from(data), tarPadding(Buffer.byteLength(data))]);
  });
  return gzipSync(Buffer.concat([...parts, TAR_END]));
}

function mark(header: Buffer, flag: string): void {
  header.write(flag, 156, 'latin1');
  header.write(' '.repeat(8), 148);
  header.write(
    `${header
      .reduce((sum, byte) => sum + byte, 0)
      .toString(8)
      .padStart(6, '0')}\0 `,
    148,
  );
}

interface ZipMember {
  readonly name: string;
  readonly data?: string | Uint8Array;
  readonly mode?: number;
  /** What the directory says instead. */
  readonly size?: number;
  readonly crc?: number;
  readonly change?: (local: Buffer, central: Buffer) => void;
}

function zip(...members: ZipMember[]): Buffer {
  const parts: Buffer[] = [];
  const directory: Buffer[] = [];
  let offset = 0;
  for (const { name, data = '', mode = 0o100644, size, crc, change } of members) {
    const content = Buffer.from(data as Uint8Array);
    const packed = deflateRawSync(content);
    const entry = { name, mode, mtime: facts.mtime, deflated: true };
    const sizes = { crc: crc ?? crc32(content), packed: packed.length, size: size ?? content.length };
    const local = zipLocalHeader(entry);
    const central = zipCentralHeader(entry, sizes, offset);
    change?.(local, central);
    const whole = Buffer.concat([local, packed, zipDescriptor(sizes)]);
    parts.push(whole);
    directory.push(central);
    offset += whole.length;
  }
  const length = directory.reduce((sum, each) => sum + each.length, 0);
  return Buffer.concat([...parts, ...directory, zipEnd(members.length, offset, length)]);
}

/** Everything below a directory: its kind, permissions, content. */
function picture(dir: string, at = ''): string[] {
  return readdirSync(Buffer.from(join(dir, at)), 'latin1')
    .sort()
    .flatMap((name) => {
      const path = Buffer.concat([Buffer.from(`${join(dir, at)}/`), Buffer.from(name, 'latin1')]);
      const stats = lstatSync(path);
      const shown = join(at, name);
      if (stats.isSymbolicLink()) return [`${shown} -> ${readlinkSync(path)}`];
      if (stats.isDirectory())
        return [`${shown}/`, ...(/^[\x20-\x7e]*$/.test(name) ? picture(dir, shown) : [])];
      if (!stats.isFile()) return [`${shown} other`];
      return [`${shown} ${(stats.mode & 0o777).toString(8)} ${readFileSync(path, 'utf8').slice(0, 40)}`];
    });
}

const FORMATS: Format[] = ['tar.gz', 'zip'];
for (const format of FORMATS) {
  describe(`${format}: out and in`, () => {
    test('what goes out comes back', async () => {
      mkdirSync(on('from/empty'), { recursive: true });
      writeFileSync(on('from/f'), 'text', { mode: 0o640 });
      writeFileSync(on('from/none'), '');
      writeFileSync(on('from/run.sh'), 'x'.repeat(100_000));
      chmodSync(on('from/run.sh'), 0o755);
      mkdirSync(on(`from/${'d'.repeat(120)}/e`), { recursive: true });
      writeFileSync(on(`from/${'d'.repeat(120)}/e/${'n'.repeat(200)}`), 'deep');
      writeFileSync(Buffer.concat([Buffer.from(on('from/')), Buffer.from('\xff\\ \n', 'latin1')]), 'bytes');
      writeFileSync(on('from/é'), 'text');
      symlinkSync('f', on('from/link'));
      symlinkSync(`${'d'.repeat(120)}/e`, on('from/long'));
      execFileSync('mkfifo', [on('from/fifo')]);
      writeFileSync(on('from/closed'), 'closed');
      chmodSync(on('from/closed'), 0);
      const archive = await pack(format, 'from');
      const { entries } = await unpack(format, archive);
      chmodSync(on('from/closed'), 0o600);
      const wanted = picture(on('from')).filter((line) => !line.startsWith('fifo '));
      assert.deepEqual(picture(on('to')), wanted);
      assert.equal(entries, wanted.length);
      assert.deepEqual(readdirSync(bench.path).sort(), ['from', 'to']);
    });

    test('other programs read it', async () => {
      mkdirSync(on('from/d'), { recursive: true });
      writeFileSync(on('from/d/é'), 'text');
      writeFileSync(on('from/e'), '');
      const file = join(bench.outside, 'archive');
      writeFileSync(file, await pack(format, 'from'));
      const code = `
import sys, tarfile, zipfile
if sys.argv[1] == 'zip':
    with zipfile.ZipFile(sys.argv[2]) as archive:
        assert archive.testzip() is None
        print(*((i.filename.rstrip('/'), archive.read(i).decode(), oct(i.external_attr >> 16)) for i in archive.infolist()))
else:
    with tarfile.open(sys.argv[2], 'r:gz') as archive:
        print(*((i.name, archive.extractfile(i).read().decode() if i.isfile() else '', oct(0o40000 * i.isdir() | 0o100000 * i.isfile() | i.mode)) for i in archive))`;
      const out = execFileSync('python3', ['-c', code, format, file], { encoding: 'utf8' });
      assert.equal(out, "('d', '', '0o40755') ('d/é', 'text', '0o100644') ('e', '', '0o100644')\n");
    });

    test('an empty directory', async () => {
      mkdirSync(on('from'));
      await unpack(format, await pack(format, 'from'));
      assert.deepEqual(readdirSync(on('to')), []);
    });

    test('the archives of Python’s own modules', async () => {
      const code = `
import io, sys, tarfile, zipfile
out = io.BytesIO()
if sys.argv[1] == 'zip':
    with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED) as archive:
        archive.writestr('d/f', 'x' * 1000)
        archive.writestr('stored', 'y', zipfile.ZIP_STORED)
else:
    for form in [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]:
        with tarfile.open(fileobj=out, mode='w:gz', format=form) as archive:
            info = tarfile.TarInfo('d/' + 'é' * 60 * (form != 0))
            info.name += 'f'; info.size = 1000
            archive.addfile(info, io.BytesIO(b'x' * 1000))
        sys.stdout.buffer.write(len(out.getvalue()).to_bytes(4, 'big') + out.getvalue()); out = io.BytesIO()
    sys.exit()
sys.stdout.buffer.write(len(out.getvalue()).to_bytes(4, 'big') + out.getvalue())`;
      const out = execFileSync('python3', ['-c', code, format]);
      for (let at = 0, n = 0; at < out.length; n += 1) {
        const size = out.readUInt32BE(at);
        const { bytes } = await unpack(format, out.subarray(at + 4, at + 4 + size), `to${String(n)}`);
        assert.ok(bytes >= 1000);
        assert.equal(readdirSync(on(`to${String(n)}/d`)).length, 1);
        at += 4 + size;
      }
    });
  });
}

describe('where it goes', () => {
  test('into a directory that is there: what it has stays, what has the same name is replaced', async () => {
    mkdirSync(on('to/d'), { recursive: true });
    writeFileSync(on('to/d/old'), 'old');
    writeFileSync(on('to/d/f'), 'old');
    await unpack('tar.gz', tar({ name: 'd/f', data: 'new' }, { name: 'e/g', data: 'g' }));
    assert.deepEqual(picture(on('to')), ['d/', 'd/f 644 new', 'd/old 644 old', 'e/', 'e/g 644 g']);
    await unpack('tar.gz', tar({ name: 'top', data: 't' }), '');
    assert.equal(readFileSync(on('top'), 'utf8'), 't');
  });

  test('a file and a directory in each other’s way: nothing is moved', async () => {
    mkdirSync(on('to/x'), { recursive: true });
    const before = picture(bench.path);
    await assert.rejects(
      () => unpack('tar.gz', tar({ name: 'a', data: 'a' }, { name: 'x', data: 'x' })),
      rejectsWith('already_exists'),
    );
    writeFileSync(on('to/y'), 'y');
    await assert.rejects(
      () => unpack('tar.gz', tar({ name: 'y/z', data: 'x' })),
      rejectsWith('already_exists'),
    );
    await assert.rejects(() => unpack('tar.gz', tar(), 'to/y'), rejectsWith('already_exists'));
    assert.deepEqual(picture(bench.path), [...before, 'to/y 644 y']);
  });

  test('a directory of the workspace that is a link is not gone through', async () => {
    mkdirSync(on('to'));
    symlinkSync(bench.outside, on('to/d'));
    await assert.rejects(
      () => unpack('tar.gz', tar({ name: 'd/f', data: 'x' })),
      rejectsWith('already_exists'),
    );
    assert.deepEqual(readdirSync(bench.outside), ['w']);
  });

  test('a client that goes away, or a full workspace, leaves nothing', async () => {
    const archive = tar({ name: 'f', data: 'x'.repeat(1000) });
    const broken = () =>
      bench.files.unpack(
        { workspace, path: 'to', format: 'tar.gz' },
        pieces(archive.subarray(0, 50), new Error('gone')),
      );
    await assert.rejects(broken, /gone/);
    bench.close();
    bench = makeWorkspace(20_000);
    await assert.rejects(
      () => unpack('tar.gz', tar({ name: 'f', data: 'x'.repeat(20_000) })),
      rejectsWith('workspace_full'),
    );
    await assert.rejects(
      () => unpack('zip', zip({ name: 'f', data: 'x'.repeat(20_000) })),
      rejectsWith('workspace_full'),
    );
    assert.deepEqual(readdirSync(bench.path), []);
  });
});

const HOSTILE: Readonly<Record<string, () => [Format, Uint8Array]>> = {
  'tar: an absolute name': () => ['tar.gz', tar({ name: '/tmp/evil' })],
  'tar: `..`': () => ['tar.gz', tar({ name: 'a/../../evil' })],
  'tar: a file, then the same again': () => [
    'tar.gz',
    tar({ name: 'f', data: '1' }, { name: 'f', data: '2' }),
  ],
  'tar: a link, then a file through it': () => [
    'tar.gz',
    tar({ name: 'd', type: 'link', target: 'e' }, { name: 'd/evil', data: 'x' }),
  ],
  'tar: a link out, up': () => ['tar.gz', tar({ name: 'd', type: 'link', target: '../..' })],
  'tar: a link out, absolute': () => ['tar.gz', tar({ name: 'd', type: 'link', target: '/etc/passwd' })],
  'tar: a link over a file': () => ['tar.gz', tar({ name: 'f' }, { name: 'f', type: 'link', target: 'g' })],
  'tar: a file over a link': () => [
    'tar.gz',
    tar({ name: 'f', type: 'link', target: 'g' }, { name: 'f', data: 'x' }),
  ],
  'tar: a hard link out': () => ['tar.gz', tar({ name: 'h', target: '../../etc/passwd', flag: '1' })],
  'tar: a hard link, absolute': () => ['tar.gz', tar({ name: 'h', target: '/etc/passwd', flag: '1' })],
  'tar: a hard link to a link': () => [
    'tar.gz',
    tar({ name: 'l', type: 'link', target: 'f' }, { name: 'h', target: 'l', flag: '1' }),
  ],
  'tar: a hard link to what is not there': () => ['tar.gz', tar({ name: 'h', target: 'none', flag: '1' })],
  'tar: a character device': () => ['tar.gz', tar({ name: 'null', flag: '3' })],
  'tar: a block device': () => ['tar.gz', tar({ name: 'sda', flag: '4' })],
  'tar: a FIFO': () => ['tar.gz', tar({ name: 'fifo', flag: '6' })],
  'tar: an unknown type': () => ['tar.gz', tar({ name: 'x', flag: 'S' })],
  'tar: a directory over a file': () => ['tar.gz', tar({ name: 'f', data: 'x' }, { name: 'f/g', data: 'x' })],
  'tar: deep': () => ['tar.gz', tar({ name: `${'d/'.repeat(300)}f` })],
  'tar: a long name': () => ['tar.gz', tar({ name: 'n'.repeat(256) })],
  'tar: no name': () => ['tar.gz', tar({ name: './' }, { name: '.' })],
  'tar: a header of 1 GB': () => ['tar.gz', tar({ name: 'x', size: 2 ** 30, flag: 'x' })],
  'tar: broken off in an entry': () => [
    'tar.gz',
    gzipSync(tarHeader({ name: 'f', type: 'file', size: 9999, ...facts })),
  ],
  'tar: broken off in the gzip': () => ['tar.gz', tar({ name: 'f', data: 'x'.repeat(5000) }).subarray(0, 60)],
  'tar: not gzip': () => ['tar.gz', Buffer.from('hello')],
  'tar: not tar': () => ['tar.gz', gzipSync('hello'.repeat(1000))],
  'tar: a bomb': () => [
    'tar.gz',
    gzipSync(
      Buffer.concat([tarHeader({ name: 'f', type: 'file', size: 2 ** 27, ...facts }), Buffer.alloc(2 ** 27)]),
    ),
  ],
  'zip: an absolute name': () => ['zip', zip({ name: '/tmp/evil' })],
  'zip: `..`': () => ['zip', zip({ name: '../evil', data: 'x' })],
  'zip: NUL in a name': () => ['zip', zip({ name: 'a\0b', data: 'x' })],
  'zip: a name twice': () => ['zip', zip({ name: 'f', data: '1' }, { name: 'f', data: '2' })],
  'zip: a link, then a file through it': () => [
    'zip',
    zip({ name: 'd', data: 'e', mode: 0o120777 }, { name: 'd/evil', data: 'x' }),
  ],
  'zip: a link out': () => ['zip', zip({ name: 'd', data: '../../etc', mode: 0o120777 })],
  'zip: a long link': () => ['zip', zip({ name: 'd', data: 'x'.repeat(5000), mode: 0o120777 })],
  'zip: a device': () => ['zip', zip({ name: 'd', mode: 0o020666 })],
  'zip: a FIFO': () => ['zip', zip({ name: 'd', mode: 0o010666 })],
  'zip: encrypted': () => [
    'zip',
    zip({ name: 'f', data: 'x', change: (_local, central) => (central[8] = 9) }),
  ],
  'zip: an unknown compression': () => [
    'zip',
    zip({ name: 'f', data: 'x', change: (_local, central) => (central[10] = 99) }),
  ],
  'zip: a smaller size than it has': () => ['zip', zip({ name: 'f', data: 'x'.repeat(1000), size: 10 })],
  'zip: a larger size than it has': () => ['zip', zip({ name: 'f', data: 'x', size: 1000 })],
  'zip: a wrong checksum': () => ['zip', zip({ name: 'f', data: 'x', crc: 1 })],
  'zip: a directory that points elsewhere': () => [
    'zip',
    zip({
      name: 'f',
      data: 'x',
      change: (_local, central) => central.writeUInt32LE(0xffff, central.length - 8),
    }),
  ],
  'zip: a directory that points beyond the end': () => [
    'zip',
    zip({
      name: 'f',
      data: 'x',
      change: (_local, central) => central.writeUInt32LE(0xffff, central.length - 4),
    }),
  ],
  'zip: broken off': () => ['zip', zip({ name: 'f', data: 'x' }).subarray(0, -30)],
  'zip: no zip': () => ['zip', Buffer.from('hello')],
  'zip: empty': () => ['zip', Buffer.alloc(0)],
  'zip: a bomb': () => ['zip', zip({ name: 'f', data: Buffer.alloc(2 ** 26 + 1) })],
  'zip: entries that share their content': () => {
    const data = Buffer.alloc(2 ** 21);
    const packed = deflateRawSync(data);
    const sizes = { crc: crc32(data), packed: packed.length, size: data.length };
    const entry = (name: string) => ({ name, mode: 0o100644, mtime: 0, deflated: true });
    const names = Array.from({ length: 99 }, (_, n) => `f${String(n).padStart(2, '0')}`);
    const first = Buffer.concat([zipLocalHeader(entry('f00')), packed, zipDescriptor(sizes)]);
    const directory = names.map((name) => zipCentralHeader(entry(name), sizes, 0));
    const length = directory.reduce((sum, each) => sum + each.length, 0);
    return ['zip', Buffer.concat([first, ...directory, zipEnd(99, first.length, length)])];
  },
  'zip: more entries than may be': () => ['zip', Buffer.concat([zipEnd(ENTRIES_MAX + 1, 0, 0)])],
};

describe('hostile archives are refused, and leave nothing', () => {
  for (const [name, make] of Object.entries(HOSTILE))
    test(name, async () => {
      const [format, archive] = make();
      writeFileSync(on('mine'), 'mine');
      const used = bench.disk.used;
      await assert.rejects(() => unpack(format, archive), rejectsWith('hostile_archive'));
      assert.deepEqual(picture(bench.path), ['mine 644 mine']);
      assert.deepEqual(readdirSync(bench.outside), ['w']);
      assert.ok(!existsSync('/tmp/evil'));
      assert.ok(bench.disk.used >= used);
    });

  // What goes wrong in a stream meanwhile is not heard by whoever will read it.
  for (const [name, make] of Object.entries(HOSTILE))
    test(`${name}; the workspace is counted before its entries`, async () => {
      const [format, archive] = make();
      bench.disk.counts = 10;
      await assert.rejects(() => unpack(format, archive), rejectsWith('hostile_archive'));
      assert.deepEqual(readdirSync(bench.path), []);
    });

  test('more entries than may be, in a stream', async () => {
    const empty = tarHeader({ name: 'd', type: 'directory', size: 0, ...facts });
    const many = gzipSync(Buffer.concat(Array.from({ length: ENTRIES_MAX + 1 }, () => empty)));
    bench.close();
    bench = makeWorkspace(2 ** 40);
    await assert.rejects(() => unpack('tar.gz', many), rejectsWith('hostile_archive'));
  });

  test('set-user-id and the like do not come in; hard links inside do', async () => {
    await unpack(
      'tar.gz',
      tar({ name: 'f', data: 'x', mode: 0o6755 }, { name: 'd/h', target: 'f', flag: '1' }),
    );
    assert.equal(statSync(on('to/f')).mode & 0o7777, 0o755);
    assert.equal(statSync(on('to/d/h')).ino, statSync(on('to/f')).ino);
  });
});

test('two archives into one directory at the same time: each wholly, or nothing of it', async () => {
  // A name of the one is a file, of the other a directory; there are so many that the event loop turns in between.
  const members = (letter: string, last: Member) => [
    ...Array.from({ length: 700 }, (_, n) => ({ name: `${letter}${String(n)}`, data: letter })),
    last,
  ];
  mkdirSync(on('to'));
  const done = await Promise.allSettled([
    unpack('tar.gz', tar(...members('a', { name: 'z', data: 'a file' }))),
    unpack('tar.gz', tar(...members('b', { name: 'z/f', data: 'in a directory' }))),
  ]);
  const names = readdirSync(on('to'));
  for (const [index, letter] of ['a', 'b'].entries()) {
    const there = names.filter((name) => name.startsWith(letter)).length;
    assert.equal(there, done[index]?.status === 'fulfilled' ? 700 : 0, letter);
  }
  assert.equal(done.filter(({ status }) => status === 'fulfilled').length, 1);
});

/**
 * Empty files, directories and links take next to no bytes, but each takes one of the inodes that the whole file system
 * shares: every way to make one must come to its end at the limit of the workspace.
 */
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs, {
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, afterEach, beforeEach, describe, mock, test } from 'node:test';
import { FILE_BYTES } from '../../src/protocol/limits.ts';
import { NoxError } from '../../src/protocol/errors.ts';
import { usageOf } from '../../src/runner/trees.ts';
import { Files } from '../../src/runner/files.ts';
import { Workspaces } from '../../src/runner/workspaces.ts';
import { pieces } from '../support/workspace.ts';

const workspace = 'default';
const never = new AbortController().signal;
/** So many may be in it. */
const MAX = 64;
function make() {
  const dir = mkdtempSync(join(tmpdir(), 'nox-many-'));
  const path = join(dir, 'sandbox');
  const faults: unknown[] = [];
  const workspaces = new Workspaces({
    dir: join(dir, 'workspaces'),
    sandbox: path,
    limitBytes: MAX * FILE_BYTES,
    onFault: (error) => faults.push(error),
  });
  return { dir, path, faults, workspaces, files: new Files(workspaces.get(workspace)) };
}

let bench: ReturnType<typeof make>;
/** Entries of others on the file system. */
let others = 0;
/** As of a file system of its own: on that of the machine others make and remove files meanwhile. */
function ownFileSystem(dir: string): void {
  mock.method(fs, 'statfsSync', () => {
    const found = readdirSync(dir, { recursive: true }).map((name) =>
      lstatSync(join(dir, String(name)), { throwIfNoEntry: false }),
    );
    const blocks = found.reduce((sum, stats) => sum + (stats?.blocks ?? 0), 0);
    return {
      blocks: 2 ** 30,
      bfree: 2 ** 30 - blocks,
      bsize: 512,
      files: 2 ** 20,
      ffree: 2 ** 20 - found.length - others,
    };
  });
  syncBuiltinESMExports();
}
beforeEach(() => {
  bench = make();
  others = 0;
  mkdirSync(bench.path);
  ownFileSystem(bench.path);
});
afterEach(() => {
  mock.restoreAll();
  syncBuiltinESMExports();
  bench.workspaces.close();
  rmSync(bench.dir, { recursive: true });
  assert.deepEqual(bench.faults, []);
});
const entries = async () => (await usageOf(bench.path)).entries;
/** @param names in the archive, each of an empty file */
const unpackNames = (n: number, names: (at: string) => readonly string[]) => {
  const data = execFileSync('/usr/bin/python3', ['-c', PACK, ...names(`n${String(n)}`)]);
  return bench.files.unpack({ workspace, path: '', format: 'tar.gz' }, pieces(data));
};
const deep = (name: string) => `${`${name}/`.repeat(20)}f`;
const isFull = (error: unknown) => error instanceof NoxError && error.code === 'workspace_full';

describe('a client that makes many names', () => {
  const doors: Readonly<Record<string, (n: number) => Promise<unknown>>> = {
    'empty files': (n) => bench.files.write({ workspace, path: `f${String(n)}` }, pieces('')),
    'empty files that are appended to': (n) =>
      bench.files.write({ workspace, path: `f${String(n)}`, append: true }, pieces('')),
    'small files, deep': (n) => bench.files.write({ workspace, path: deep(`d${String(n)}`) }, pieces('x')),
    directories: (n) => bench.files.makeDirectory({ workspace, path: `d${String(n)}` }),
    'directories, deep': (n) =>
      bench.files.makeDirectory({
        workspace,
        path: deep(`d${String(n)}`),
        parents: true,
      }),
    'directories on the way of a move': async (n) => {
      if (n === 0) await bench.files.write({ workspace, path: 'f0' }, pieces(''));
      const from = n === 0 ? 'f0' : deep(`d${String(n - 1)}`);
      await bench.files.move({ workspace, from, to: deep(`d${String(n)}`) });
    },
    copies: async (n) => {
      if (n === 0) await bench.files.write({ workspace, path: 'f' }, pieces(''));
      await bench.files.copy({ workspace, from: 'f', to: `to${String(n)}` }, never);
    },
    'copies of trees': async (n) => {
      if (n === 0)
        for (const name of ['a', 'b', 'c']) mkdirSync(join(bench.path, 'tree', name), { recursive: true });
      await bench.files.copy({ workspace, from: 'tree', to: `to${String(n)}` }, never);
    },
    'archives of empty files': (n) => unpackNames(n, (at) => [`${at}/a`, `${at}/b`]),
    'archives of deep paths': (n) => unpackNames(n, (at) => [deep(at)]),
  };
  for (const [what, make] of Object.entries(doors))
    test(`${what}: refused at the limit, and taken again when some are gone`, async () => {
      let made = 0;
      await assert.rejects(async () => {
        for (; made < 10 * MAX; made += 1) await make(made);
      }, isFull);
      const found = await entries();
      assert.ok(found <= MAX, `${String(found)} entries`);
      assert.ok(found >= MAX / 2, `only ${String(found)} entries`);
      for (const name of readdirSync(bench.path))
        await bench.files.remove({ workspace, path: name, recursive: true });
      await bench.files.write({ workspace, path: 'again' }, pieces('x'));
    });

  test('files that a run has made count for what a client makes', async () => {
    for (let n = 0; n < MAX; n += 1) symlinkSync('x', join(bench.path, String(n)));
    await assert.rejects(() => bench.files.write({ workspace, path: 'f' }, pieces('')), isFull);
    assert.equal(await entries(), MAX);
  });

  test('what others free meanwhile hides nothing that is made here', async () => {
    others = 10 * MAX;
    await bench.files.write({ workspace, path: 'before' }, pieces('x'));
    others = 0;
    await bench.files.write({ workspace, path: 'after' }, pieces('x'));
    for (let n = 0; n < MAX; n += 1) symlinkSync('x', join(bench.path, String(n)));
    await assert.rejects(() => bench.files.write({ workspace, path: 'f' }, pieces('')), isFull);
  });

  test('further names of one file are entries too', async () => {
    writeFileSync(join(bench.path, 'f'), 'x');
    for (let n = 1; n < MAX; n += 1) linkSync(join(bench.path, 'f'), join(bench.path, String(n)));
    await assert.rejects(() => bench.files.write({ workspace, path: 'g' }, pieces('')), isFull);
    assert.deepEqual(await usageOf(bench.path), { bytes: 8192, entries: MAX });
  });

  test('what is far beyond the limit is not counted to its end', async () => {
    for (let n = 0; n < 4 * MAX; n += 1) writeFileSync(join(bench.path, String(n)), '');
    assert.equal((await usageOf(bench.path, '', MAX)).entries, MAX + 1);
    await assert.rejects(() => bench.files.write({ workspace, path: 'g' }, pieces('')), isFull);
  });

  test('to remove a large file frees nothing where the entries decide', async () => {
    await bench.files.write({ workspace, path: 'large' }, pieces('x'.repeat((MAX / 2) * FILE_BYTES)));
    for (let n = 1; n < MAX - 2; n += 1) writeFileSync(join(bench.path, String(n)), '');
    await bench.files.remove({ workspace, path: 'large' });
    let more = 0;
    await assert.rejects(async () => {
      for (; more < MAX; more += 1)
        await bench.files.write({ workspace, path: `f${String(more)}` }, pieces(''));
    }, isFull);
    assert.ok((await entries()) <= MAX, String(more));
  });

  test('larger files count with their bytes, not twice', async () => {
    for (let n = 0; n < 6; n += 1)
      await bench.files.write({ workspace, path: `f${String(n)}` }, pieces('x'.repeat(10 * FILE_BYTES)));
    assert.equal(await entries(), 6);
  });
});

describe('copies of a workspace with many names', () => {
  beforeEach(() => {
    for (let n = 0; n < MAX / 2; n += 1) writeFileSync(join(bench.path, String(n)), '');
  });

  test('snapshots come to no more than the workspace may hold', async () => {
    const first = await bench.workspaces.snapshot({ workspace }, never);
    assert.equal(first.bytes, (MAX / 2) * FILE_BYTES);
    await bench.workspaces.snapshot({ workspace }, never);
    await assert.rejects(() => bench.workspaces.snapshot({ workspace }, never), isFull);
    assert.equal(bench.workspaces.snapshots(workspace).length, 2);
  });

  test('a clone has room for them or is not made', async () => {
    const clone = (id: string, entries: number) =>
      bench.workspaces.clone({ workspace, owner: 'x', id, quotaBytes: entries * FILE_BYTES }, never);
    await assert.rejects(() => clone('small', MAX / 2 - 1), isFull);
    await clone('enough', MAX / 2);
  });
});

test('to copy a tree of long paths takes little memory', () => {
  const dir = mkdtempSync(join(tmpdir(), 'nox-long-'));
  try {
    mkdirSync(join(dir, 'to'));
    execFileSync('/usr/bin/python3', ['-c', LONG, join(dir, 'from')]);
    const program = new URL('../../src/runner/trees.py', import.meta.url).pathname;
    const copy = [program, 'copy', join(dir, 'from'), '', join(dir, 'to'), '', '1000000000', '16384'];
    const told = execFileSync('/usr/bin/python3', ['-c', PEAK, ...copy], { encoding: 'utf8' });
    const [share = 0, peakKib = 0] = told.trim().split('\n').map(Number);
    assert.equal(share, 3000 * 16_384);
    assert.ok(peakKib < 100_000, `${String(peakKib)} KiB`);
  } finally {
    execFileSync('rm', ['-rf', dir]);
  }
});

describe('a tree that is too deep to be looked into', () => {
  const dir = mkdtempSync(join(tmpdir(), 'nox-deep-'));
  after(() => {
    execFileSync('rm', ['-rf', dir]);
  });

  test('has more than anybody may have', () => {
    execFileSync('/usr/bin/python3', ['-c', DIG, dir]);
    const program = new URL('../../src/runner/trees.py', import.meta.url).pathname;
    const count = (descriptors: string) => {
      const argv = [
        '-c',
        `ulimit -n ${descriptors}; exec /usr/bin/python3 -I -S "$0" count "$1" '' 1000000`,
        program,
        dir,
      ];
      return execFileSync('/bin/bash', argv, { encoding: 'utf8' }).trim().split(' ').map(Number);
    };
    assert.equal(count('1000')[1], 200);
    assert.ok((count('100')[1] ?? 0) > 2 ** 31);
  });
});

const DIG = `
import os, sys
os.chdir(sys.argv[1])
for _ in range(200):
    os.mkdir('d')
    os.chdir('d')`;
const PACK = `
import sys, tarfile
with tarfile.open(fileobj=sys.stdout.buffer, mode='w|gz') as archive:
    for name in sys.argv[1:]: archive.addfile(tarfile.TarInfo(name))`;

/** Directories in each other, in each a file with two names. */
const LONG = `
import os, sys
os.mkdir(sys.argv[1])
os.chdir(sys.argv[1])
for n in range(1000):
    open('f', 'w').close()
    os.link('f', 'g')
    if n < 999:
        os.mkdir('d' * 255)
        os.chdir('d' * 255)
    else:
        os.mkdir('e')`;
const PEAK = `
import resource, subprocess, sys
subprocess.run(['/usr/bin/python3', '-I', '-S', *sys.argv[1:]], check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)`;

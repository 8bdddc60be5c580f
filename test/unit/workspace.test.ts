import assert from 'node:assert/strict';
import { execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import {
  accessSync,
  chmodSync,
  constants,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  unlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import fc from 'fast-check';
import { ERRORS, NoxError } from '../../src/protocol/errors.ts';
import { FILE_BYTES } from '../../src/protocol/limits.ts';
import { pathNames, Workspace } from '../../src/runner/workspace.ts';
import type { Room } from '../../src/runner/write.ts';

const ROOM = 2 ** 20;

function roomOf(bytes: number): Room {
  let room = bytes;
  const takeNow = (wanted: number) => {
    const taken = wanted <= room;
    if (taken) room -= wanted;
    return taken;
  };
  return {
    get room() {
      return room;
    },
    takeNow,
    take: (wanted) => Promise.resolve(takeNow(wanted)),
    ready: () => Promise.resolve(),
    giveBack: (back) => {
      room += back;
    },
  };
}
const TEMPORARY = /^\.nox-/;
const NOBODY = 60_600;

// No permission binds root, so that what is tested here would not be: the file becomes another user for good.
if (process.geteuid?.() === 0) {
  process.setgroups?.([]);
  process.setgid?.(NOBODY);
  process.setuid?.(NOBODY);
}

/** In memory where that can be had: every write is synced, and the properties write some thousand times. */
const BASE = (() => {
  try {
    accessSync('/dev/shm', constants.W_OK);
    return '/dev/shm';
  } catch {
    return tmpdir();
  }
})();

let top: string;
let root: string;
let outside: string;
let workspace: Workspace;

function setUp(): void {
  top = realpathSync(mkdtempSync(join(BASE, 'nox-workspace-')));
  root = join(top, 'w');
  outside = join(top, 'outside');
  mkdirSync(root);
  mkdirSync(outside);
  workspace = new Workspace(root);
}
function tearDown(): void {
  try {
    rmSync(top, { recursive: true, force: true });
  } catch {
    // Permissions were taken away, or a path is longer than PATH_MAX.
    spawnSync('/usr/bin/chmod', ['-R', 'u+rwX', top]);
    execFileSync('/usr/bin/rm', ['-rf', top]);
  }
}
beforeEach(setUp);
afterEach(tearDown);

const inside = (...names: string[]) => join(root, ...names);
const text = (...names: string[]) => readFileSync(inside(...names), 'utf8');
const mode = (...names: string[]) => lstatSync(inside(...names)).mode & 0o777;
const write = (path: string, content = 'new', room = ROOM) =>
  workspace.write(path, [Buffer.from(content)], roomOf(room));
const mkfifo = (path: string) => execFileSync('/usr/bin/mkfifo', [path]);

function temporaries(): string[] {
  return readdirSync(root).filter((name) => TEMPORARY.test(name));
}

async function refused(path: string, why?: RegExp): Promise<void> {
  await assert.rejects(write(path), (error) => {
    assert.ok(error instanceof NoxError, String(error));
    assert.equal(error.code, 'invalid_path');
    if (why !== undefined) assert.match(error.message, why);
    return true;
  });
  assert.deepEqual(temporaries(), [], 'nothing unfinished is left');
}

/** Everything below a directory, by lstat, with contents: what "nothing changed" means. */
function snapshot(dir: string): unknown[] {
  return readdirSync(dir, { withFileTypes: true, recursive: true })
    .map((entry) => {
      const path = join(entry.parentPath, entry.name);
      const { mode: bits, mtimeMs, ino, nlink } = lstatSync(path);
      const content = entry.isFile()
        ? readFileSync(path, 'utf8')
        : entry.isSymbolicLink()
          ? readlinkSync(path)
          : '';
      return [path, bits, mtimeMs, ino, nlink, content];
    })
    .concat([[dir, lstatSync(dir).mtimeMs]])
    .sort((a, b) => (String(a[0]) < String(b[0]) ? -1 : 1));
}

describe('pathNames', () => {
  for (const [path, names] of [
    ['a', ['a']],
    ['/a', ['a']],
    ['///a//b', ['a', 'b']],
    ['./a/./b', ['a', 'b']],
    ['..a/b..', ['..a', 'b..']],
    ['...', ['...']],
    ['a b/é/日本/-rf', ['a b', 'é', '日本', '-rf']],
    ['a\\b', ['a\\b']],
    ['%2e%2e', ['%2e%2e']],
  ] as const) {
    test(`${JSON.stringify(path)} is ${JSON.stringify(names)}`, () => {
      assert.deepEqual(pathNames(path), names);
    });
  }

  for (const [path, why] of [
    ['', /empty/],
    ['/', /empty/],
    ['.', /empty/],
    ['././/', /empty/],
    ['..', /`\.\.`/],
    ['a/../b', /`\.\.`/],
    ['/..', /`\.\.`/],
    ['a/..', /`\.\.`/],
    ['a\0b', /NUL/],
    ['a/', /directory/],
    ['a/.', /directory/],
    ['a'.repeat(256), /longer than 255/],
    [`${'é'.repeat(128)}/a`, /longer than 255/],
    ['a/'.repeat(2048), /longer than 4095/],
  ] as const) {
    test(`${JSON.stringify(path.slice(0, 20))} is refused: ${String(why)}`, () => {
      assert.throws(
        () => pathNames(path),
        (error) => error instanceof NoxError && error.code === 'invalid_path' && why.test(error.message),
      );
    });
  }

  test('the longest name and the longest path are taken', () => {
    assert.deepEqual(pathNames('a'.repeat(255)), ['a'.repeat(255)]);
    assert.equal(pathNames('é'.repeat(127)).length, 1);
    assert.equal(pathNames(`${'a/'.repeat(2047)}a`).length, 2048);
  });

  const wild = fc
    .array(
      fc.oneof(
        fc.constantFrom('/', '/', '.', '..', '\0', 'a', '../', './', '//'),
        fc.string({ unit: 'binary', maxLength: 4 }),
      ),
      { maxLength: 12 },
    )
    .map((parts) => parts.join(''));

  test('property: what comes out is safe to walk, and is the path that went in', () => {
    fc.assert(
      fc.property(wild, (path) => {
        let names: string[];
        try {
          names = pathNames(path);
        } catch (error) {
          assert.ok(error instanceof NoxError && error.code === 'invalid_path', String(error));
          return;
        }
        assert.ok(names.length > 0);
        for (const name of names) {
          assert.ok(!['', '.', '..'].includes(name) && !/[/\0]/.test(name), JSON.stringify(name));
          assert.ok(Buffer.byteLength(name) <= 255);
        }
        assert.equal(join('/', ...names), join('/', path));
      }),
      { numRuns: 3000 },
    );
  });

  test('property: a message repeats at most 200 characters of the path', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'binary', minLength: 5000, maxLength: 9000 }), (path) => {
        assert.throws(
          () => pathNames(path),
          (error: Error) => error.message.length < 200 * 6 + 100,
        );
      }),
      { numRuns: 20 },
    );
  });
});

describe('Workspace.write', () => {
  test('a new file, its size, and where it is', async () => {
    assert.deepEqual(await write('a.txt', 'hello'), { saved: inside('a.txt'), bytes: 5 });
    assert.equal(text('a.txt'), 'hello');
    assert.equal(mode('a.txt'), 0o644);
    assert.deepEqual(readdirSync(root), ['a.txt']);
  });

  test('parents are made, those that are there are used', async () => {
    mkdirSync(inside('a'));
    assert.equal((await write('/a/b/./c/d')).saved, inside('a', 'b', 'c', 'd'));
    assert.equal(text('a', 'b', 'c', 'd'), 'new');
    assert.equal(mode('a', 'b'), 0o755);
  });

  test('an empty body is an empty file', async () => {
    assert.equal((await workspace.write('e', [], roomOf(ROOM))).bytes, 0);
    assert.equal(text('e'), '');
  });

  test('chunks of every size come out in their order', async () => {
    const chunks = [0, 1, 70_000, 0, 3].map((length, index) => Buffer.alloc(length, 65 + index));
    await workspace.write('f', chunks, roomOf(ROOM));
    assert.ok(readFileSync(inside('f')).equals(Buffer.concat(chunks)));
  });

  test('the longest name and the deepest path', async () => {
    assert.equal((await write('a'.repeat(255))).bytes, 3);
    const { saved } = await write(`${'d/'.repeat(2047)}f`, 'new', 2048 * FILE_BYTES);
    assert.equal(saved, inside(...Array.from({ length: 2047 }, () => 'd'), 'f'));
    await write(`${'é'.repeat(127)}/x`);
    assert.equal(text('é'.repeat(127), 'x'), 'new');
  });

  test('a workspace that is missing is made', async () => {
    workspace = new Workspace(join(root, 'not', 'yet'));
    await write('a');
    assert.equal(text('not', 'yet', 'a'), 'new');
  });

  test('the old file is replaced, not written into: who has it open keeps it, other links keep it', async () => {
    writeFileSync(inside('old'), 'old');
    linkSync(inside('old'), inside('other'));
    const { ino } = statSync(inside('old'));
    await write('old');
    assert.equal(text('old'), 'new');
    assert.equal(text('other'), 'old');
    assert.notEqual(statSync(inside('old')).ino, ino);
  });

  test('a read-only file is replaced', async () => {
    writeFileSync(inside('old'), 'old', { mode: 0o400 });
    await write('old');
    assert.equal(text('old'), 'new');
  });

  test('a reader sees the old file or the new one, never half', async () => {
    const versions = ['a', 'b'].map((letter) => letter.repeat(300_000));
    const [first = '', second = ''] = versions;
    writeFileSync(inside('f'), first);
    const state = { reading: true };
    const seen = new Set<string>();
    const reader = (async () => {
      while (state.reading) {
        seen.add(text('f'));
        await setImmediate();
      }
    })();
    for (const version of [second, first, second]) {
      const body = (async function* () {
        for (let at = 0; at < version.length; at += 30_000) {
          yield Buffer.from(version.slice(at, at + 30_000));
          await setImmediate();
        }
      })();
      await workspace.write('f', body, roomOf(ROOM));
    }
    state.reading = false;
    await reader;
    assert.ok([...seen].every((content) => versions.includes(content)));
    assert.equal(seen.size, 2, 'both were seen');
  });

  test('writers of the same name at the same time: one of them wins, none fails', async () => {
    const contents = Array.from({ length: 20 }, (_, index) => String(index).repeat(50_000));
    await Promise.all(contents.map((content) => write('d/f', content)));
    assert.ok(contents.includes(text('d', 'f')));
    assert.deepEqual(temporaries(), []);
  });

  test('no descriptor stays open, whether it works or not', async () => {
    symlinkSync('../outside', inside('l'));
    const open = () => readdirSync('/proc/self/fd').length;
    await write('a/b/c');
    const before = open();
    for (let count = 0; count < 20; count += 1) {
      await write('a/b/c');
      await refused('a/b/c/d');
      await refused('l/x');
      await assert.rejects(write('a/b/c', 'xxx', 2));
    }
    assert.equal(open(), before);
  });

  describe('a body that fails', () => {
    const failing = async function* (error: Error) {
      yield Buffer.from('ha');
      await setImmediate();
      throw error;
    };

    test('leaves the old file and no temporary', async () => {
      writeFileSync(inside('f'), 'old');
      const error = new Error('the client went away');
      await assert.rejects(workspace.write('f', failing(error), roomOf(ROOM)), error);
      assert.equal(text('f'), 'old');
      assert.deepEqual(readdirSync(root), ['f']);
    });

    test('its own error is told, and no temporary is left, though a run took the permissions away meanwhile', async () => {
      writeFileSync(inside('f'), 'old');
      const error = new Error('the client went away');
      const body = (async function* () {
        yield Buffer.from('ha');
        await setImmediate();
        chmodSync(root, 0);
        throw error;
      })();
      const told = await workspace.write('f', body, roomOf(ROOM)).catch((each: unknown) => each);
      chmodSync(root, 0o700);
      assert.deepEqual(readdirSync(root), ['f']);
      assert.equal(told, error);
    });

    test('leaves no directories that were to be parents', async () => {
      await assert.rejects(workspace.write('a/b/f', failing(new Error('x')), roomOf(ROOM)));
      assert.deepEqual(readdirSync(root), []);
    });
  });

  describe('room', () => {
    const FULL = 20_000;

    test('exactly full is allowed', async () => {
      assert.equal((await write('f', 'x'.repeat(FULL), FULL)).bytes, FULL);
    });

    test('one byte more is workspace_full, the old file stays, nothing unfinished is left', async () => {
      writeFileSync(inside('f'), 'old');
      for (const chunks of [['x'.repeat(FULL + 1)], ['x'.repeat(FULL), 'x']]) {
        const body = chunks.map((chunk) => Buffer.from(chunk));
        await assert.rejects(workspace.write('f', body, roomOf(FULL)), {
          code: 'workspace_full',
          message: /room for 20000 bytes/,
        });
      }
      assert.equal(text('f'), 'old');
      assert.deepEqual(readdirSync(root), ['f']);
    });

    test('a workspace that is over its limit takes an empty file and says that it has no room', async () => {
      await assert.rejects(write('f', 'x', -5), { code: 'workspace_full', message: /room for 0 bytes/ });
    });

    test('the body is not read further than the room goes', async () => {
      let produced = 0;
      const body = (async function* () {
        for (;;) {
          produced += 1000;
          await setImmediate();
          yield Buffer.alloc(1000);
        }
      })();
      await assert.rejects(workspace.write('f', body, roomOf(FULL)), { code: 'workspace_full' });
      assert.equal(produced, FULL + 1000);
    });
  });

  describe('symbolic links', () => {
    beforeEach(() => {
      mkdirSync(inside('d', 'e'), { recursive: true });
      writeFileSync(inside('d', 'f'), 'old');
      writeFileSync(join(outside, 'f'), 'outside');
    });

    for (const [what, target, path, saved] of [
      ['to a directory', 'd', 'l/x', 'd/x'],
      ['to a directory, absolute', '@/d', 'l/x', 'd/x'],
      ['to the workspace itself, absolute', '@', 'l/x', 'x'],
      ['to the workspace itself, absolute with more slashes', '@//.//d/', 'l/x', 'd/x'],
      ['to a file', 'd/f', 'l', 'd/f'],
      ['to a file, absolute', '@/d/f', 'l', 'd/f'],
      ['to nothing', 'd/new', 'l', 'd/new'],
      ['to nothing, in directories that are not there', 'n/m/new', 'l', 'n/m/new'],
      ['through `..`', 'd/e/../f', 'l', 'd/f'],
      ['to `.`', '.', 'l/x', 'x'],
      ['with slashes at its end', 'd//', 'l/x', 'd/x'],
    ] as const) {
      test(`${what}: ${target} is followed inside the workspace and stays a link`, async () => {
        symlinkSync(target.replace('@', root), inside('l'));
        assert.equal((await write(path)).saved, inside(saved));
        assert.equal(text(saved), 'new');
        assert.ok(lstatSync(inside('l')).isSymbolicLink());
      });
    }

    for (const [what, target, path] of [
      ['to a directory outside', '../outside', 'l/x'],
      ['to a directory outside, absolute', '#/outside', 'l/x'],
      ['to a file outside', '../outside/f', 'l'],
      ['to a file outside, absolute', '#/outside/f', 'l'],
      ['to nothing outside', '../outside/new', 'l'],
      ['to the parent', '..', 'l/outside/f'],
      ['to the root', '/', 'l/tmp/x'],
      ['out and in again', '../w/d', 'l/x'],
      ['absolute, out and in again', '#/w/../w/d', 'l/x'],
      ['absolute, out by `..`', '@/../outside', 'l/x'],
      ['to a directory whose name begins as the workspace’s', '#/wide', 'l/x'],
      ['through /proc', '/proc/self/cwd', 'l/x'],
      ['through /proc/self/root', '/proc/self/root', 'l/tmp/x'],
    ] as const) {
      test(`${what}: ${target} is refused, and nothing outside changes`, async () => {
        mkdirSync(join(top, 'wide'));
        symlinkSync(target.replace('@', root).replace('#', top), inside('l'));
        const before = [snapshot(outside), snapshot(join(top, 'wide'))];
        await refused(path, /leaves the workspace/);
        assert.deepEqual([snapshot(outside), snapshot(join(top, 'wide'))], before);
        assert.ok(lstatSync(inside('l')).isSymbolicLink());
      });
    }

    test('`..` after a link goes to the parent of where the link led, as the kernel has it', async () => {
      mkdirSync(inside('p', 'q'), { recursive: true });
      symlinkSync('p/q', inside('l'));
      symlinkSync('l/../x', inside('m'));
      assert.equal((await write('m')).saved, inside('p', 'x'));
    });

    test('a chain of 40 is followed, one of 41 and a loop are not', async () => {
      symlinkSync('d', inside('l1'));
      for (let count = 2; count <= 41; count += 1)
        symlinkSync(`l${String(count - 1)}`, inside(`l${String(count)}`));
      assert.equal((await write('l40/x')).saved, inside('d', 'x'));
      await refused('l41/x', /too many/);
      symlinkSync('loop', inside('loop'));
      await refused('loop', /too many/);
      await refused('loop/x', /too many/);
      symlinkSync('pong', inside('ping'));
      symlinkSync('ping', inside('pong'));
      await refused('ping/x', /too many/);
    });

    test('links that double at each step end soon', async () => {
      symlinkSync('d/..', inside('b0'));
      for (let count = 1; count < 40; count += 1) {
        const previous = `b${String(count - 1)}`;
        symlinkSync(`${previous}/${previous}`, inside(`b${String(count)}`));
      }
      await refused('b39/x', /too many/);
    });

    test('a link to a directory in the place of the file is refused', async () => {
      symlinkSync('d', inside('l'));
      await refused('l', /is a directory/);
      symlinkSync('d/e/..', inside('m'));
      await refused('m', /is a directory/);
      symlinkSync('.', inside('n'));
      await refused('n', /is a directory/);
    });

    test('a link to a file in the place of a directory is refused', async () => {
      symlinkSync('d/f', inside('l'));
      await refused('l/x', /not a directory/);
      assert.equal(text('d', 'f'), 'old');
    });

    test('a link with a name that is too long for the kernel is refused by name', async () => {
      symlinkSync('n'.repeat(300), inside('l'));
      await refused('l');
      await refused('l/x');
    });
  });

  describe('what else can stand in the way', () => {
    test('a directory in the place of the file is refused and stays', async () => {
      mkdirSync(inside('d'));
      await refused('d', /is a directory/);
      assert.ok(lstatSync(inside('d')).isDirectory());
    });

    test('a file in the place of a directory is refused and stays', async () => {
      writeFileSync(inside('f'), 'old');
      await refused('f/x', /not a directory/);
      await refused('f/x/y', /not a directory/);
      assert.equal(text('f'), 'old');
    });

    test('a FIFO and a socket in the place of the file are replaced, without waiting for a reader', async () => {
      mkfifo(inside('fifo'));
      await write('fifo');
      assert.equal(text('fifo'), 'new');
      const server = createServer().listen(inside('socket'));
      await once(server, 'listening');
      await write('socket');
      assert.equal(text('socket'), 'new');
      server.close();
    });

    test('a FIFO and a socket in the place of a directory are refused', async () => {
      mkfifo(inside('fifo'));
      await refused('fifo/x', /not a directory/);
      const server = createServer().listen(inside('socket'));
      await once(server, 'listening');
      await refused('socket/x', /not a directory/);
      server.close();
    });
  });

  describe('permissions that a run took away', () => {
    for (const bits of [0o000, 0o100, 0o200, 0o300, 0o400, 0o500, 0o600]) {
      test(`workspace, parent and grandparent of mode ${bits.toString(8)}`, async () => {
        mkdirSync(inside('a', 'b'), { recursive: true });
        writeFileSync(inside('a', 'b', 'f'), 'old');
        for (const dir of [inside('a', 'b'), inside('a'), root]) chmodSync(dir, bits);
        await write('a/b/f');
        await write('a/b/new/f');
        await write('a/x');
        await write('x');
        for (const dir of [root, inside('a'), inside('a', 'b')]) chmodSync(dir, 0o700);
        for (const path of ['a/b/f', 'a/b/new/f', 'a/x', 'x']) assert.equal(text(path), 'new', path);
        assert.deepEqual(temporaries(), []);
      });
    }

    test('by way of a link into a directory of mode 0, and out of one', async () => {
      mkdirSync(inside('a', 'b'), { recursive: true });
      symlinkSync('../x/f', inside('a', 'l'));
      mkdirSync(inside('x'));
      for (const name of ['a', 'x']) chmodSync(inside(name), 0);
      await write('a/l');
      assert.equal(text('x', 'f'), 'new');
    });

    test('while the body is coming', async () => {
      mkdirSync(inside('d'));
      for (const path of ['f', 'd/f', 'd/new/f']) {
        const body = (async function* () {
          yield Buffer.from('n');
          await setImmediate();
          chmodSync(inside('d'), 0);
          chmodSync(root, 0);
          yield Buffer.from('ew');
        })();
        await workspace.write(path, body, roomOf(ROOM));
        assert.equal(text(path), 'new', path);
        assert.deepEqual(temporaries(), []);
      }
    });
  });

  test('a race: whatever a run puts in the way meanwhile, it is never a fault of the machine', async () => {
    const run = spawn(
      '/usr/bin/python3',
      [
        '-c',
        `
import os, shutil, sys
os.chdir(sys.argv[1])
def clear():
    for name in ("t", "u"):
        try: os.unlink(name)
        except IsADirectoryError: shutil.rmtree(name, ignore_errors=True)
        except OSError: pass
def step(action):
    try: action()
    except OSError: pass
print("ready", flush=True)
while True:
    step(lambda: os.symlink("../outside", "u")); step(lambda: os.rename("u", "t")); clear()
    step(lambda: os.mkdir("t")); step(lambda: os.mkdir("t/f")); clear()
    step(lambda: open("t", "x").close()); clear()
    step(lambda: os.mkdir("t")); step(lambda: os.symlink("../../outside/f", "t/f")); clear()
    step(lambda: os.mkdir("t")); step(lambda: os.symlink("../outside", "u"))
    step(lambda: os.chmod("t", 0)); clear()
`,
        root,
      ],
      { stdio: ['ignore', 'pipe', 'ignore'] },
    );
    const exited = once(run, 'close');
    await once(run.stdout, 'data');
    const others = new Set<string>();
    const tally = { saved: 0, refused: 0 };
    const end = performance.now() + 3000;
    while (performance.now() < end) {
      for (const path of ['t/f', 't', 't/f/g']) {
        try {
          await write(path);
          tally.saved += 1;
        } catch (error) {
          if (error instanceof NoxError && ERRORS[error.code].status < 500) tally.refused += 1;
          else others.add(String(error).replace(/\.nox-[0-9a-f]+\.tmp|\/fd\/\d+/g, '…'));
        }
      }
    }
    run.kill('SIGKILL');
    await exited;
    assert.deepEqual(readdirSync(outside), [], 'nothing landed outside');
    assert.ok(tally.saved > 0 && tally.refused > 0, JSON.stringify(tally));
    assert.deepEqual([...others], []);
    assert.deepEqual(temporaries(), []);
  });

  test('a race: a directory that is exchanged for a link as fast as can be never leads outside', async () => {
    mkdirSync(inside('t'));
    symlinkSync('../outside', inside('u'));
    const run = spawn(
      '/usr/bin/python3',
      [
        '-c',
        `
import ctypes, os, sys
os.chdir(sys.argv[1])
exchange = ctypes.CDLL(None).renameat2
print("ready", flush=True)
while True: exchange(-100, b"t", -100, b"u", 2)  # AT_FDCWD, RENAME_EXCHANGE
`,
        root,
      ],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    );
    const exited = once(run, 'close');
    await once(run.stdout, 'data');
    const tally = { saved: 0, refused: 0 };
    const end = performance.now() + 2000;
    while (performance.now() < end) {
      try {
        await write('t/f');
        tally.saved += 1;
      } catch (error) {
        assert.ok(error instanceof NoxError && error.code === 'invalid_path', String(error));
        tally.refused += 1;
      }
    }
    run.kill('SIGKILL');
    await exited;
    assert.deepEqual(readdirSync(outside), []);
    assert.ok(tally.saved > 0 && tally.refused > 0, JSON.stringify(tally));
  });

  describe('properties', () => {
    type Entry = { readonly at: string; readonly is: 'dir' | 'file' | 'link'; readonly target: string };
    const name = fc.constantFrom('a', 'b', 'c', 'd');
    const short = fc.array(name, { minLength: 1, maxLength: 3 }).map((names) => names.join('/'));
    const near = fc
      .array(
        fc.oneof({ weight: 4, arbitrary: name }, { weight: 2, arbitrary: fc.constantFrom('..', '.', '') }),
        {
          minLength: 1,
          maxLength: 5,
        },
      )
      .map((names) => names.join('/'))
      // A target that ends with a slash says "a directory"; the kernel would not make a file by it, Nox does.
      .filter((target) => !/^\/|^$|(^|\/)\.?$/.test(target));
    const absolute = near.map((target) => `@/${target}`);
    const far = fc.oneof(
      near.map((target) => `#/outside/${target}`),
      near.map((target) => `../${target}/outside/a`),
      near.map((target) => `${target}/../../outside/a`),
      near.map((target) => `@/../outside/${target}`),
      fc.constantFrom(
        '/',
        '#',
        '#/outside',
        '#/outside/a',
        '../outside',
        '../../outside',
        '../../../outside/b',
      ),
    );
    const entries = (target: fc.Arbitrary<string>): fc.Arbitrary<Entry[]> =>
      fc.array(
        fc.record({
          at: short,
          is: fc.constantFrom('dir' as const, 'file' as const, 'link' as const, 'link' as const),
          target,
        }),
        { maxLength: 10 },
      );

    function build(tree: readonly Entry[]): void {
      mkdirSync(join(outside, 'b'));
      writeFileSync(join(outside, 'a'), 'outside');
      for (const { at, is, target } of tree) {
        const path = inside(at);
        try {
          // Not through links: what is built must not itself leave.
          if (realpathSync(join(path, '..')) !== join(path, '..')) continue;
          if (is === 'dir') mkdirSync(path);
          else if (is === 'file') writeFileSync(path, 'old', { flag: 'wx' });
          else symlinkSync(target.replace('@', root).replace('#', top), path);
        } catch {
          // Something else of the tree has the place, or the parent is missing.
        }
      }
    }

    async function tryWrite(path: string): Promise<string | undefined> {
      try {
        return (await write(path)).saved;
      } catch (error) {
        assert.ok(error instanceof NoxError && error.code === 'invalid_path', String(error));
        return undefined;
      } finally {
        assert.deepEqual(temporaries(), []);
      }
    }

    test('whatever names and links are there, a write is refused or lands inside, and nothing outside changes', async () => {
      await fc.assert(
        fc.asyncProperty(entries(fc.oneof(near, absolute, far)), short, async (tree, path) => {
          build(tree);
          const before = snapshot(outside);
          const saved = await tryWrite(path);
          assert.deepEqual(snapshot(outside), before);
          assert.deepEqual(readdirSync(top).sort(), ['outside', 'w']);
          if (saved === undefined) return;
          assert.ok(saved.startsWith(`${root}/`));
          assert.equal(realpathSync(saved), saved, 'no link is left in what is answered');
          assert.equal(readFileSync(saved, 'utf8'), 'new');
          assert.equal(text(path), 'new', 'a run that opens the path sees the file');
        }),
        { numRuns: 1500, plugins: [fc.beforeEach(setUpAgain), fc.afterEach(tearDown)] },
      );
    });

    test('where the kernel finds a file by links that stay inside, the write replaces that file', async () => {
      let found = 0;
      await fc.assert(
        fc.asyncProperty(entries(fc.oneof(near, absolute)), short, async (tree, path) => {
          build(tree);
          let real: string | undefined;
          try {
            real = realpathSync(inside(path));
          } catch {
            // Nothing there, a loop, or a file in the place of a directory.
          }
          const expected =
            real?.startsWith(`${root}/`) === true && statSync(real).isFile() ? real : undefined;
          const saved = await tryWrite(path);
          if (expected === undefined) return;
          found += 1;
          assert.equal(saved, expected);
        }),
        { numRuns: 1000, plugins: [fc.beforeEach(setUpAgain), fc.afterEach(tearDown)] },
      );
      assert.ok(found > 5, `${String(found)} of the trees had such a file`);
    });

    /** The hooks of the file made one already, which the hook after the test would not find. */
    function setUpAgain(): void {
      if (existsSync(top)) tearDown();
      setUp();
    }
  });
});

describe('Workspace.claim and release', () => {
  test('an empty file stands there while it is claimed, and nothing is left afterwards', () => {
    const claimed = workspace.claim('run.py');
    assert.equal(claimed, 'run.py');
    assert.equal(text('run.py'), '');
    workspace.release(claimed);
    assert.deepEqual(readdirSync(root), []);
  });

  test('the last one to release removes it', () => {
    const names = [1, 2, 3].map(() => workspace.claim('run.py'));
    assert.deepEqual(names, ['run.py', 'run.py', 'run.py']);
    workspace.release('run.py');
    workspace.release('run.py');
    assert.deepEqual(readdirSync(root), ['run.py']);
    workspace.release('run.py');
    assert.deepEqual(readdirSync(root), []);
    workspace.claim('run.py');
    workspace.release('run.py');
    assert.deepEqual(readdirSync(root), []);
  });

  for (const content of ['print(1)', '']) {
    test(`a file of the user’s is used and stays as it was, with ${JSON.stringify(content)} in it`, () => {
      writeFileSync(inside('run.py'), content, { mode: 0o600 });
      const before = lstatSync(inside('run.py'));
      assert.equal(workspace.claim('run.py'), 'run.py');
      workspace.release('run.py');
      const after = lstatSync(inside('run.py'));
      assert.deepEqual([after.ino, after.mtimeMs, after.mode], [before.ino, before.mtimeMs, before.mode]);
      assert.equal(text('run.py'), content);
    });
  }

  for (const [what, make] of [
    ['a directory', () => mkdirSync(inside('run.py'))],
    ['a FIFO', () => mkfifo(inside('run.py'))],
    ['a link to nothing', () => symlinkSync('nowhere', inside('run.py'))],
    [
      'a link to a file',
      () => {
        writeFileSync(inside('f'), 'x');
        symlinkSync('f', inside('run.py'));
      },
    ],
    ['a link outside', () => symlinkSync('/etc/hostname', inside('run.py'))],
    ['a loop', () => symlinkSync('run.py', inside('run.py'))],
  ] as const) {
    test(`${what} of that name: another name is taken, and given back`, () => {
      make();
      const before = readdirSync(root).sort();
      assert.equal(workspace.claim('run.py'), 'run-1.py');
      assert.ok(lstatSync(inside('run-1.py')).isFile());
      mkdirSync(inside('run-2.py'));
      assert.equal(workspace.claim('run.py'), 'run-1.py');
      workspace.release('run-1.py');
      workspace.release('run-1.py');
      assert.deepEqual(readdirSync(root).sort(), [...before, 'run-2.py'].sort());
    });
  }

  test('a name without a suffix', () => {
    mkdirSync(inside('run'));
    assert.equal(workspace.claim('run'), 'run-1');
  });

  test('as many directories as a run likes to leave: the next run still gets a name', () => {
    mkdirSync(inside('run.py'));
    for (let count = 1; count <= 1500; count += 1) mkdirSync(inside(`run-${String(count)}.py`));
    const claimed = workspace.claim('run.py');
    assert.ok(lstatSync(inside(claimed)).isFile());
    workspace.release(claimed);
    assert.equal(readdirSync(root).length, 1501);
  });

  for (const [what, change] of [
    ['writes to it', () => writeFileSync(inside('run.py'), 'mine')],
    ['empties it, which changes its time', () => writeFileSync(inside('run.py'), '')],
    [
      'writes to it and sets its time back',
      () => {
        writeFileSync(inside('run.py'), 'mine');
        utimesSync(inside('run.py'), 739, 739);
      },
    ],
    ['touches it', () => utimesSync(inside('run.py'), 5000, 5000)],
    [
      'puts another file there',
      () => {
        writeFileSync(inside('x'), '');
        renameSync(inside('x'), inside('run.py'));
      },
    ],
    [
      'puts a directory there',
      () => {
        unlinkSync(inside('run.py'));
        mkdirSync(inside('run.py'));
      },
    ],
    [
      'puts a link there',
      () => {
        unlinkSync(inside('run.py'));
        symlinkSync('/etc/hostname', inside('run.py'));
      },
    ],
  ] as const) {
    test(`who ${what} keeps it`, () => {
      workspace.claim('run.py');
      change();
      const before = lstatSync(inside('run.py'));
      workspace.release('run.py');
      const after = lstatSync(inside('run.py'));
      assert.deepEqual([after.ino, after.mtimeMs], [before.ino, before.mtimeMs]);
    });
  }

  test('who removes it does not disturb', () => {
    workspace.claim('run.py');
    unlinkSync(inside('run.py'));
    workspace.release('run.py');
    assert.deepEqual(readdirSync(root), []);
  });

  test('an upload of that name meanwhile stays', async () => {
    workspace.claim('run.py');
    await write('run.py', '');
    workspace.release('run.py');
    assert.deepEqual(readdirSync(root), ['run.py']);
  });

  test('a workspace whose permissions were taken away, before and between', () => {
    chmodSync(root, 0);
    const claimed = workspace.claim('run.py');
    chmodSync(root, 0o500);
    workspace.release(claimed);
    assert.deepEqual(readdirSync(root), []);
  });

  test('no descriptor stays open', () => {
    const open = () => readdirSync('/proc/self/fd').length;
    const before = open();
    for (let count = 0; count < 20; count += 1) workspace.release(workspace.claim('run.py'));
    assert.equal(open(), before);
  });
});

describe('Workspace.hold', () => {
  /** What a run without a filename leaves for a moment: no file of anybody looks like it. */
  const placeholder = (path: string) => {
    writeFileSync(path, '');
    utimesSync(path, 739, 739);
  };

  test('the content is replaced in place while a run stands on the file, and by a new file afterwards', async () => {
    await write('a/b.py', 'a longer old text');
    const { ino } = statSync(inside('a', 'b.py'));
    workspace.hold('a/b.py');
    await write('a/b.py');
    assert.equal(text('a', 'b.py'), 'new');
    assert.equal(statSync(inside('a', 'b.py')).ino, ino);
    workspace.release('a/b.py');
    await write('a/b.py', 'newer');
    assert.equal(text('a', 'b.py'), 'newer');
    assert.notEqual(statSync(inside('a', 'b.py')).ino, ino);
    assert.deepEqual(readdirSync(root), ['a']);
  });

  test('an upload by way of a link to the file that is held', async () => {
    await write('a.py', 'old');
    symlinkSync('a.py', inside('l'));
    const { ino } = statSync(inside('a.py'));
    workspace.hold('a.py');
    await write('l');
    assert.deepEqual([text('a.py'), statSync(inside('a.py')).ino], ['new', ino]);
  });

  test('who has taken the permissions of the file does not keep an upload from it', async () => {
    await write('a.py', 'old');
    workspace.hold('a.py');
    chmodSync(inside('a.py'), 0);
    await write('a.py');
    chmodSync(inside('a.py'), 0o600);
    assert.equal(text('a.py'), 'new');
    assert.deepEqual(readdirSync(root), ['a.py']);
  });

  for (const [what, make] of [
    ['a FIFO', (path: string) => void mkfifo(path)],
    ['nothing', () => undefined],
  ] as const) {
    test(`${what} where the file was is no fault of the machine`, async () => {
      await write('a.py', 'old');
      workspace.hold('a.py');
      unlinkSync(inside('a.py'));
      make(inside('a.py'));
      const error = await write('a.py').catch((each: unknown) => each);
      if (error instanceof Error) {
        assert.ok(error instanceof NoxError && ERRORS[error.code].status < 500, String(error));
      } else assert.equal(text('a.py'), 'new');
      assert.deepEqual(temporaries(), []);
    });
  }

  test('the end of a run removes nothing by way of a link that it left in the place of a directory', async () => {
    await write('a/b.py');
    workspace.hold('a/b.py');
    placeholder(join(outside, 'b.py'));
    renameSync(inside('a'), inside('was'));
    symlinkSync('../outside', inside('a'));
    workspace.release('a/b.py');
    assert.deepEqual(readdirSync(outside), ['b.py']);
  });

  test('the end of a run does not fail, whatever the run left in the place of a directory', async () => {
    for (const make of [
      () => symlinkSync('a', inside('a')),
      () => writeFileSync(inside('a'), ''),
      () => undefined,
      () => mkdirSync(inside('a'), 0),
    ]) {
      await write('a/b.py');
      workspace.hold('a/b.py');
      rmSync(inside('a'), { recursive: true });
      make();
      assert.doesNotThrow(() => {
        workspace.release('a/b.py');
      });
      if (lstatSync(inside('a'), { throwIfNoEntry: false })?.isDirectory() === true)
        chmodSync(inside('a'), 0o700);
      rmSync(inside('a'), { recursive: true, force: true });
    }
  });
});

describe('Workspace.sweep', () => {
  const redo = `.nox-${'2'.repeat(24)}.redo`;

  for (const [what, make] of [
    ['a directory', (path: string) => mkdirSync(join(path, 'x'), { recursive: true })],
    ['a link to nothing', (path: string) => symlinkSync('nowhere', path)],
    ['a loop', (path: string) => symlinkSync(redo, path)],
    ['a file of mode 0', (path: string) => writeFileSync(path, 'x', { mode: 0 })],
    ['a path outside', (path: string) => writeFileSync(path, `${root}/../outside/f`)],
    ['a path with NUL', (path: string) => writeFileSync(path, `${root}/a\0b`)],
    ['nothing', (path: string) => writeFileSync(path, '')],
  ] as const) {
    test(`${what} in the place of a note of its own does not keep the runner from starting`, () => {
      make(inside(redo));
      writeFileSync(inside(redo.replace('redo', 'tmp')), 'x');
      writeFileSync(inside('f'), 'mine');
      assert.doesNotThrow(() => {
        workspace.sweep();
      });
      assert.deepEqual([readdirSync(outside), text('f')], [[], 'mine']);
    });
  }

  test('a FIFO in the place of a note of its own does not hold the runner up', async () => {
    mkfifo(inside(redo));
    // Whoever waits for a writer waits for this one, so that the test comes to an end.
    const rescue = spawn(
      '/usr/bin/python3',
      [
        '-c',
        `
import os, sys, time
print("ready", flush=True)
time.sleep(2)
try: os.close(os.open(sys.argv[1], os.O_WRONLY | os.O_NONBLOCK))
except OSError: pass
`,
        inside(redo),
      ],
      { stdio: ['ignore', 'pipe', 'ignore'] },
    );
    const exited = once(rescue, 'close');
    await once(rescue.stdout, 'data');
    const began = performance.now();
    workspace.sweep();
    const waited = performance.now() - began;
    rescue.kill('SIGKILL');
    await exited;
    assert.ok(waited < 1500, `it waited for ${waited.toFixed(0)} ms`);
  });

  const unfinished = `.nox-${'0'.repeat(24)}.tmp`;

  test('removes unfinished uploads and the placeholder of a runner that is gone, and nothing else', () => {
    new Workspace(root).claim('run.py');
    writeFileSync(inside(unfinished), 'half');
    for (const name of ['.nox-1.tmp', `.nox-${'0'.repeat(24)}.tmp.bak`, 'a', 'run-1.py'])
      writeFileSync(inside(name), '');
    mkdirSync(inside('d'));
    writeFileSync(inside('d', unfinished), '');
    workspace.sweep();
    assert.deepEqual(
      readdirSync(root).sort(),
      ['.nox-1.tmp', `${unfinished}.bak`, 'a', 'd', 'run-1.py'].sort(),
    );
    assert.deepEqual(readdirSync(inside('d')), [unfinished]);
  });

  test('a file of the user’s with the name of the code stays', () => {
    writeFileSync(inside('run.py'), '');
    workspace.sweep();
    assert.deepEqual(readdirSync(root), ['run.py']);
  });

  test('the placeholder under another name goes too', () => {
    mkdirSync(inside('run.py'));
    new Workspace(root).claim('run.py');
    workspace.sweep();
    assert.deepEqual(readdirSync(root), ['run.py']);
  });

  test('a link with the name of an upload goes, what it points at stays', () => {
    writeFileSync(join(outside, 'f'), 'x');
    symlinkSync(join(outside, 'f'), inside(unfinished));
    workspace.sweep();
    assert.deepEqual(readdirSync(root), []);
    assert.equal(readFileSync(join(outside, 'f'), 'utf8'), 'x');
  });

  test('a directory that a run gave the name of an upload does not keep the runner from starting', () => {
    mkdirSync(inside(unfinished, 'x'), { recursive: true });
    writeFileSync(inside(`.nox-${'1'.repeat(24)}.tmp`), 'half');
    assert.doesNotThrow(() => {
      workspace.sweep();
    });
    assert.ok(!existsSync(inside(`.nox-${'1'.repeat(24)}.tmp`)), 'the others are removed all the same');
  });

  test('a workspace of mode 0, and one that is missing', () => {
    writeFileSync(inside(unfinished), 'half');
    chmodSync(root, 0);
    workspace.sweep();
    assert.deepEqual(readdirSync(root), []);
    const missing = new Workspace(inside('missing'));
    missing.sweep();
    assert.deepEqual(readdirSync(inside('missing')), []);
  });
});

describe('Workspace.prepare', () => {
  test('what is no directory is refused by name: a file, a link to a directory', () => {
    writeFileSync(inside('f'), '');
    symlinkSync('..', inside('l'));
    for (const name of ['f', 'l']) {
      assert.throws(
        () => {
          new Workspace(inside(name)).prepare();
        },
        new RegExp(`${inside(name)} is not a directory`),
      );
    }
  });

  test('a usable mode is left as it is, the owner’s own bits come back', () => {
    for (const [before, after] of [
      [0o770, 0o770],
      [0o070, 0o770],
      [0o555, 0o755],
      [0o000, 0o700],
    ] as const) {
      chmodSync(root, before);
      workspace.prepare();
      assert.equal(mode(), after);
    }
  });
});

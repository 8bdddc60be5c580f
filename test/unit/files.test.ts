import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs, {
  chmodSync,
  linkSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, mock, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import fc from 'fast-check';
import type { ErrorCode } from '../../src/protocol/errors.ts';
import { NoxError } from '../../src/protocol/errors.ts';
import { FILE_BYTES } from '../../src/protocol/limits.ts';
import type { WatchEvent } from '../../src/protocol/files.ts';
import { bytesOf, textOf } from '../../src/protocol/bytes.ts';
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
const write = (path: string, text: string, more: object = {}) =>
  bench.files.write({ workspace, path, ...more }, pieces(text));
const read = async (path: string, more: object = {}) => {
  const { answer, body } = await bench.files.read({ workspace, path, ...more }, never);
  return { ...answer, text: (await all(body)).toString() };
};
const openDescriptors = () => readdirSync('/proc/self/fd').length;

describe('names', () => {
  test('property: every name of bytes comes back from its text', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), (bytes) => {
        const name = Buffer.from(bytes).toString('latin1');
        assert.equal(bytesOf(textOf(name)), name);
      }),
    );
  });

  test('as Python has it', () => {
    const names = [
      'a',
      'é',
      '\u{1f600}',
      '\xff',
      'a\xc3',
      '\xed\xa0\x80',
      '\xf4\x90\x80\x80',
      '\xe2\x82',
    ].map((name) => (/[\u0100-\u{10ffff}é]/u.test(name) ? Buffer.from(name).toString('latin1') : name));
    const code = `
import sys, json
for name in json.load(sys.stdin): print(json.dumps(bytes(name, 'latin1').decode('utf-8', 'surrogateescape')))`;
    const out = execFileSync('python3', ['-c', code], { input: JSON.stringify(names), encoding: 'utf8' });
    const wanted = out
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as string);
    assert.deepEqual(names.map(textOf), wanted);
  });

  test('half of a pair that stands for no byte is refused', async () => {
    for (const path of ['\ud800', 'a\udfff', '\udc7f'])
      await assert.rejects(() => write(path, ''), rejectsWith('invalid_path'), JSON.stringify(path));
  });

  test('names of every kind are written, listed, read and removed', async () => {
    const names = [
      '\xff\xfe',
      ' ',
      '-rf',
      '\n',
      '\\',
      '*',
      'a\tb',
      '\x01',
      '.hidden',
      '\u00e9'.repeat(100),
      '%2e%2e',
      '...',
    ];
    for (const name of names) await write(textOf(name), name);
    const { entries } = await bench.files.list({ workspace, path: '' });
    const wanted = names.toSorted().map(textOf);
    assert.deepEqual(
      entries.map(({ path }) => path),
      wanted,
    );
    for (const name of names) {
      assert.equal((await read(textOf(name))).text, name);
      await bench.files.remove({ workspace, path: textOf(name) });
    }
    assert.deepEqual(readdirSync(bench.path), []);
  });

  for (const path of ['..', 'a/../b', 'a\0b', 'x'.repeat(256), 'x/'.repeat(2048), '', '/', 'a/'])
    test(`${JSON.stringify(path.slice(0, 20))} is no file`, async () => {
      await assert.rejects(() => write(path, 'x'), rejectsWith('invalid_path'));
    });
});

describe('write', () => {
  test('makes directories, replaces, keeps the permissions, says whether it is new', async () => {
    const first = await write('a/b/c', 'one', { mode: 0o755 });
    assert.deepEqual([first.created, first.size, first.mode, first.path], [true, 3, '0755', 'a/b/c']);
    const second = await write('a/b/c', 'second');
    assert.deepEqual([second.created, second.mode], [false, '0755']);
    assert.equal(readFileSync(on('a/b/c'), 'utf8'), 'second');
    assert.notEqual(first.etag, second.etag);
    assert.match(second.etag ?? '', /^"/);
  });

  test('If-Match: the ETag of what stands there, and nothing else', async () => {
    await assert.rejects(() => write('f', 'x', { ifMatch: ['*'] }), rejectsWith('precondition_failed'));
    const { etag = '' } = await write('f', 'one');
    await write('f', 'two', { ifMatch: ['"other"', etag] });
    await assert.rejects(() => write('f', 'three', { ifMatch: [etag] }), rejectsWith('precondition_failed'));
    assert.equal(readFileSync(on('f'), 'utf8'), 'two');
    assert.equal(bench.disk.used, 2 * FILE_BYTES);
  });

  test('of many writes with one ETag at the same time, one wins', async () => {
    const { etag = '' } = await write('f', '0');
    const tries = Array.from({ length: 20 }, (_, n) => write('f', String(n), { ifMatch: [etag] }));
    const done = await Promise.allSettled(tries);
    assert.equal(done.filter(({ status }) => status === 'fulfilled').length, 1);
  });

  test('a change of the same size within one tick changes the ETag', async () => {
    const { etag } = await write('f', 'aaaa');
    for (const text of ['bbbb', 'cccc']) {
      const before = (await bench.files.stat({ workspace, path: 'f' })).etag;
      writeFileSync(on('f'), text);
      assert.notEqual((await bench.files.stat({ workspace, path: 'f' })).etag, before);
      assert.notEqual(before, undefined);
    }
    assert.notEqual(etag, undefined);
  });

  test('If-None-Match: *', async () => {
    await write('f', 'one', { exclusive: true });
    await assert.rejects(() => write('f', 'two', { exclusive: true }), rejectsWith('precondition_failed'));
    const tries = Array.from({ length: 10 }, (_, n) => write('g', String(n), { exclusive: true }));
    const done = await Promise.allSettled(tries);
    assert.equal(done.filter(({ status }) => status === 'fulfilled').length, 1);
    for (const each of done)
      if (each.status === 'rejected') assert.equal((each.reason as NoxError).code, 'precondition_failed');
    assert.deepEqual(readdirSync(bench.path).sort(), ['f', 'g']);
  });

  test('two that change one file at the same time: one after the other, and of one ETag one', async () => {
    const [a, b] = ['a', 'b'].map((letter) => letter.repeat(3 * 2 ** 20)) as [string, string];
    await write('log', '');
    await Promise.all([write('log', a, { append: true }), write('log', b, { append: true })]);
    const now = readFileSync(on('log'), 'utf8');
    assert.ok(now === a + b || now === b + a, 'none is among the other');
    const change = {
      append: (ifMatch: string[]) => write('log', b, { append: true, ifMatch }),
      write: (ifMatch: string[]) => write('log', b, { ifMatch }),
      remove: (ifMatch: string[]) => bench.files.remove({ workspace, path: 'log', ifMatch }),
    };
    for (const first of Object.values(change))
      for (const second of Object.values(change)) {
        const { etag = '' } = await write('log', a);
        const both = await Promise.allSettled([first([etag]), second([etag])]);
        assert.equal(
          both.filter(({ status }) => status === 'fulfilled').length,
          1,
          `${first.name} ${second.name}`,
        );
      }
  });

  test('append: all or nothing, also where the file is new', async () => {
    assert.equal((await write('log', 'a', { append: true })).created, true);
    assert.equal((await write('log', 'b', { append: true })).size, 2);
    chmodSync(on('log'), 0);
    await write('log', 'c', { append: true });
    await assert.rejects(() =>
      bench.files.write({ workspace, path: 'log', append: true }, pieces('lost', new Error('gone'))),
    );
    chmodSync(on('log'), 0o600);
    assert.equal(readFileSync(on('log'), 'utf8'), 'abc');
    assert.deepEqual(readdirSync(bench.path), ['log']);
    assert.equal(bench.disk.used, 3 * FILE_BYTES);
  });

  test('a body that breaks off leaves the old file, no directory and no room taken', async () => {
    await write('f', 'old');
    for (const path of ['f', 'new/dir/f'])
      await assert.rejects(
        () => bench.files.write({ workspace, path }, pieces('x', new Error('gone'))),
        /gone/,
      );
    assert.equal(readFileSync(on('f'), 'utf8'), 'old');
    assert.deepEqual(readdirSync(bench.path), ['f']);
    assert.equal(bench.disk.used, FILE_BYTES);
  });

  test('more than there is room for', async () => {
    bench.close();
    bench = makeWorkspace(1.9 * FILE_BYTES);
    await write('f', '123456');
    await assert.rejects(() => write('g', '123456'), rejectsWith('workspace_full'));
    await assert.rejects(() => write('f', '123456', { append: true }), rejectsWith('workspace_full'));
    await assert.rejects(
      () => bench.files.copy({ workspace, from: 'f', to: 'h' }, never),
      rejectsWith('workspace_full'),
    );
    assert.deepEqual(readdirSync(bench.path), ['f']);
    await bench.files.remove({ workspace, path: 'f' });
    // What it has freed, the next count finds.
    bench.disk.giveBack(FILE_BYTES);
    await write('g', '1234567890');
  });

  test('a file that a live run executes keeps its place, and so its mount', async () => {
    await write('run.py', 'old');
    const { ino } = statSync(on('run.py'));
    bench.state.workspace.hold('run.py');
    const { etag } = await write('run.py', 'new text');
    assert.equal(statSync(on('run.py')).ino, ino);
    assert.equal(readFileSync(on('run.py'), 'utf8'), 'new text');
    assert.equal((await bench.files.stat({ workspace, path: 'run.py' })).etag, etag);
    await write('other', 'x');
    const onto = { workspace, from: 'other', to: 'run.py', overwrite: true };
    await assert.rejects(() => bench.files.move(onto), rejectsWith('workspace_conflict'));
    await assert.rejects(() => bench.files.copy(onto, never), rejectsWith('workspace_conflict'));
    bench.state.workspace.release('run.py');
    await bench.files.move(onto);
  });
});

describe('read', () => {
  test('ranges', async () => {
    await write('f', '0123456789');
    assert.equal((await read('f')).text, '0123456789');
    assert.equal((await read('f', { range: { first: 2, to: 4 } })).text, '234');
    assert.equal((await read('f', { range: { first: 7 } })).text, '789');
    assert.equal((await read('f', { range: { last: 3 } })).text, '789');
    assert.equal((await read('f', { range: { last: 99 } })).text, '0123456789');
    assert.equal((await read('f', { range: { first: 9, to: 9e9 } })).text, '9');
    for (const range of [{ first: 10 }, { last: 0 }, { first: 3, to: 2 }])
      await assert.rejects(() => read('f', { range }), rejectsWith('range_not_satisfiable'));
    await write('empty', '');
    assert.equal((await read('empty')).text, '');
    await assert.rejects(() => read('empty', { range: { last: 1 } }), rejectsWith('range_not_satisfiable'));
  });

  test('If-Range: another file is read whole', async () => {
    const { etag = '' } = await write('f', '0123456789');
    assert.equal((await read('f', { range: { first: 5 }, ifRange: etag })).text, '56789');
    await write('f', 'abcdefghij');
    assert.equal((await read('f', { range: { first: 5 }, ifRange: etag })).text, 'abcdefghij');
  });

  test('what is no file is not opened: a FIFO would wait, a directory has no bytes', async () => {
    execFileSync('mkfifo', [on('fifo')]);
    mkdirSync(on('dir'));
    for (const path of ['fifo', 'dir', '', 'fifo/x'])
      await assert.rejects(() => read(path), rejectsWith('invalid_path'), path);
    await assert.rejects(() => read('none'), rejectsWith('file_not_found'));
    await assert.rejects(() => read('none/below'), rejectsWith('file_not_found'));
  });

  test('links that stay inside are followed, also absolute ones as runs see them; others are refused', async () => {
    writeFileSync(join(bench.outside, 'secret'), 'secret');
    await write('dir/f', 'inside');
    symlinkSync('dir/f', on('relative'));
    symlinkSync('/shown/dir/f', on('absolute'));
    symlinkSync('../secret', on('out'));
    symlinkSync(join(bench.path, 'dir/f'), on('host'));
    symlinkSync('/etc/passwd', on('passwd'));
    symlinkSync('loop', on('loop'));
    for (const path of ['relative', 'absolute']) assert.equal((await read(path)).text, 'inside');
    for (const path of ['out', 'host', 'passwd', 'loop']) {
      await assert.rejects(() => read(path), rejectsWith('invalid_path'), path);
      await assert.rejects(() => write(path, 'x'), rejectsWith('invalid_path'), path);
      await assert.rejects(() => bench.files.list({ workspace, path }), rejectsWith('invalid_path'), path);
      const { type, target } = await bench.files.stat({ workspace, path });
      assert.equal(type, 'link');
      assert.notEqual(target, undefined);
    }
    assert.equal(readFileSync(join(bench.outside, 'secret'), 'utf8'), 'secret');
  });

  test('what a run has closed is opened again', async () => {
    await write('a/b/f', 'text');
    for (const path of ['a/b/f', 'a/b', 'a', '']) chmodSync(on(path), 0);
    assert.equal((await read('a/b/f')).text, 'text');
    assert.equal((await bench.files.list({ workspace, path: '', recursive: true })).entries.length, 3);
  });

  test('a file that becomes shorter meanwhile breaks off', async () => {
    await write('f', 'x'.repeat(600_000));
    const { body } = await bench.files.read({ workspace, path: 'f' }, never);
    writeFileSync(on('f'), 'x');
    await assert.rejects(() => all(body), rejectsWith('workspace_conflict'));
  });

  test('no descriptor stays behind, however a reader leaves', async () => {
    await write('f', 'x'.repeat(600_000));
    const before = openDescriptors();
    const early = await bench.files.read({ workspace, path: 'f' }, never);
    for await (const piece of early.body) if (piece.length > 0) break;
    const none = await bench.files.read({ workspace, path: 'f' }, never);
    await none.body[Symbol.asyncIterator]().return?.();
    const stop = new AbortController();
    await bench.files.read({ workspace, path: 'f' }, stop.signal);
    stop.abort();
    await all((await bench.files.read({ workspace, path: 'f' }, never)).body);
    await assert.rejects(() => read('f/g'));
    assert.equal(openDescriptors(), before);
  });
});

describe('list', () => {
  test('10,000 files in one directory, page by page, each once and in order', async () => {
    mkdirSync(on('many'));
    for (let n = 0; n < 10_000; n += 1) writeFileSync(on(`many/${String(n)}`), '');
    const seen: string[] = [];
    for (let after: string | undefined; ;) {
      const page = await bench.files.list({
        ...{ workspace, path: 'many', limit: 1000 },
        ...(after === undefined ? {} : { after }),
      });
      seen.push(...page.entries.map(({ path }) => path));
      if (page.next === null) break;
      after = page.next;
    }
    assert.deepEqual(seen, Array.from({ length: 10_000 }, (_, n) => `many/${String(n)}`).sort());
  });

  test('a page of a large directory costs two readings of it, and a look at each entry that is shown', async () => {
    mkdirSync(on('many'));
    for (let n = 0; n < 3000; n += 1) writeFileSync(on(`many/${String(n).padStart(4, '0')}`), '');
    mkdirSync(on('many/1500.d'));
    const looks = mock.method(fs, 'lstatSync');
    const readings = mock.method(fs, 'opendirSync');
    syncBuiltinESMExports();
    try {
      let after: string | undefined;
      for (let page = 0; page < 20; page += 1) {
        looks.mock.resetCalls();
        readings.mock.resetCalls();
        const { entries, next } = await bench.files.list({
          ...{ workspace, path: 'many', limit: 100, recursive: true },
          ...(after === undefined ? {} : { after }),
        });
        assert.equal(entries.length, 100);
        // One more entry, to know whether there is more; the way to the directory; and the one in it.
        assert.ok(looks.mock.callCount() <= 100 + 5, `${looks.mock.callCount()} looks`);
        assert.ok(readings.mock.callCount() <= 3, `${readings.mock.callCount()} readings`);
        after = next ?? '';
      }
    } finally {
      mock.restoreAll();
      syncBuiltinESMExports();
    }
  });

  test('property: pages of any size of a recursive list are the list', async () => {
    for (const path of ['a/b/c', 'a/b-', 'a/bb/x', 'a.', 'b/1', 'b/2', 'b/3/4/5', 'c', 'a-/x'])
      await write(path, path);
    mkdirSync(on('empty'));
    const whole = (await bench.files.list({ workspace, path: '', recursive: true, limit: 1000 })).entries;
    assert.deepEqual(
      whole.map(({ path }) => path),
      [
        'a',
        'a/b',
        'a/b/c',
        'a/b-',
        'a/bb',
        'a/bb/x',
        'a-',
        'a-/x',
        'a.',
        'b',
        'b/1',
        'b/2',
        'b/3',
        'b/3/4',
        'b/3/4/5',
      ]
        .concat(['c', 'empty'])
        .sort((a, b) => (a.split('/').join('\0') < b.split('/').join('\0') ? -1 : 1)),
    );
    for (let limit = 1; limit <= whole.length; limit += 1) {
      const paths: string[] = [];
      let after: string | undefined;
      do {
        const page = await bench.files.list({
          ...{ workspace, path: '', recursive: true, limit },
          ...(after === undefined ? {} : { after }),
        });
        assert.ok(page.entries.length <= limit);
        paths.push(...page.entries.map(({ path }) => path));
        after = page.next ?? undefined;
      } while (after !== undefined);
      assert.deepEqual(
        paths,
        whole.map(({ path }) => path),
        `pages of ${String(limit)}`,
      );
    }
  });

  test('goes on after an entry that has gone, and takes any cursor', async () => {
    for (const name of ['a', 'b', 'c']) await write(`${name}/f`, '');
    const { next } = await bench.files.list({ workspace, path: '', recursive: true, limit: 3 });
    rmSync(on('b'), { recursive: true });
    const rest = await bench.files.list({ workspace, path: '', recursive: true, after: next ?? '' });
    assert.deepEqual(
      rest.entries.map(({ path }) => path),
      ['c', 'c/f'],
    );
    for (const after of ['x', '////', 'Li4vLi4', 'AAAA'])
      await bench.files.list({ workspace, path: '', recursive: true, after });
  });

  test('Nox’s own unfinished files are not shown', async () => {
    await write('f', '');
    writeFileSync(on(`.nox-${'0'.repeat(24)}.tmp`), '');
    writeFileSync(on('.nox-mine'), '');
    assert.deepEqual(
      (await bench.files.list({ workspace, path: '' })).entries.map(({ path }) => path),
      ['.nox-mine', 'f'],
    );
  });
});

describe('move, copy, remove, mkdir', () => {
  test('move: files, directories, links themselves; no replacement unless asked', async () => {
    await write('f', 'f');
    await write('g', 'g');
    await bench.files.move({ workspace, from: 'f', to: 'new/place' });
    assert.equal(readFileSync(on('new/place'), 'utf8'), 'f');
    await assert.rejects(
      () => bench.files.move({ workspace, from: 'g', to: 'new/place' }),
      rejectsWith('already_exists'),
    );
    await bench.files.move({ workspace, from: 'g', to: 'new/place', overwrite: true });
    assert.equal(readFileSync(on('new/place'), 'utf8'), 'g');
    symlinkSync('/etc/passwd', on('link'));
    await bench.files.move({ workspace, from: 'link', to: 'moved' });
    assert.ok(lstatSync(on('moved')).isSymbolicLink());
    chmodSync(on('new'), 0);
    await bench.files.move({ workspace, from: 'new', to: 'other/dir' });
    assert.equal((await read('other/dir/place')).text, 'g');
    await assert.rejects(
      () => bench.files.move({ workspace, from: 'other', to: 'other/dir/below' }),
      rejectsWith('invalid_path'),
    );
    await assert.rejects(
      () => bench.files.move({ workspace, from: 'none', to: 'x' }),
      rejectsWith('file_not_found'),
    );
    await write('file', '');
    for (const overwrite of [false, true])
      await assert.rejects(
        () => bench.files.move({ workspace, from: 'other', to: 'file', overwrite }),
        rejectsWith('already_exists'),
      );
  });

  test('copy: a file, with its permissions and apart from the old one', async () => {
    await write('f', 'text', { mode: 0o750 });
    linkSync(on('f'), on('hard'));
    const { mode, size } = await bench.files.copy({ workspace, from: 'hard', to: 'd/copy' }, never);
    assert.deepEqual([mode, size], ['0750', 4]);
    writeFileSync(on('f'), 'changed');
    assert.equal(readFileSync(on('d/copy'), 'utf8'), 'text');
    assert.equal(bench.disk.used, 3 * FILE_BYTES);
  });

  test('remove: a link, not what it leads to; a full directory only when asked', async () => {
    await write('d/f', 'x');
    symlinkSync('d', on('link'));
    await bench.files.remove({ workspace, path: 'link' });
    assert.equal(readFileSync(on('d/f'), 'utf8'), 'x');
    await assert.rejects(() => bench.files.remove({ workspace, path: 'd' }), rejectsWith('invalid_path'));
    await bench.files.remove({ workspace, path: 'd/f' });
    await bench.files.remove({ workspace, path: 'd/' });
    for (const path of ['', '/', '.', 'd'])
      await assert.rejects(() => bench.files.remove({ workspace, path, recursive: true }));
    const { etag = '' } = await write('f', '');
    await assert.rejects(
      () => bench.files.remove({ workspace, path: 'f', ifMatch: ['"x"'] }),
      rejectsWith('precondition_failed'),
    );
    await bench.files.remove({ workspace, path: 'f', ifMatch: [etag] });
    assert.deepEqual(readdirSync(bench.path), []);
  });

  test('mkdir', async () => {
    await bench.files.makeDirectory({ workspace, path: 'a' });
    await assert.rejects(
      () => bench.files.makeDirectory({ workspace, path: 'a' }),
      rejectsWith('already_exists'),
    );
    await assert.rejects(
      () => bench.files.makeDirectory({ workspace, path: 'x/y' }),
      rejectsWith('file_not_found'),
    );
    for (let time = 0; time < 2; time += 1)
      await bench.files.makeDirectory({ workspace, path: 'x/y/z', parents: true });
    assert.ok(statSync(on('x/y/z')).isDirectory());
  });
});

test('watch tells what comes, changes and goes', async () => {
  await write('d/f', 'x');
  const stop = new AbortController();
  const events: string[] = [];
  const before = openDescriptors();
  const { body } = await bench.files.watch(
    { workspace, path: '', recursive: true },
    stop.signal,
    () => undefined,
  );
  const steps = [
    () => {
      writeFileSync(on('d/new'), '');
    },
    () => {
      writeFileSync(on('d/new'), 'more');
    },
    () => {
      renameSync(on('d/new'), on('d/old'));
    },
    () => {
      rmSync(on('d'), { recursive: true });
    },
  ];
  const wanted = [
    ['ready '],
    ['created d/new'],
    ['changed d/new'],
    ['created d/old', 'removed d/new'],
    ['removed d', 'removed d/f', 'removed d/old'],
  ];
  for await (const line of body) {
    const { event, path } = JSON.parse(Buffer.from(line).toString()) as WatchEvent;
    events.push(`${event} ${path}`);
    if (events.length < wanted.slice(0, wanted.length - steps.length).flat().length) continue;
    const step = steps.shift();
    if (step === undefined) break;
    step();
  }
  assert.deepEqual(events, wanted.flat());
  await sleep(0);
  assert.equal(openDescriptors(), before);
});

test('a watch ends with its directory', async () => {
  await write('d/e/f', 'x');
  const before = openDescriptors();
  const { body } = await bench.files.watch(
    { workspace, path: 'd', recursive: true },
    AbortSignal.timeout(10_000),
    () => undefined,
  );
  const events: string[] = [];
  for await (const line of body) {
    const { event, path } = JSON.parse(Buffer.from(line).toString()) as WatchEvent;
    events.push(`${event} ${path}`);
    if (event === 'ready') rmSync(on('d'), { recursive: true });
  }
  assert.deepEqual(events, ['ready d', 'removed d/e', 'removed d/e/f']);
  await sleep(0);
  assert.equal(openDescriptors(), before);
});

test('what only stands in for the code of a run is hidden; a file of the client’s that has its name is not', async () => {
  const { workspace: own } = bench.state;
  const names = async () =>
    (await bench.files.list({ workspace, path: '' })).entries.map((entry) => entry.path);
  const claimed = own.claim('run.py');
  assert.deepEqual([claimed, await names()], ['run.py', []]);
  own.release(claimed);
  await write('run.py', 'my own');
  const again = own.claim('run.py');
  assert.deepEqual([again, await names()], ['run.py', ['run.py']]);
  own.release(again);
  assert.equal(readFileSync(on('run.py'), 'utf8'), 'my own');
});

test('a download that is aborted before its first piece reads nothing', async () => {
  await write('f', 'text');
  const before = openDescriptors();
  const stop = new AbortController();
  const { body } = await bench.files.read({ workspace, path: 'f' }, stop.signal);
  stop.abort();
  assert.equal(openDescriptors(), before);
  await assert.rejects(async () => {
    for await (const piece of body) assert.fail(String(piece));
  }, rejectsWith('cancelled'));
});

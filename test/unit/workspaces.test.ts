import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import fs, {
  chmodSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs';
import { syncBuiltinESMExports } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { NoxError, type ErrorCode } from '../../src/protocol/errors.ts';
import { FILE_BYTES } from '../../src/protocol/limits.ts';
import { Workspaces } from '../../src/runner/workspaces.ts';

const MIB = 2 ** 20;
const owner = 'tok_a';
const never = new AbortController().signal;
const rejectsWith = (code: ErrorCode) => (error: unknown) => error instanceof NoxError && error.code === code;

let dir: string;
let now: number;
let faults: unknown[];
let workspaces: Workspaces;

function open(): Workspaces {
  return new Workspaces({
    dir: join(dir, 'workspaces'),
    sandbox: join(dir, 'sandbox'),
    limitBytes: 100 * MIB,
    onFault: (error) => {
      faults.push(error);
    },
    now: () => now,
  });
}

/** As a runner that was killed and starts again. */
async function restart(): Promise<void> {
  workspaces.close();
  workspaces = open();
  await workspaces.recover();
}

beforeEach(() => {
  dir = realpathSync(mkdtempSync(join(tmpdir(), 'nox-workspaces-')));
  now = Date.now();
  faults = [];
  workspaces = open();
});
afterEach(() => {
  workspaces.close();
  execFileSync('chmod', ['-R', 'u+rwx', dir]);
  rmSync(dir, { recursive: true });
  assert.deepEqual(faults, []);
});

const filesOf = (id: string) =>
  id === 'default' ? join(dir, 'sandbox') : join(dir, 'workspaces', id, 'files');
const put = (id: string, path: string, text: string) => {
  mkdirSync(join(filesOf(id), path, '..'), { recursive: true });
  writeFileSync(join(filesOf(id), path), text);
};
const get = (id: string, path: string) => readFileSync(join(filesOf(id), path), 'utf8');

describe('workspaces', () => {
  test('made, listed in pages, changed, found again after a restart, deleted', async () => {
    const made = await workspaces.create({ owner });
    assert.match(made.id, /^ws-[0-9a-z]{16}$/);
    await workspaces.create({ owner, id: 'mine', label: 'My own', quotaBytes: MIB, expires: now + 60_000 });
    await assert.rejects(() => workspaces.create({ owner, id: 'mine' }), rejectsWith('already_exists'));
    await assert.rejects(() => workspaces.create({ owner, id: 'default' }), rejectsWith('already_exists'));
    const first = workspaces.list({ limit: 2 });
    assert.deepEqual([first.workspaces.map(({ id }) => id), first.next], [['default', 'mine'], 'mine']);
    const rest = workspaces.list({ limit: 2, after: 'mine' });
    assert.deepEqual([rest.workspaces.map(({ id }) => id), rest.next], [[made.id], null]);
    assert.deepEqual(
      workspaces.list({ limit: 10, ids: ['mine', 'none'] }).workspaces.map(({ id }) => id),
      ['mine'],
    );
    await workspaces.update({ workspace: 'mine', label: null, expires: null, quotaBytes: 2 * MIB });
    await restart();
    const { label, expires, quotaBytes } = workspaces.info('mine');
    assert.deepEqual([label, expires, quotaBytes], [null, null, 2 * MIB]);
    await workspaces.remove('mine', false);
    for (const call of [() => workspaces.get('mine'), () => workspaces.info('mine')])
      assert.throws(call, rejectsWith('workspace_not_found'));
    await assert.rejects(() => workspaces.update({ workspace: 'mine' }), rejectsWith('workspace_not_found'));
    assert.ok(!existsSync(join(dir, 'workspaces/mine')));
  });

  test('an id that is a path names nothing', () => {
    for (const id of ['..', '../x', '.', '', 'a/b', '/etc', '.half-x', 'x\0', '__proto__'])
      assert.throws(() => workspaces.get(id), rejectsWith('workspace_not_found'), id);
  });

  test('of two that are made with one id, one is', async () => {
    const done = await Promise.allSettled([1, 2, 3].map(() => workspaces.create({ owner, id: 'x' })));
    assert.equal(done.filter(({ status }) => status === 'fulfilled').length, 1);
  });

  test('its directory is closed to others, and what is kept lies outside of what runs see', async () => {
    await workspaces.create({ owner, id: 'x' });
    assert.equal(statSync(join(dir, 'workspaces')).mode & 0o777, 0o700);
    assert.deepEqual(readdirSync(filesOf('x')), []);
    assert.equal(workspaces.get('x').workspace.shown, join(dir, 'sandbox'));
    assert.equal(workspaces.get('x').workspace.path, filesOf('x'));
  });

  test('the default one cannot be deleted and does not expire', async () => {
    await assert.rejects(() => workspaces.remove('default', true), rejectsWith('invalid_request'));
    await assert.rejects(
      () => workspaces.update({ workspace: 'default', expires: now + 1000 }),
      rejectsWith('invalid_request'),
    );
    await workspaces.update({ workspace: 'default', quotaBytes: 5 });
    assert.equal(workspaces.get('default').disk.room, 5);
  });

  test('a quota is in force at once, and never above that of the server', async () => {
    await workspaces.create({ owner, id: 'x', quotaBytes: MIB });
    const { disk, workspace } = workspaces.get('x');
    assert.equal(await disk.take(MIB + 1), false);
    await workspaces.update({ workspace: 'x', quotaBytes: 2 * MIB });
    assert.equal(await disk.take(MIB + 1), true);
    // What was taken and not written is held against nobody once a count has not found it.
    assert.equal(await disk.take(MIB), true);
    writeFileSync(join(workspace.path, 'file'), new Uint8Array(1.5 * MIB));
    assert.equal(await disk.take(MIB), false);
    rmSync(join(workspace.path, 'file'));
    assert.equal(await disk.take(MIB), true);
    for (const quotaBytes of [101 * MIB, Number.MAX_SAFE_INTEGER]) {
      await assert.rejects(
        () => workspaces.update({ workspace: 'x', quotaBytes }),
        rejectsWith('invalid_request'),
      );
      await assert.rejects(() => workspaces.create({ owner, quotaBytes }), rejectsWith('invalid_request'));
    }
  });

  test('the workspaces of one owner hold no more than that owner may have', async () => {
    const ownerBytes = 10 * MIB;
    await assert.rejects(() => workspaces.create({ owner, ownerBytes }), rejectsWith('quota_exceeded'));
    await workspaces.create({ owner, ownerBytes, id: 'a', quotaBytes: 6 * MIB });
    await workspaces.create({ owner: 'other', ownerBytes, quotaBytes: 6 * MIB });
    await assert.rejects(
      () => workspaces.create({ owner, ownerBytes, quotaBytes: 5 * MIB }),
      rejectsWith('quota_exceeded'),
    );
    await workspaces.create({ owner, ownerBytes, id: 'b', quotaBytes: 4 * MIB });
    await assert.rejects(
      () => workspaces.update({ workspace: 'b', ownerBytes, quotaBytes: 5 * MIB }),
      rejectsWith('quota_exceeded'),
    );
    put('a', 'f', 'x'.repeat(100_000));
    await assert.rejects(
      () => workspaces.snapshot({ workspace: 'a', ownerBytes }, never),
      rejectsWith('quota_exceeded'),
    );
    await workspaces.update({ workspace: 'b', ownerBytes, quotaBytes: 3 * MIB });
    await workspaces.snapshot({ workspace: 'a', ownerBytes }, never);
  });

  test('the usage of one that is deleted meanwhile', async () => {
    await workspaces.create({ owner, id: 'x' });
    const asked = Promise.allSettled([0, 1, 2].map(() => workspaces.usage('x')));
    await workspaces.remove('x', false);
    for (const each of await asked)
      if (each.status === 'rejected') assert.ok(rejectsWith('workspace_not_found')(each.reason));
    await assert.rejects(() => workspaces.usage('x'), rejectsWith('workspace_not_found'));
  });

  test('a quota below what is there does not free what its owner may have', async () => {
    const ownerBytes = 2 * MIB;
    await workspaces.create({ owner, ownerBytes, id: 'a', quotaBytes: 2 * MIB });
    put('a', 'f', 'x'.repeat(MIB));
    const shrink = (quotaBytes: number) => workspaces.update({ workspace: 'a', ownerBytes, quotaBytes });
    await assert.rejects(() => shrink(MIB / 2), rejectsWith('quota_exceeded'));
    await assert.rejects(
      () => workspaces.create({ owner, ownerBytes, quotaBytes: MIB }),
      rejectsWith('quota_exceeded'),
    );
    rmSync(join(filesOf('a'), 'f'));
    await shrink(MIB / 2);
    await workspaces.create({ owner, ownerBytes, quotaBytes: MIB });
  });

  test('snapshots that are asked for at the same time come to no more than one after the other', async () => {
    await workspaces.create({ owner, id: 'x', quotaBytes: 10 * FILE_BYTES });
    for (let n = 0; n < 4; n += 1) put('x', String(n), '');
    const asked = Array.from({ length: 20 }, () => workspaces.snapshot({ workspace: 'x' }, never));
    const made = (await Promise.allSettled(asked)).filter(({ status }) => status === 'fulfilled');
    assert.equal(made.length, 2);
    assert.equal(workspaces.snapshots('x').length, 2);
  });

  test('a snapshot is not restored into a quota that has become less than it', async () => {
    await workspaces.create({ owner, id: 'x', quotaBytes: 10 * FILE_BYTES });
    for (let n = 0; n < 4; n += 1) put('x', String(n), 'old');
    const { id } = await workspaces.snapshot({ workspace: 'x' }, never);
    for (let n = 0; n < 3; n += 1) rmSync(join(filesOf('x'), String(n)));
    put('x', '3', 'new');
    await workspaces.update({ workspace: 'x', quotaBytes: 2 * FILE_BYTES });
    await assert.rejects(() => workspaces.restore('x', id, false), rejectsWith('workspace_full'));
    assert.deepEqual([readdirSync(filesOf('x')), get('x', '3')], [['3'], 'new']);
    await workspaces.update({ workspace: 'x', quotaBytes: 4 * FILE_BYTES });
    await workspaces.restore('x', id, false);
    assert.equal(get('x', '3'), 'old');
  });

  test('it expires: not before, not when the clock is set back, and not under a live run', async () => {
    await workspaces.create({ owner, id: 'x', expires: now + 1000 });
    now += 999;
    await workspaces.tidy();
    workspaces.get('x');
    now -= 100_000;
    await workspaces.tidy();
    const leave = workspaces.get('x').enter(() => {
      assert.fail('not ended');
    });
    now += 101_000;
    await workspaces.tidy();
    assert.ok(existsSync(filesOf('x')));
    assert.throws(() => workspaces.get('x'), rejectsWith('workspace_not_found'), 'but no new one comes');
    assert.deepEqual(
      workspaces.list({ limit: 9 }).workspaces.map(({ id }) => id),
      ['default'],
    );
    leave();
    await workspaces.tidy();
    assert.ok(!existsSync(filesOf('x')));
  });

  test('it expires while another is deleted: not, if that is put off meanwhile', async () => {
    await workspaces.create({ owner, id: 'a', expires: now + 1000 });
    await workspaces.create({ owner, id: 'b', expires: now + 2000 });
    for (let n = 0; n < 2000; n += 1) put('a', `f${String(n)}`, 'x');
    now += 1500;
    const tidying = workspaces.tidy();
    await workspaces.update({ workspace: 'b', expires: now + 60_000 });
    now += 1000;
    await Promise.all([tidying, workspaces.tidy()]);
    assert.deepEqual(
      workspaces.list({ limit: 9 }).workspaces.map(({ id }) => id),
      ['b', 'default'],
    );
    assert.ok(existsSync(filesOf('b')) && !existsSync(filesOf('a')));
  });

  test('the end of a deletion does not open another workspace of its id, which is being made', async () => {
    await workspaces.create({ owner, id: 'x' });
    await workspaces.create({ owner, id: 'y' });
    for (let n = 0; n < 300; n += 1) put('x', `f${String(n)}`, 'x');
    for (let n = 0; n < 6000; n += 1) put('y', `f${String(n)}`, 'x');
    const removing = workspaces.remove('x', false);
    while (workspaces.list({ limit: 9, ids: ['x'] }).workspaces.length > 0) await setImmediate();
    const made = new Set<string>();
    const cloning = workspaces
      .clone({ workspace: 'y', id: 'x', owner }, never)
      .then(({ id }) => made.add(id));
    await removing;
    // The copy takes longer, unless the machine is busy elsewhere.
    if (!made.has('x')) assert.throws(() => workspaces.get('x'), rejectsWith('workspace_conflict'));
    await cloning;
    assert.equal(get('x', 'f5999'), 'x');
  });

  test('what is taken away while runs are alive: refused, or they end first', async () => {
    await workspaces.create({ owner, id: 'x' });
    const state = workspaces.get('x');
    const ended: string[] = [];
    const leave = state.enter(() => {
      ended.push('told');
      setTimeout(() => {
        assert.ok(existsSync(filesOf('x')));
        ended.push('ended');
        leave();
      }, 50);
    });
    await assert.rejects(() => workspaces.remove('x', false), rejectsWith('workspace_conflict'));
    const removing = workspaces.remove('x', true);
    assert.throws(() => workspaces.get('x'), rejectsWith('workspace_conflict'), 'no new run meanwhile');
    await removing;
    assert.deepEqual(ended, ['told', 'ended']);
    assert.ok(!existsSync(filesOf('x')));
  });

  test('what is being copied, or is a snapshot that is being removed: waited for', async () => {
    await workspaces.create({ owner, id: 'x' });
    for (let n = 0; n < 2000; n += 1) put('x', `f${String(n)}`, 'x');
    const { id } = await workspaces.snapshot({ workspace: 'x' }, never);
    const cloning = workspaces.clone({ workspace: 'x', id: 'y', owner }, never);
    await assert.rejects(
      () => workspaces.update({ workspace: 'y', label: 'too early' }),
      rejectsWith('workspace_conflict'),
    );
    const removing = workspaces.removeSnapshot('x', id);
    await assert.rejects(() => workspaces.remove('x', false), rejectsWith('workspace_conflict'));
    await workspaces.remove('x', true);
    await removing;
    await cloning;
    await workspaces.remove('y', false);
    assert.deepEqual(readdirSync(join(dir, 'workspaces')), ['default']);
  });

  test('trees without permissions, of 5,000 levels and of links out are deleted, and nothing else', async () => {
    await workspaces.create({ owner, id: 'x' });
    writeFileSync(join(dir, 'outside'), 'outside');
    mkdirSync(join(dir, 'beside'));
    const code = `
import os, sys
os.chdir(sys.argv[1])
os.symlink(sys.argv[2] + '/outside', 'file'); os.symlink(sys.argv[2] + '/beside', 'dir')
os.mkdir('closed'); open('closed/f', 'w').close(); os.mkdir('closed/d'); os.chmod('closed/d', 0); os.chmod('closed', 0)
for _ in range(5000):
    os.mkdir('d' * 100); os.chdir('d' * 100)`;
    execFileSync('python3', ['-c', code, filesOf('x'), dir]);
    await workspaces.remove('x', false);
    assert.deepEqual(readdirSync(join(dir, 'workspaces')), ['default']);
    assert.deepEqual(readdirSync(join(dir, 'beside')), []);
    assert.equal(readFileSync(join(dir, 'outside'), 'utf8'), 'outside');
  });

  test('usage', async () => {
    put('default', 'd/f', 'x'.repeat(10_000));
    const { bytes, entries } = await workspaces.usage('default');
    assert.equal(entries, 2);
    assert.ok(bytes >= 10_000 && bytes < 100_000, String(bytes));
  });
});

describe('clones and snapshots', () => {
  test('a clone: every kind of file as it was, apart from the source', async () => {
    const source = filesOf('default');
    put('default', 'd/f', 'text');
    chmodSync(join(source, 'd/f'), 0o750);
    symlinkSync('/etc/passwd', join(source, 'link'));
    mkdirSync(join(source, 'closed'));
    put('default', 'closed/f', 'closed');
    chmodSync(join(source, 'closed'), 0);
    writeFileSync(Buffer.concat([Buffer.from(`${source}/`), Buffer.from([0xff])]), '');
    writeFileSync(join(source, `.nox-${'0'.repeat(24)}.tmp`), 'unfinished');
    writeFileSync(join(source, 'sparse'), '');
    truncateSync(join(source, 'sparse'), 50 * MIB);
    linkSync(join(source, 'd/f'), join(source, 'hard'));
    await workspaces.clone({ workspace: 'default', owner, id: 'copy' }, never);
    put('default', 'd/f', 'changed');
    const copy = filesOf('copy');
    assert.equal(get('copy', 'd/f'), 'text');
    assert.equal(statSync(join(copy, 'd/f')).mode & 0o777, 0o750);
    assert.ok(lstatSync(join(copy, 'link')).isSymbolicLink());
    assert.equal(statSync(join(copy, 'closed')).mode & 0o777, 0);
    assert.deepEqual(
      [statSync(join(copy, 'sparse')).size, statSync(join(copy, 'sparse')).blocks],
      [50 * MIB, 0],
    );
    assert.deepEqual(readdirSync(copy, 'latin1').sort(), ['closed', 'd', 'hard', 'link', 'sparse', '\xff']);
    assert.equal(statSync(join(copy, 'hard')).ino, statSync(join(copy, 'd/f')).ino);
  });

  test('a tree that is deeper than a path may be long is copied too', async () => {
    const code = `
import os, sys
os.makedirs(sys.argv[1], exist_ok=True); os.chdir(sys.argv[1])
for _ in range(200):
    os.mkdir('d' * 100); os.chdir('d' * 100)
open('f', 'w').close()`;
    execFileSync('python3', ['-c', code, filesOf('default')]);
    await workspaces.clone({ workspace: 'default', owner, id: 'deep' }, never);
    assert.equal((await workspaces.usage('deep')).entries, 201);
    await workspaces.remove('deep', false);
  });

  test('a clone or snapshot for which there is no room leaves nothing', async () => {
    put('default', 'f', 'x'.repeat(100_000));
    await assert.rejects(
      () => workspaces.clone({ workspace: 'default', owner, id: 'small', quotaBytes: 50_000 }, never),
      rejectsWith('workspace_full'),
    );
    assert.throws(() => workspaces.get('small'), rejectsWith('workspace_not_found'));
    await workspaces.update({ workspace: 'default', quotaBytes: 50_000 });
    await assert.rejects(
      () => workspaces.snapshot({ workspace: 'default' }, never),
      rejectsWith('workspace_full'),
    );
    assert.deepEqual(workspaces.snapshots('default'), []);
    assert.deepEqual(readdirSync(join(dir, 'workspaces')), ['default']);
    assert.deepEqual(readdirSync(join(dir, 'workspaces/default/snapshots')), []);
  });

  for (const id of ['default', 'other'])
    test(`snapshot and restore of ${id}`, async () => {
      if (id !== 'default') await workspaces.create({ owner, id });
      put(id, 'd/f', 'first');
      put(id, 'gone', 'gone');
      const { ino } = statSync(filesOf(id));
      const first = await workspaces.snapshot({ workspace: id, label: 'first' }, never);
      put(id, 'd/f', 'second');
      put(id, 'new', 'new');
      rmSync(join(filesOf(id), 'gone'));
      now += 1;
      const second = await workspaces.snapshot({ workspace: id }, never);
      assert.deepEqual(
        workspaces.snapshots(id).map((each) => [each.id, each.label]),
        [
          [first.id, 'first'],
          [second.id, null],
        ],
      );
      const restored = async (snapshot: string) => {
        await workspaces.restore(id, snapshot, false);
        return [get(id, 'd/f'), ...readdirSync(filesOf(id)).sort()];
      };
      assert.deepEqual(await restored(first.id), ['first', 'd', 'gone']);
      assert.deepEqual(await restored(second.id), ['second', 'd', 'new']);
      assert.deepEqual(await restored(first.id), ['first', 'd', 'gone']);
      assert.equal(statSync(filesOf(id)).ino, ino, 'the directory stays, and what is mounted on it');
      const leave = workspaces.get(id).enter(() => {
        leave();
      });
      await assert.rejects(() => workspaces.restore(id, first.id, false), rejectsWith('workspace_conflict'));
      await workspaces.restore(id, first.id, true);
      await workspaces.removeSnapshot(id, first.id);
      await assert.rejects(() => workspaces.restore(id, first.id, false), rejectsWith('snapshot_not_found'));
      await assert.rejects(() => workspaces.removeSnapshot(id, '../../x'), rejectsWith('snapshot_not_found'));
    });

  test('what a crash has left half done is finished or taken away', async () => {
    await workspaces.create({ owner, id: 'x' });
    put('x', 'f', 'in the snapshot');
    const { id: snapshot } = await workspaces.snapshot({ workspace: 'x' }, never);
    const shelf = join(dir, 'workspaces');
    mkdirSync(join(shelf, '.half-1/files/closed'), { recursive: true });
    chmodSync(join(shelf, '.half-1/files/closed'), 0);
    mkdirSync(join(shelf, 'x/snapshots/.half-2'));
    put('x', `.nox-${'0'.repeat(24)}.tmp/old`, 'old');
    rmSync(join(filesOf('x'), 'f'));
    writeFileSync(join(shelf, 'x/restore'), snapshot);
    await restart();
    assert.deepEqual(readdirSync(filesOf('x')), ['f']);
    assert.equal(get('x', 'f'), 'in the snapshot');
    assert.deepEqual(readdirSync(shelf).sort(), ['default', 'x']);
    assert.deepEqual(readdirSync(join(shelf, 'x')).sort(), ['files', 'snapshots', 'workspace.json']);
    assert.deepEqual(readdirSync(join(shelf, 'x/snapshots')), [snapshot]);
  });

  test('a restore that fails halfway is undone', async (t) => {
    await workspaces.create({ owner, id: 'x' });
    for (const name of ['a', 'b', 'c']) put('x', name, 'in the snapshot');
    const { id: snapshot } = await workspaces.snapshot({ workspace: 'x' }, never);
    for (const name of ['b', 'c', 'd']) put('x', name, 'now');
    rmSync(join(filesOf('x'), 'a'));
    for (const failing of [1, 2, 3, 4, 5, 6]) {
      let moves = 0;
      const rename = fs.renameSync;
      const mocked = t.mock.method(fs, 'renameSync', (from: fs.PathLike, to: fs.PathLike) => {
        // Of the files: what is kept of the workspace is moved too.
        if (String(from).startsWith('/proc/') && (moves += 1) === failing)
          throw Object.assign(new Error('EIO'), { code: 'EIO' });
        rename(from, to);
      });
      syncBuiltinESMExports();
      await assert.rejects(() => workspaces.restore('x', snapshot, false), { code: 'EIO' });
      mocked.mock.restore();
      syncBuiltinESMExports();
      assert.deepEqual(readdirSync(filesOf('x')).sort(), ['b', 'c', 'd'], String(failing));
      for (const name of ['b', 'c', 'd']) assert.equal(get('x', name), 'now');
      assert.ok(!existsSync(join(dir, 'workspaces/x/restore')));
      workspaces.get('x');
    }
    await workspaces.restore('x', snapshot, false);
    assert.deepEqual(readdirSync(filesOf('x')).sort(), ['a', 'b', 'c']);
  });

  for (const id of ['default', 'x'])
    test(`a restore of ${id} that no start can finish: closed, by name, until it is restored again`, async () => {
      if (id === 'x') await workspaces.create({ owner, id });
      put(id, 'f', 'in the snapshot');
      const { id: gone } = await workspaces.snapshot({ workspace: id }, never);
      const { id: good } = await workspaces.snapshot({ workspace: id }, never);
      writeFileSync(join(dir, 'workspaces', id, 'restore'), gone);
      rmSync(join(dir, 'workspaces', id, 'snapshots', gone, 'files'), { recursive: true });
      await restart();
      assert.equal(faults.splice(0).length, 1);
      assert.throws(() => workspaces.get(id), rejectsWith('workspace_conflict'));
      await assert.rejects(() => workspaces.removeSnapshot(id, gone), rejectsWith('workspace_conflict'));
      await assert.rejects(() => workspaces.restore(id, gone, false));
      assert.throws(() => workspaces.get(id), rejectsWith('workspace_conflict'));
      await workspaces.restore(id, good, false);
      workspaces.get(id);
      assert.equal(get(id, 'f'), 'in the snapshot');
      await restart();
      workspaces.get(id);
      await workspaces.removeSnapshot(id, gone);
    });

  test('what is kept of a workspace and is damaged: it is told of, not found, and its files stay', async () => {
    for (const id of ['x', 'y']) await workspaces.create({ owner, id });
    put('x', 'f', 'text');
    writeFileSync(join(dir, 'workspaces/x/workspace.json'), '{"id": "x"');
    writeFileSync(join(dir, 'workspaces/y/workspace.json'), '{"id": "default"}');
    await restart();
    assert.equal(faults.splice(0).length, 2);
    for (const id of ['x', 'y']) assert.throws(() => workspaces.get(id), rejectsWith('workspace_not_found'));
    assert.equal(get('x', 'f'), 'text');
  });
});

/** The administrator's commands on a directory that looks like a machine: what is changed, and what is left when it fails. */
import assert from 'node:assert/strict';
import { lstatSync, mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { applyStep } from '../../src/admin/apply.ts';
import { interrupted, lastKept, recover, rollBack, Transaction } from '../../src/admin/journal.ts';
import { preview, title, type Step } from '../../src/admin/steps.ts';
import { at, Machine, machine, picture } from '../support/machine.ts';

const NOX = { owner: 'nox', group: 'nox' } as const;

/** One of each kind that needs no program of the machine, on things that are there and on things that are not. */
function plan(): Step[] {
  writeFileSync(at('/etc/default/nox-api'), 'NOX_API_TOKEN=old\n', { mode: 0o644 });
  writeFileSync(at('/etc/systemd/system/nox-api.service'), 'the old unit\n');
  mkdirSync(at('/home/nox/nox/.venv/bin'), { recursive: true });
  writeFileSync(at('/home/nox/nox/.venv/bin/python3'), 'old');
  mkdirSync(at('/opt/nox/releases/1'), { recursive: true });
  writeFileSync(at('/opt/nox/releases/1/x'), 'one');
  symlinkSync('releases/1', at('/opt/nox/current'));
  writeFileSync(at('/home/nox/nox/sandbox/file'), 'mine', { mode: 0o600 });
  machine.active.add('nox-api.service');
  return [
    { do: 'directory', path: '/home/nox/nox/logs', mode: 0o2750, ...NOX },
    { do: 'directory', path: '/home/nox/nox/sandbox', mode: 0o2775, ...NOX },
    { do: 'file', path: '/etc/default/nox-api', text: 'NOX_API_TOKEN=old\nX=1\n', mode: 0o600, ...NOX },
    { do: 'file', path: '/etc/systemd/system/nox-api.service', text: 'the new unit\n', mode: 0o644, ...NOX },
    { do: 'file', path: '/etc/systemd/system/nox-runner.service', text: 'new\n', mode: 0o644, ...NOX },
    { do: 'attributes', path: '/opt/nox', mode: 0o700, ...NOX },
    { do: 'remove', path: '/opt/nox/releases/1' },
    { do: 'link', path: '/opt/nox/current', target: 'releases/2' },
    { do: 'link', path: '/opt/nox/other', target: 'nowhere' },
    { do: 'share', path: '/home/nox/nox/sandbox', owner: 'nox-runner', group: 'nox' },
    { do: 'move', from: '/home/nox/nox/.venv', to: '/home/nox/nox/.venv.bak.1' },
    { do: 'remove', path: '/opt/nox/other' },
    { do: 'services', verb: 'restart', units: ['nox-runner.service', 'nox-api.service'] },
  ];
}

function carryOut(steps: readonly Step[], until: number, transaction: Transaction): void {
  for (const step of steps.slice(0, until)) applyStep(machine, step, transaction.record(step));
}

const NOW = new Date('2026-01-02T03:04:05Z');

describe('the journal', () => {
  const count = 13;
  for (let until = 0; until <= count; until += 1) {
    test(`undoes a command that failed after ${until} steps`, () => {
      const steps = plan();
      assert.equal(steps.length, count);
      const before = picture();
      const transaction = Transaction.begin(machine, 'harden', NOW);
      carryOut(steps, until, transaction);
      if (until === count) assert.notDeepEqual(picture(), before);
      transaction.undo();
      assert.deepEqual(picture(), before);
      assert.deepEqual([...machine.active], ['nox-api.service']);
      assert.deepEqual(readdirSync(at('/var/lib/nox-admin/journal')), []);
    });

    test(`undoes a command that was killed in step ${until + 1}, at the next call, also if that is killed`, () => {
      const steps = plan();
      const before = picture();
      const transaction = Transaction.begin(machine, 'harden', NOW);
      carryOut(steps, until, transaction);
      // Written down, not begun; or begun, and not finished.
      const next = steps[until];
      if (next !== undefined) transaction.record(next);
      assert.equal(interrupted(machine).length, 1);
      const log = join(
        at('/var/lib/nox-admin/journal'),
        readdirSync(at('/var/lib/nox-admin/journal'))[0] ?? '',
        'undo.jsonl',
      );
      const undos = readFileSync(log, 'utf8');
      // The line that a loss of power cut off.
      writeFileSync(log, `${undos}{"do":"resto`);
      if (process.getuid?.() === 0 && until > 3) {
        // The first attempt gets as far as the units.
        const broken = new Machine(machine.root);
        broken.run = () => {
          throw new Error('killed');
        };
        if (undos.includes('"services"')) assert.throws(() => recover(broken), /killed/);
      }
      assert.equal(recover(machine)[0]?.head.verb, 'harden');
      assert.deepEqual(picture(), before);
      assert.equal(recover(machine).length, 0);
    });
  }

  test('an undo that was killed at its end is repeated without harm', () => {
    mkdirSync(at('/opt/nox/.venv'), { recursive: true });
    writeFileSync(at('/opt/nox/.venv/python'), 'old');
    const before = picture();
    const transaction = Transaction.begin(machine, 'repair', NOW);
    const [staging, path] = ['/opt/nox/.venv.new', '/opt/nox/.venv'];
    transaction.record({ do: 'venv', staging, path, python: 'x', requirements: '', index: '', ...NOX });
    mkdirSync(at(staging));
    writeFileSync(at(`${staging}/python`), 'new');
    const steps: Step[] = [
      { do: 'remove', path },
      { do: 'move', from: staging, to: path },
    ];
    carryOut(steps, 2, transaction);
    assert.equal(readFileSync(at(`${path}/python`), 'utf8'), 'new');
    for (let time = 0; time < 2; time += 1) {
      const killed = new Machine(machine.root);
      killed.run = () => {
        throw new Error('killed');
      };
      assert.throws(() => recover(killed), /killed/);
      assert.deepEqual(picture(), before);
    }
    assert.deepEqual(recover(machine)[0]?.left, []);
    assert.deepEqual(picture(), before);
  });

  test('what cannot be put back keeps nothing else from it, and is told', () => {
    writeFileSync(at('/etc/default/nox-api'), 'old');
    mkdirSync(at('/opt/nox'));
    const transaction = Transaction.begin(machine, 'repair', NOW);
    const file = { do: 'file', path: '/etc/default/nox-api', text: 'new', mode: 0o600, ...NOX } as const;
    const file2 = { ...file, path: '/opt/nox/file' };
    carryOut([file, file2, { do: 'attributes', path: '/opt/nox', mode: 0o700, ...NOX }], 3, transaction);
    // Meanwhile somebody has taken the place of one away, and put a directory into that of another.
    rmSync(at('/opt/nox'), { recursive: true });
    rmSync(at('/etc/default/nox-api'));
    mkdirSync(at('/etc/default/nox-api/full'), { recursive: true });
    const left = transaction.undo();
    assert.equal(left.length, 1);
    assert.match(left[0] ?? '', /nox-api/);
    assert.deepEqual(interrupted(machine), []);
  });

  test('services that no step has touched are left alone', () => {
    const steps = plan().slice(0, 3);
    const transaction = Transaction.begin(machine, 'install', NOW);
    carryOut(steps, 3, transaction);
    machine.asked.length = 0;
    transaction.undo();
    assert.deepEqual(machine.asked, []);
  });

  test('a committed command stays, and a hardening can be rolled back, with what came after it', () => {
    const steps = plan();
    const before = picture();
    const first = Transaction.begin(machine, 'harden', NOW);
    carryOut(steps, count, first);
    first.commit(true);
    assert.equal(interrupted(machine).length, 0);
    const second = Transaction.begin(machine, 'install', new Date('2026-02-02T03:04:05Z'));
    carryOut(
      [{ do: 'file', path: '/etc/default/nox-api', text: 'NOX_API_TOKEN=newer\n', mode: 0o600, ...NOX }],
      1,
      second,
    );
    second.commit(false);
    assert.equal(lastKept(machine)?.verb, 'harden');
    rollBack(machine);
    assert.deepEqual(picture(), before);
    assert.equal(lastKept(machine), undefined);
  });

  test('what is kept of commands that nobody can roll back is bounded', () => {
    for (let number = 0; number < 12; number += 1) {
      const transaction = Transaction.begin(machine, 'install', new Date(NOW.getTime() + number * 1000));
      const text = String(number);
      carryOut([{ do: 'file', path: '/etc/default/nox-api', text, mode: 0o600, ...NOX }], 1, transaction);
      transaction.commit(false);
    }
    assert.equal(readdirSync(at('/var/lib/nox-admin/journal')).length, 5);
  });

  test('is for nobody but its user to read', () => {
    const steps = plan();
    const transaction = Transaction.begin(machine, 'install', NOW);
    carryOut(steps, count, transaction);
    const dir = at('/var/lib/nox-admin/journal');
    assert.equal(lstatSync(dir).mode & 0o077, 0);
    for (const name of readdirSync(dir, { recursive: true }))
      assert.equal(lstatSync(join(dir, String(name))).mode & 0o077, 0, String(name));
    transaction.commit(false);
  });
});

describe('steps', () => {
  test('a link in the place of a file or a directory is not followed', () => {
    mkdirSync(at('/victim'));
    writeFileSync(at('/victim/file'), 'untouched', { mode: 0o644 });
    symlinkSync(at('/victim'), at('/home/nox/nox/logs'));
    symlinkSync(at('/victim/file'), at('/etc/default/nox-api'));
    assert.throws(() => {
      applyStep(machine, { do: 'directory', path: '/home/nox/nox/logs', mode: 0o777, ...NOX }, '');
    }, /ELOOP|ENOTDIR/);
    assert.throws(() => {
      applyStep(machine, { do: 'attributes', path: '/etc/default/nox-api', mode: 0o777, ...NOX }, '');
    }, /ELOOP/);
    applyStep(machine, { do: 'file', path: '/etc/default/nox-api', text: 'mine', mode: 0o600, ...NOX }, '');
    assert.equal(readFileSync(at('/victim/file'), 'utf8'), 'untouched');
    assert.equal(lstatSync(at('/victim/file')).mode & 0o777, 0o644);
    assert.equal(lstatSync(at('/etc/default/nox-api')).isFile(), true);
  });

  test('what is shown of a step has no secret in it', () => {
    writeFileSync(at('/etc/default/nox-api'), 'NOX_API_TOKEN=the-old-secret\nNOX_PORT=1\n');
    const text = 'export NOX_API_TOKEN="the-new-secret"\n# NOX_API_TOKEN=the-third-secret\nNOX_PORT=2\n';
    const shown = preview({ do: 'file', path: '/etc/default/nox-api', text, mode: 0o600, ...NOX }, machine);
    assert.doesNotMatch(shown, /secret/);
    assert.match(shown, /^ {4}-NOX_PORT=1\n[^]*^ {4}\+NOX_PORT=2/m);
    assert.match(shown, /write \/etc\/default\/nox-api \(0600 nox:nox\)/);
  });

  test('each kind has a title of its own', () => {
    const titles = plan().map(title);
    assert.equal(new Set(titles).size, titles.length);
  });
});

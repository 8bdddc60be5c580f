/** The administrator's commands on a directory that looks like a machine: what is changed, and what is left when it fails. */
import assert from 'node:assert/strict';
import {
  copyFileSync,
  chmodSync,
  linkSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import fc from 'fast-check';
import { applyStep } from '../../src/admin/apply.ts';
import { Host, type Ran } from '../../src/admin/host.ts';
import { interrupted, lastKept, recover, rollBack, Transaction } from '../../src/admin/journal.ts';
import { inheritedSettings, timestamp, withoutOldPython } from '../../src/admin/legacy.ts';
import { copyRelease, damages, readRelease } from '../../src/admin/release.ts';
import {
  completeSettings,
  editSettings,
  hideSecrets,
  mendSettings,
  parseSettings,
  requirements,
} from '../../src/admin/settings.ts';
import { giveTo, listOwners, restoreOwners, type OwnerRow } from '../../src/admin/share.ts';
import { preview, title, type Step } from '../../src/admin/steps.ts';
import { debianPackage } from '../../src/admin/venv.ts';

const UID = process.getuid?.() ?? 0;
const GID = process.getgid?.() ?? 0;

/** A machine with systemd's answers made up: services that run, and a list of what was asked of them. */
class Machine extends Host {
  readonly asked: string[] = [];
  readonly active = new Set<string>();

  override run(argv: readonly string[]): Ran {
    const answer = (code: number): Ran => ({ code, stdout: '', stderr: '' });
    if (argv[0] !== 'systemctl') return answer(0);
    this.asked.push(argv.slice(1).join(' '));
    const unit = argv.at(-1) ?? '';
    if (argv[1] === 'is-active') return answer(this.active.has(unit) ? 0 : 3);
    if (argv[1] === 'is-enabled') return answer(this.active.has(unit) ? 0 : 1);
    if (argv[1] === 'start' || argv[1] === 'restart') this.active.add(unit);
    if (argv[1] === 'stop') this.active.delete(unit);
    return answer(0);
  }
}

let machine: Machine;

beforeEach(() => {
  const root = mkdtempSync(join(tmpdir(), 'nox-admin-'));
  machine = new Machine(root);
  for (const dir of ['etc/default', 'etc/systemd/system', 'opt', 'home/nox/nox/sandbox', 'var/lib/nox-admin'])
    mkdirSync(join(root, dir), { recursive: true });
  writeFileSync(
    join(root, 'etc/passwd'),
    `nox:x:${UID}:${GID}::/home/nox:/bin/bash\nnox-runner:x:${UID}:${GID}::/:/usr/sbin/nologin\n`,
  );
  writeFileSync(join(root, 'etc/group'), `nox:x:${GID}:\n`);
});
afterEach(() => {
  rmSync(machine.root, { recursive: true, force: true });
});

const at = (path: string): string => machine.at(path);

/** Every entry with its kind, mode, owner and content; the journal and its parent's times left out. */
function picture(): string[] {
  const rows: string[] = [];
  const walk = (dir: string): void => {
    for (const name of readdirSync(Buffer.from(dir, 'latin1'), 'latin1').sort()) {
      // Names are bytes: each is one character here.
      const shown = relative(machine.root, join(dir, name));
      if (shown === 'var/lib/nox-admin/journal') continue;
      const path = Buffer.from(join(dir, name), 'latin1');
      const stats = lstatSync(path);
      const content = stats.isSymbolicLink()
        ? readlinkSync(path)
        : stats.isFile()
          ? readFileSync(path, 'utf8')
          : '';
      rows.push([shown, (stats.mode & 0o7777).toString(8), stats.uid, stats.gid, content].join(' '));
      if (stats.isDirectory()) walk(join(dir, name));
    }
  };
  walk(machine.root);
  return rows;
}

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

describe('files of a workspace', () => {
  const place = '/home/nox/nox/sandbox';

  test('directories and files are given away and taken back; links and second names are left alone', () => {
    mkdirSync(at('/victim'));
    writeFileSync(at('/victim/file'), 'x', { mode: 0o600 });
    chmodSync(at('/victim'), 0o700);
    mkdirSync(at(`${place}/dir`), { mode: 0o700 });
    writeFileSync(at(`${place}/dir/program`), 'x', { mode: 0o755 });
    chmodSync(at(`${place}/dir/program`), 0o4755);
    writeFileSync(Buffer.concat([Buffer.from(at(`${place}/`)), Buffer.from([0xff, 0x0a, 0x41])]), 'x', {
      mode: 0o600,
    });
    linkSync(at('/victim/file'), at(`${place}/second`));
    symlinkSync(at('/victim'), at(`${place}/link`));
    const before = picture();
    const rows: OwnerRow[] = [];
    listOwners(machine, place, (row) => rows.push(row));
    giveTo(machine, place, UID, GID);
    const mode = (path: string) => (lstatSync(at(path)).mode & 0o7777).toString(8);
    assert.equal(mode(`${place}/dir`), '2770');
    assert.equal(mode(`${place}/dir/program`), '775');
    assert.equal(mode('/victim/file'), '600');
    assert.equal(mode('/victim'), '700');
    restoreOwners(machine, place, rows);
    // Not the set-user-id bit: meanwhile the runs could have put anything into the file.
    assert.deepEqual(
      picture(),
      before.map((row) => row.replace(' 4755 ', ' 755 ')),
    );
  });

  test('a link in the place of the workspace is not followed', () => {
    mkdirSync(at('/victim'));
    rmSync(at(place), { recursive: true });
    symlinkSync(at('/victim'), at(place));
    assert.throws(() => {
      giveTo(machine, place, UID, GID);
    }, /ELOOP|ENOTDIR/);
  });
});

describe('the settings file', () => {
  const names = fc.constantFrom('NOX_API_TOKEN', 'NOX_PORT', 'NOX_SANDBOX', 'OTHER', 'NOX_FORBIDDEN');
  const values = fc
    .string({ unit: 'grapheme-ascii' })
    .filter((text) => !/[\n\r\0\\]/.test(text) && text === text.trim());

  test('what is written is what is read', () => {
    fc.assert(
      fc.property(fc.dictionary(names, values), fc.dictionary(names, values), (first, second) => {
        const text = editSettings(editSettings('', first), second);
        assert.deepEqual(parseSettings(text), { ...first, ...second });
      }),
    );
  });

  test('what is not ours stays byte for byte, the last line of a name counts', () => {
    const text = "# mine\n\nNOX_PORT=1\n  OTHER='x y'\n;NOX_PORT=7\nNOX_PORT=2\n";
    assert.equal(
      editSettings(text, { NOX_PORT: '3' }),
      "# mine\n\nNOX_PORT=1\n  OTHER='x y'\n;NOX_PORT=7\nNOX_PORT=3\n",
    );
    assert.equal(parseSettings(text)['NOX_PORT'], '2');
  });

  test('a token that is there survives; without one there is a new one; unknown names are taken out of force', () => {
    const kept = completeSettings('NOX_API_TOKEN=abc\nNOX_OLD_THING=1\nPATH=/x\n', {}, () => 'new');
    assert.deepEqual(parseSettings(kept), { NOX_API_TOKEN: 'abc', PATH: '/x' });
    assert.match(kept, /^# cannot be used: NOX_OLD_THING=1$/m);
    assert.equal(parseSettings(completeSettings(undefined, {}, () => 'new'))['NOX_API_TOKEN'], 'new');
    assert.equal(
      parseSettings(completeSettings('NOX_API_TOKEN=\n', {}, () => 'new'))['NOX_API_TOKEN'],
      'new',
    );
    const whole = 'NOX_API_TOKEN="abc"\n';
    assert.equal(
      completeSettings(whole, { NOX_API_TOKEN: 'inherited' }, () => 'new'),
      whole,
    );
  });

  test('values that cannot be used are replaced by those that worked last', () => {
    const good = 'NOX_API_TOKEN=abc\nNOX_PORT=9000\n';
    assert.equal(mendSettings(undefined, good), good);
    assert.deepEqual(parseSettings(mendSettings('NOX_PORT=many\nNOX_TIMEOUT=-1\n', good) ?? ''), {
      NOX_PORT: '9000',
      NOX_API_TOKEN: 'abc',
    });
    assert.equal(mendSettings(good, undefined), good);
  });

  test('secrets are hidden in every form', () => {
    const secret = 'S3CRET';
    for (const line of [
      `NOX_API_TOKEN=${secret}`,
      `  export NOX_API_TOKEN='${secret}'`,
      `#NOX_API_TOKEN=${secret}`,
      `; NOX_API_TOKEN=${secret}`,
      `# cannot be used: NOX_API_TOKEN=${secret}`,
      `DB_PASSWORD=${secret}`,
      `NOX_API_TOKEN=\\\n${secret}`,
    ])
      assert.doesNotMatch(hideSecrets(line), new RegExp(secret), line);
    assert.equal(hideSecrets('NOX_PORT=1\n# text'), 'NOX_PORT=1\n# text');
    for (const line of [
      'Environment=NOX_API_TOKEN=abc123',
      'Environment="NOX_PORT=1" "NOX_API_TOKEN=abc123"',
      "Environment=NOX_API_TOKEN='abc 123'",
      'NOX_PYTHON_INDEX=https://me:abc123@pypi.example/simple',
    ])
      assert.doesNotMatch(hideSecrets(line), /abc/, line);
  });

  test('packages: a hash belongs to what is before it', () => {
    assert.equal(
      requirements(' numpy==1 --hash=sha256:aa --hash=sha256:bb  six '),
      'numpy==1 --hash=sha256:aa --hash=sha256:bb\nsix\n',
    );
    assert.equal(debianPackage('Foo_Bar'), 'python3-foo-bar');
    assert.equal(debianPackage('python3-yaml'), 'python3-yaml');
    assert.throws(() => debianPackage('numpy==1.2'), /NOX_PYTHON_INDEX/);
    assert.throws(() => debianPackage('-oX=y'), /Debian has one version/);
  });
});

test('the original system’s unit tells its address and its settings', () => {
  const unit = `[Service]
Environment="NOX_SANDBOX=/srv/box" OTHER=1
Environment=NOX_TIMEOUT=5
ExecStart=/home/nox/nox/.venv/bin/python3 -m uvicorn nox_api:app \\
  --host 0.0.0.0 --port 9090
`;
  writeFileSync(at('/etc/systemd/system/nox-api.service'), unit);
  assert.deepEqual(inheritedSettings(machine), {
    NOX_SANDBOX: '/srv/box',
    NOX_TIMEOUT: '5',
    NOX_BIND_ADDR: '0.0.0.0',
    NOX_PORT: '9090',
  });
  writeFileSync(at('/etc/systemd/system/nox-api.service'), unit.replace('--port 9090', '--port ${NOX_PORT}'));
  assert.equal(inheritedSettings(machine)['NOX_PORT'], undefined);
  assert.match(timestamp(NOW), /^\d{14}$/);

  const old = 'NOX_API_TOKEN=abc\nNOX_PYTHON=/home/nox/nox/.venv/bin/python3\n';
  assert.deepEqual(parseSettings(withoutOldPython(old)), { NOX_API_TOKEN: 'abc' });
  assert.equal(withoutOldPython('NOX_PYTHON=/usr/bin/python3\n'), 'NOX_PYTHON=/usr/bin/python3\n');
});

test('a release is whole, or says what is wrong with it', () => {
  const source = join(machine.root, 'source');
  for (const dir of [
    'dist/cli',
    'deploy',
    'node_modules/node/bin',
    'node_modules/lib/sub',
    'node_modules/dev',
  ])
    mkdirSync(join(source, dir), { recursive: true });
  writeFileSync(join(source, 'dist/cli/noxctl.js'), '1');
  writeFileSync(join(source, 'deploy/notify.pl'), '2');
  writeFileSync(join(source, 'node_modules/node/bin/node'), '3');
  writeFileSync(join(source, 'node_modules/lib/sub/index.js'), '4');
  writeFileSync(join(source, 'node_modules/dev/index.js'), '5');
  writeFileSync(join(source, 'package.json'), '{"version": "9.8.7"}');
  const packages = { '': {}, 'node_modules/lib': {}, 'node_modules/dev': { dev: true } };
  writeFileSync(join(source, 'package-lock.json'), JSON.stringify({ packages }));
  const release = readRelease(source);
  assert.match(release.id, /^9\.8\.7-[0-9a-f]{12}$/);
  assert.deepEqual(Object.keys(release.manifest), [
    ...['bin/node', 'deploy/notify.pl', 'dist/cli/noxctl.js', 'node_modules/lib/sub/index.js'],
    ...['package-lock.json', 'package.json'],
  ]);
  copyRelease(machine, source, '/opt/it');
  assert.deepEqual(damages(machine, '/opt/it'), []);
  // What was installed is itself a source, for the way back to an older program.
  assert.equal(readRelease(at('/opt/it')).id, release.id);

  writeFileSync(at('/opt/it/dist/cli/noxctl.js'), 'changed');
  rmSync(at('/opt/it/bin/node'));
  writeFileSync(at('/opt/it/dist/more.js'), 'added');
  const found = damages(machine, '/opt/it').join('\n');
  assert.match(found, /noxctl\.js was changed/);
  assert.match(found, /bin\/node is missing/);
  assert.match(found, /dist\/more\.js does not belong there/);
  // As a source it is still what it was, and gives nothing that it is not.
  assert.equal(readRelease(at('/opt/it')).id, release.id);
  assert.throws(() => copyRelease(machine, at('/opt/it'), '/opt/second'), /bin\/node is missing: there is/);
  copyFileSync(join(source, 'node_modules/node/bin/node'), at('/opt/it/bin/node'));
  assert.throws(() => copyRelease(machine, at('/opt/it'), '/opt/second'), /noxctl\.js was changed: there is/);
  rmSync(join(source, 'dist'), { recursive: true });
  assert.throws(() => readRelease(source), /no built tree of Nox/);
});

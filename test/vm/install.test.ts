/** Installation on a real machine with systemd: from nothing, through damage, and away again. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { assertSamePicture, noxctl, PICTURE, python, SLOW, start, works } from './nox.ts';

/** What a repair must leave as it was: all but the journal of commands. */
// A drop-in is put aside, not thrown away.
const WHOLE = `(${PICTURE}) | grep -v -e /var/lib/nox-admin/journal/ -e nox-api.service.d.bak.`;

test('a fresh machine', { timeout: 5_400_000 }, async (t) => {
  const m = await start();
  t.after(() => m.stop());

  await t.test('install, killed in the middle: the next one undoes it, and installs', async () => {
    const killed = await m.fail(noxctl('install --die-at=12'), SLOW);
    assert.match(killed.stdout, /write \/etc\/default\/nox-api/);
    const out = await m.succeed(noxctl('install'), SLOW);
    assert.match(out, /^undone: install of .*, which was interrupted$/m);
    assert.match(out, /self-test: .* answer as they should/);
    await m.waitForUnit('nox-api');
    await m.waitForUnit('nox-runner');
    assert.deepEqual((await python(m, 'import sys; print(sys.prefix)')).stdout, '/opt/nox/.venv\n');
    assert.doesNotMatch(
      out,
      new RegExp((await m.succeed('. /etc/default/nox-api; echo $NOX_API_TOKEN')).trim()),
    );
    assert.equal((await m.succeed('stat -c "%a %U:%G" /etc/default/nox-api')).trim(), '600 root:root');
  });

  await t.test('install again changes nothing', async () => {
    const before = await m.succeed(PICTURE, SLOW);
    const started = await m.succeed('systemctl show -P ExecMainStartTimestamp nox-api nox-runner');
    assert.match(await m.succeed(noxctl('install'), SLOW), /nothing to change/);
    assertSamePicture(await m.succeed(PICTURE, SLOW), before);
    assert.equal(await m.succeed('systemctl show -P ExecMainStartTimestamp nox-api nox-runner'), started);
  });

  await t.test('validate passes, also from inside a run; the units are as tight as promised', async () => {
    const out = await m.succeed('/opt/nox/bin/noxctl validate', SLOW);
    assert.match(out, /^\d+ passed, 0 failed$/m);
    assert.match(out, /escape: /);
    for (const [unit, most] of [
      ['nox-api', 1.2],
      ['nox-runner', 3.2],
    ] as const) {
      const figure = await m.succeed(`systemd-analyze security --no-pager ${unit} | tail -n1`);
      const level = Number(/level for .*: ([\d.]+)/.exec(figure)?.[1]);
      t.diagnostic(figure.trim());
      assert.ok(level <= most, figure);
    }
    const verified = await m.execute('systemd-analyze verify nox-api.service nox-runner.service');
    assert.deepEqual([verified.code, verified.stdout + verified.stderr], [0, '']);
  });

  await t.test('a run cannot signal or read gateway and runner; limits are the cgroup’s', async () => {
    const code = `import os, glob
pids = sorted(int(name) for name in os.listdir('/proc') if name.isdigit())
print(len(pids) < 5, glob.glob('/home/nox/nox/*'), os.path.exists('/etc/default/nox-api'), os.path.exists('/run/nox-runner'))`;
    assert.equal((await python(m, code)).stdout, "True ['/home/nox/nox/sandbox'] False False\n");
    const hog = await python(
      m,
      'import mmap\nx = mmap.mmap(-1, 900 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)',
    );
    assert.match(hog.stderr, /^nox: memory_limit: /m);
    await m.waitForUnit('nox-api');
  });

  const damages: readonly (readonly [name: string, command: string, found: RegExp])[] = [
    ['the token file is gone', 'rm /etc/default/nox-api', /settings: .* is missing/],
    ['the token file is open to all', 'chmod 644 /etc/default/nox-api', /settings: .* has mode 644/],
    [
      'a directive is gone',
      'sed -i /MemoryDeny/d /etc/systemd/system/nox-api.service',
      /units: .* was changed/,
    ],
    [
      'a drop-in weakens the unit',
      'mkdir /etc/systemd/system/nox-api.service.d && printf "[Service]\\nProtectSystem=no\\n" >/etc/systemd/system/nox-api.service.d/x.conf && systemctl daemon-reload',
      /drop-ins: /,
    ],
    [
      'the program was changed',
      'echo >>/opt/nox/current/dist/gateway/main.js',
      /program: .*main\.js was changed/,
    ],
    ['the link to the program is gone', 'rm /opt/nox/current', /program: /],
    ['the environment’s python is gone', 'rm /opt/nox/.venv/bin/python3', /python environment: /],
    [
      'the environment belongs to root',
      'chown root:root /opt/nox/.venv',
      /python environment: .* does not belong to nox:nox/,
    ],
    [
      'the workspace is closed',
      'chmod 700 /home/nox/nox/sandbox',
      /directories: .* has mode 2700 instead of 2775/,
    ],
    ['the logs are gone', 'rm -r /home/nox/nox/logs', /directories: .*logs is missing/],
    ['a user can log in', 'usermod -s /bin/bash nox-runner', /user nox-runner: login shell/],
    ['the gateway is stopped and off', 'systemctl disable --now --quiet nox-api', /services: nox-api/],
    ['the rotation is gone', 'rm /etc/logrotate.d/nox', /files: .* is missing/],
    ['files of nox in the workspace', 'chown nox /home/nox/nox/sandbox/old', /workspace files: /],
  ];
  await t.test('each of fifteen kinds of damage is found, mended, and nothing else is', async (t2) => {
    await m.succeed('install -o nox-runner -g nox -m 664 /dev/null /home/nox/nox/sandbox/old');
    const token = await m.succeed('grep TOKEN /etc/default/nox-api');
    const whole = await m.succeed(WHOLE, SLOW);
    for (const [name, command, found] of damages) {
      await t2.test(name, async () => {
        await m.succeed(command);
        const said = (await m.fail(noxctl('validate'), SLOW)).stdout;
        const fact = found.source.slice(0, found.source.indexOf(':'));
        assert.match(said, new RegExp(`^FAIL {2}${fact} .*\\n {6}remedy: (noxctl repair|.*repair;)`, 'm'));
        const out = await m.succeed(noxctl('repair'), SLOW);
        assert.match(out, found);
        assert.match(await m.succeed('cat /home/nox/nox/logs/last_repair_report.md'), /every check passes/);
        assertSamePicture(await m.succeed(WHOLE, SLOW), whole);
      });
    }
    await m.succeed('grep -q ProtectSystem=no /etc/systemd/system/nox-api.service.d.bak.*/x.conf');
    await t2.test('a setting cannot be used: the line stays, as a comment', async () => {
      await m.succeed('echo NOX_TIMEOUT=soon >>/etc/default/nox-api');
      assert.match(
        (await m.fail(noxctl('validate'), SLOW)).stdout,
        /^FAIL {2}settings .*\n {6}remedy: noxctl repair/m,
      );
      assert.match(await m.succeed(noxctl('repair'), SLOW), /settings: .* was changed/);
      assert.match(await m.succeed('cat /etc/default/nox-api'), /^# cannot be used: NOX_TIMEOUT=soon$/m);
      assert.equal(await m.succeed('grep TOKEN /etc/default/nox-api'), token);
      await works(m);
    });
  });

  await t.test('a backup is restored', async () => {
    await m.succeed(
      'echo precious >/home/nox/nox/sandbox/data && /opt/nox/bin/noxctl backup /root/nox.backup',
      SLOW,
    );
    assert.equal((await m.succeed('stat -c %a /root/nox.backup')).trim(), '600');
    await m.succeed(
      'echo spoilt >/home/nox/nox/sandbox/data && /opt/nox/bin/noxctl restore /root/nox.backup',
      SLOW,
    );
    assert.equal((await python(m, 'print(open("data").read(), end="")')).stdout, 'precious\n');
  });

  await t.test('two commands at once: the second is refused by name', async () => {
    const [first, second] = await Promise.all([
      m.execute(noxctl('install'), SLOW),
      m.execute(`sleep 3; ${noxctl('install')}`, SLOW),
    ]);
    assert.equal(first.code, 0, first.stderr);
    assert.equal(second.code, 75);
    assert.match(second.stderr, /another command is at work \(install, process \d+\)/);
  });

  await t.test('a reboot brings both services up', async () => {
    await m.reboot();
    await m.waitForUnit('nox-api', 300);
    assert.equal((await python(m, 'print(6 * 7)')).stdout, '42\n');
  });

  await t.test('uninstall leaves what it says, purge nothing', async () => {
    const out = await m.succeed(noxctl('uninstall'), SLOW);
    assert.match(out, /^kept: \/home\/nox$/m);
    await m.succeed('test -e /home/nox/nox/sandbox/data && test -e /etc/default/nox-api');
    const gone =
      '/opt/nox /etc/systemd/system/nox.slice /etc/systemd/system/nox-a* /etc/systemd/system/nox-r* /etc/logrotate.d/nox /var/lib/nox-admin';
    assert.equal((await m.execute(`ls -d ${gone} 2>/dev/null`)).stdout, '');
    // What a server that was started without an installation keeps (src/state.ts) is not the installation's.
    await m.succeed('install -d /var/lib/nox/sandbox && touch /var/lib/nox/token');
    await m.succeed(noxctl('uninstall --purge'), SLOW);
    await m.succeed('test -e /var/lib/nox/token && test -d /var/lib/nox/sandbox');
    await m.fail('ls -d /home/nox');
    assert.equal((await m.execute('getent passwd nox nox-runner; getent group nox')).stdout, '');
    assert.equal((await m.succeed('find / -xdev -user 999 2>/dev/null | head')).trim(), '');
  });
});

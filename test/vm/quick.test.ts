/** The part of these tests that fits into every run of CI: one machine, through the main turns of its life. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { noxctl, python, SLOW, start, works } from './nox.ts';

const HOUR = 3_600_000;
const AUTH = `-H "Authorization: Bearer $(sed -n s/^NOX_API_TOKEN=//p /etc/default/nox-api)"`;

test('a machine, from bare to hardened and through its accidents', { timeout: HOUR }, async (t) => {
  const m = await start();
  t.after(() => m.stop());

  await t.test(
    'the power is cut in the middle of an installation: the next one undoes it, and installs',
    async () => {
      m.execute(noxctl('install'), SLOW).catch(() => undefined);
      await m.waitUntilSucceeds('test -e /opt/nox/.venv.new || test -e /opt/nox/.venv', SLOW.seconds);
      await sleep(2000);
      await m.powerCut();
      await m.start();
      const out = await m.succeed(noxctl('install'), SLOW);
      assert.match(out, /^undone: install of .*, which was interrupted$/m);
      assert.match(out, /self-test: .* answer as they should/);
      await works(m);
    },
  );

  await t.test('validate passes, escapes from a real run included', async () => {
    const out = await m.succeed('/opt/nox/bin/noxctl validate', SLOW);
    assert.match(out, /^\d+ passed, 0 failed$/m);
    assert.match(out, /escape: /);
  });

  await t.test('the memory limit is the cgroup’s, and named', async () => {
    const hog = await python(
      m,
      'import mmap\nx = mmap.mmap(-1, 900 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | mmap.MAP_POPULATE)',
    );
    assert.notEqual(hog.returncode, 0);
    assert.match(hog.stderr, /^nox: memory_limit: /m);
  });

  await t.test('a large file goes up and comes down whole, sent by the kernel (sendfile)', async () => {
    const url = 'http://127.0.0.1:8080/v1/workspaces/default/files/content?path=large';
    const sum = await m.succeed(
      `head -c 50M /dev/urandom > /tmp/large; curl -sSf ${AUTH} -T /tmp/large '${url}' > /dev/null; sha256sum < /tmp/large`,
      SLOW,
    );
    assert.equal(await m.succeed(`curl -sSf ${AUTH} '${url}' | sha256sum`, SLOW), sum);
    await m.succeed(`curl -sSf ${AUTH} -X DELETE '${url.replace('/content', '')}'; rm /tmp/large`);
  });

  await t.test(
    'a run that makes more files than its workspace may have is held still, counted and ended',
    async () => {
      const quota = (bytes: string) =>
        m.succeed(
          `curl -sSf ${AUTH} -X PATCH -H 'Content-Type: application/json' -d '{"quotaBytes": ${bytes}}' http://127.0.0.1:8080/v1/workspaces/default`,
        );
      await quota(String(512 * 16_384));
      const many = await python(
        m,
        `import time
for n in range(5000):
    open(f'many-{n}', 'w').close()
    if n % 100 == 0: time.sleep(0.2)`,
      );
      assert.match(many.stderr, /^nox: disk_limit: /m);
      await python(m, `import glob, os\nfor name in glob.glob('many-*'): os.unlink(name)`);
      await quota('null');
      await works(m);
    },
  );

  await t.test('three damages at once are found, named with a remedy, and mended', async () => {
    await m.succeed(
      'chmod 644 /etc/default/nox-api; sed -i /MemoryDeny/d /etc/systemd/system/nox-api.service; systemctl stop nox-runner',
    );
    const found = (await m.fail(noxctl('validate'), SLOW)).stdout;
    for (const name of ['settings', 'units', 'services'])
      assert.match(found, new RegExp(`^FAIL {2}${name}`, 'm'));
    assert.match(found, /^ {6}remedy: /m);
    await m.succeed(noxctl('repair'), SLOW);
    assert.match(await m.succeed('cat /home/nox/nox/logs/last_repair_report.md'), /every check passes/);
  });

  await t.test('a reboot brings both services up', async () => {
    await m.reboot();
    await works(m);
  });
});

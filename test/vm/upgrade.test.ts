/** Upgrade and downgrade under load; a backup that is restored into a second machine. */
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { test, type TestContext } from 'node:test';
import type { Machine } from './machine.ts';
import { assertSamePicture, makeNext, noxctl, picture, python, SLOW, start, works } from './nox.ts';

const HOURS = 3_600_000;
const LOAD = readFileSync(join(import.meta.dirname, 'guest/load.py'), 'utf8');

const CLIENTS = 3;

interface Load {
  readonly answered: number;
  readonly refused: number;
  /** Calls that got no answer, because the port was closed before they were accepted. */
  readonly cut: readonly string[];
  readonly failed: readonly string[];
  /** Seconds. */
  readonly gap: number;
}

/** Does something while three clients call without a pause. */
async function underLoad(m: Machine, work: () => Promise<unknown>): Promise<Load> {
  await m.write('/root/load.py', LOAD);
  await m.succeed('rm -f /root/stop /home/nox/nox/sandbox/ran');
  const load = m.succeed(`python3 /root/load.py ${CLIENTS} /root/stop`, SLOW);
  try {
    await work();
  } finally {
    await m.succeed('touch /root/stop');
  }
  return JSON.parse(await load) as Load;
}

const version = (m: Machine) => m.succeed('readlink /opt/nox/current');

test('upgrade and downgrade under load', { timeout: 4 * HOURS }, async (t) => {
  const m = await start();
  t.after(() => m.stop());
  await m.succeed(noxctl('install'), SLOW);
  await works(m);
  const old = (await version(m)).trim();
  const next = await makeNext(m, '9.9.9');
  const restart = 'systemctl restart nox-runner nox-api';
  const bare = await underLoad(m, () => m.succeed(`sleep 10; ${restart}; sleep 10`, SLOW));
  report(t, `${restart} alone`, bare);

  for (const [what, source, expected] of [
    ['upgrade', next, /^releases\/9\.9\.9-/],
    ['downgrade', `/opt/nox/${old}`, new RegExp(`^${old}$`, 'm')],
  ] as const) {
    await t.test(what, async (t2) => {
      const load = await underLoad(m, async () => {
        await m.succeed(`/opt/nox/bin/noxctl install --source ${source}`, { seconds: 1800 });
      });
      report(t2, what, load);
      assert.match(await version(m), expected);
      assert.deepEqual(load.failed, []);
      // At most the one that each client had under way, and none of them has run.
      assert(load.cut.length <= CLIENTS, JSON.stringify(load));
      const ran = (await m.succeed('cat /home/nox/nox/sandbox/ran')).split('\n');
      assert.deepEqual(
        load.cut.filter((call) => ran.includes(call)),
        [],
      );
      assert(load.answered > 10, JSON.stringify(load));
      // One restart, not two: emulation is slow, but a gap has no reason to be much longer than that of a restart.
      assert(load.gap < 3 * bare.gap + 10, JSON.stringify({ load, bare }));
    });
  }

  await t.test('an upgrade on a disk without space fails by name, and changes nothing', async () => {
    const another = await makeNext(m, '9.9.10');
    await m.succeed('fallocate -l $(( $(df --output=avail -B1 / | tail -n1) - (60 << 20) )) /root/fill');
    const before = await picture(m);
    const failed = await m.fail(`/opt/nox/bin/noxctl install --source ${another}`, SLOW);
    assert.match(failed.stderr, /no space left on device[^]*everything is as it was before/i);
    await m.succeed('rm /root/fill');
    assertSamePicture(await picture(m), before);
    await works(m);
  });
});

function report(t: TestContext, what: string, { answered, refused, cut, gap }: Load): void {
  t.diagnostic(
    `${what}: ${String(answered)} calls answered, ${String(refused)} connections refused, ${String(cut.length)} cut off, ${String(gap)} s without an answer`,
  );
}

test('a backup is restored into a second machine', { timeout: 4 * HOURS }, async (t) => {
  const first = await start({ memory: 1536, cpus: 1 });
  t.after(() => first.stop());
  await first.succeed(noxctl('install'), SLOW);
  await works(first);
  await python(
    first,
    `import os
open('data', 'w').write('precious'); os.chmod('data', 0o640); os.makedirs('a/b'); open('a/b/x y', 'w').write('deep')
os.symlink('/etc/shadow', 'link'); os.link('data', 'twin'); open(b'\\xff\\xfe', 'w').write('no text'); os.truncate('data', 8)
with open('sparse', 'wb') as file: file.truncate(1 << 30)`,
  );
  await first.succeed("sed -i '$aNOX_TIMEOUT=33' /etc/default/nox-api");
  await first.succeed(noxctl('install'), { seconds: 1800 });
  const curl = (path: string, bearer = '$NOX_API_TOKEN') =>
    `. /etc/default/nox-api; curl -sS -H "Authorization: Bearer ${bearer}" http://127.0.0.1:8080${path}`;
  const issued = JSON.parse(
    await first.succeed(`${curl('/v1/tokens')} -d '{"name": "colleague", "scopes": ["run"]}'`),
  ) as { secret: string };
  const list = `cd /home/nox/nox/sandbox && find . -printf '%P %y %m %u:%g %s %l\\n' | grep -v run.py | sort; cat data 'a/b/x y'; du -k sparse | cut -f1`;
  const files = await first.succeed(list);
  const settings = await first.succeed('cat /etc/default/nox-api');
  await first.succeed('/opt/nox/bin/noxctl backup /root/nox.backup', SLOW);
  const archive = await first.succeed('base64 -w0 /root/nox.backup');
  await first.stop();

  const second = await start();
  t.after(() => second.stop());
  await second.succeed(noxctl('install'), SLOW);
  await second.succeed('base64 -d >/root/nox.backup', { stdin: archive });
  await python(second, 'open("other", "w").write("of the second machine")');
  await second.succeed('/opt/nox/bin/noxctl restore /root/nox.backup', { seconds: 1800 });
  assert.equal(await second.succeed('cat /etc/default/nox-api'), settings);
  assert.equal(await second.succeed(list), files);
  assert.match(await second.succeed('cat /home/nox/nox/sandbox.bak.*/other'), /of the second machine/);
  assert.equal((await python(second, 'print(open("twin").read())')).stdout, 'precious\n');
  const runs = await second.succeed(`${curl('/v1/runs', issued.secret)} -d '{"code": "print(6 * 7)"}'`);
  assert.equal((JSON.parse(runs) as { stdout?: string }).stdout, '42\n');
  assert.match(
    await second.fail('ls /var/lib/nox-api/tokens.restored.json').then(({ stderr }) => stderr),
    /No such file/,
  );
  assert.equal((await second.succeed('stat -c "%a %U" /var/lib/nox-api/tokens.json')).trim(), '600 nox');

  await t.test('what is no backup, or half of one, changes nothing', async () => {
    const whole = Buffer.from(archive, 'base64');
    const half = whole.subarray(0, whole.length / 2).toString('base64');
    await second.succeed('base64 -d >/root/half.backup', { stdin: half });
    const refused = await second.fail('/opt/nox/bin/noxctl restore /root/half.backup', SLOW);
    assert.match(refused.stderr, /half\.backup/);
    assert.equal(await second.succeed(list), files);
    assert.equal((await python(second, 'print(1)')).stdout, '1\n');
  });
});

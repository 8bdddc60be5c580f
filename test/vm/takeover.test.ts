/** A machine of the original system is hardened: with everything that it had, back again, or not at all. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { Machine } from './machine.ts';
import {
  assertSamePicture,
  makeOld,
  makeOriginal,
  noxctl,
  originalWorks,
  picture,
  python,
  SLOW,
  start,
  works,
} from './nox.ts';

const HOURS = 3_600_000;

/** Without the place of the commands themselves, which stays with an empty journal. */
const pictureWithoutState = async (m: Machine) =>
  (await picture(m)).replaceAll(/^\/var\/lib\/nox-admin.*\n/gm, '');

test('a machine of the original system', { timeout: 4 * HOURS }, async (t) => {
  const m = await start();
  t.after(() => m.stop());
  await makeOriginal(m);
  const before = await pictureWithoutState(m);
  const mainPid = () => m.succeed('systemctl show -P MainPID nox-api');
  const pid = await mainPid();

  async function asBefore(): Promise<void> {
    assertSamePicture(await pictureWithoutState(m), before);
    await originalWorks(m);
  }

  await t.test(
    'harden that fails at any step leaves everything as it was, and the service up',
    async (t2) => {
      // The first one makes the place of the journal, which is then no step any more.
      await m.fail(noxctl('harden --fail-at=0'), SLOW);
      const plan = await m.succeed(noxctl('harden --dry-run'), SLOW);
      assert.doesNotMatch(plan, /the-old-token/);
      const steps = plan.split('\n').filter((line) => line.startsWith('would '));
      assert(steps.length > 15, plan);
      const restart = steps.findIndex((line) => line.startsWith('would restart'));
      assert(restart > 0);
      for (const [at, step] of [...steps, 'verification'].entries()) {
        await t2.test(`${String(at)}: ${step}`, async () => {
          const failed = await m.fail(noxctl(`harden --fail-at=${String(at)}`), SLOW);
          assert.match(failed.stderr, /told to fail here\neverything is as it was before/);
          await asBefore();
          // Until the last moment the old service has not even been restarted.
          if (at <= restart) assert.equal(await mainPid(), pid);
        });
      }
    },
  );

  await t.test('harden takes it over: same token, same files, same address', async () => {
    const out = await m.succeed(noxctl('harden'), SLOW);
    assert.doesNotMatch(out, /the-old-token/);
    assert.equal((await m.succeed('. /etc/default/nox-api; echo $NOX_API_TOKEN')).trim(), 'the-old-token');
    await m.succeed('test -d /home/nox/nox/.venv.bak.2* && test ! -e /home/nox/nox/.venv');
    assert.equal((await m.succeed('stat -c %U:%G /opt/nox/.venv')).trim(), 'nox:nox');
    const run = await python(
      m,
      'import brought_along; print(open("old.txt").read(), brought_along.ANSWER); open("old.txt", "a")',
    );
    assert.equal(run.stdout, 'kept\n 42\n');
  });

  await t.test('harden again changes nothing', async () => {
    const hardened = await picture(m);
    assert.match(await m.succeed(noxctl('harden'), SLOW), /nothing to change/);
    assertSamePicture(await picture(m), hardened);
  });

  await t.test('rollback brings all of it back, and harden works again', async () => {
    await m.succeed(noxctl('rollback'), SLOW);
    await asBefore();
    await m.succeed(noxctl('harden'), SLOW);
    assert.equal((await python(m, 'print(1)')).stdout, '1\n');
  });
});

test('a machine of an earlier Nox', { timeout: HOURS }, async (t) => {
  const m = await start();
  t.after(() => m.stop());
  await makeOld(m);
  const print = 'print(open("old.txt").read(), end="")';
  assert.equal((await python(m, print)).stdout, 'kept\n');
  const before = await pictureWithoutState(m);

  await m.succeed(noxctl('harden'), SLOW);
  await works(m);
  assert.equal((await m.succeed('. /etc/default/nox-api; echo $NOX_API_TOKEN')).trim(), 'the-old-token');
  // Also to change, though it was another user's.
  assert.equal((await python(m, `${print}; open("old.txt", "a")`)).stdout, 'kept\n');
  assert.equal((await python(m, 'import sys; print(sys.prefix)')).stdout, '/opt/nox/.venv\n');
  assert.match(await m.succeed('/opt/nox/bin/noxctl validate', SLOW), /^\d+ passed, 0 failed$/m);

  await m.succeed(noxctl('rollback'), SLOW);
  await originalWorks(m);
  assert.equal((await python(m, print)).stdout, 'kept\n');
  assertSamePicture(await pictureWithoutState(m), before);
});

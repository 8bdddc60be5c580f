/**
 * Power cuts at random moments of install and of harden: the next call undoes what was begun, and gets there.
 *
 * VM_SEEDS=7 repeats the one cut of that number; the moments are the same in each run of the tests, measured in
 * parts of the time that the command takes here.
 */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Machine } from './machine.ts';
import { makeOriginal, noxctl, originalWorks, python, SLOW, start, works } from './nox.ts';

const HOURS = 3_600_000;
const SEEDS = process.env['VM_SEEDS']?.split(',').map(Number) ?? [1, 2, 3, 4, 5, 6, 7, 8, 9, 10];

/** From 0 to 1; neighbouring seeds are far apart (the multiplicative hash of Knuth). */
const part = (seed: number): number => ((seed * 2_654_435_761) % 2 ** 32) / 2 ** 32;

/** Begins a command, and takes the power away after so many milliseconds of it. */
async function cut(m: Machine, words: string, milliseconds: number): Promise<void> {
  // Its end is not waited for: it has none.
  m.execute(noxctl(words), SLOW).catch(() => undefined);
  await sleep(milliseconds);
  await m.powerCut();
  await m.start();
}

async function milliseconds(work: () => Promise<unknown>): Promise<number> {
  const started = performance.now();
  await work();
  return performance.now() - started;
}

for (const { verb, prepare, before, after } of [
  { verb: 'install', prepare: () => Promise.resolve(), before: () => Promise.resolve(), after: works },
  {
    verb: 'harden',
    prepare: makeOriginal,
    before: originalWorks,
    after: async (m: Machine) => {
      await works(m);
      assert.equal((await m.succeed('. /etc/default/nox-api; echo $NOX_API_TOKEN')).trim(), 'the-old-token');
      const code = 'import brought_along; print(open("old.txt").read(), brought_along.ANSWER)';
      assert.equal((await python(m, code)).stdout, 'kept\n 42\n');
    },
  },
]) {
  test(`power cuts in the middle of ${verb}`, { timeout: 4 * HOURS }, async (t) => {
    const m = await start();
    t.after(() => m.stop());
    await prepare(m);
    await m.checkpoint('before');
    await m.start();
    const whole = await milliseconds(() => m.succeed(noxctl(verb), SLOW));
    t.diagnostic(`${verb} takes ${(whole / 1000).toFixed(0)} s here`);
    for (const seed of SEEDS) {
      await t.test(`seed ${String(seed)}: at ${(part(seed) * 100).toFixed(0)} % of it`, async (t2) => {
        await m.revert('before');
        await m.start();
        await before(m);
        await cut(m, verb, part(seed) * whole);
        const out = await m.succeed(noxctl(verb), SLOW);
        t2.diagnostic(/^undone: .*$/m.exec(out)?.[0] ?? 'it had changed nothing, or was finished');
        await after(m);
        const halves = 'find /opt/nox /etc /home/nox -name ".nox-*" -o -name ".new-*" -o -name .venv.new';
        assert.equal(await m.succeed(halves), '');
      });
    }
  });
}

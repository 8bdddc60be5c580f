import assert from 'node:assert/strict';
import { readdirSync, readFileSync } from 'node:fs';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { runConfined } from '../../src/runner/confined.ts';

const alive = (mark: string): number =>
  readdirSync('/proc').filter((pid) => {
    try {
      return /^\d+$/.test(pid) && readFileSync(`/proc/${pid}/cmdline`, 'latin1').includes(mark);
    } catch {
      return false;
    }
  }).length;

test('what it prints and how it ends', async () => {
  const script = 'echo out; echo err >&2; ls /; exit 7';
  const { code, stdout, stderr } = await runConfined(['/usr/bin/bash', '-c', script], [], 'read');
  assert.deepEqual([code, stderr], [7, 'err\n']);
  assert.match(stdout, /^out\n(bin\n)?(lib\n)?(lib32\n)?(lib64\n)?(libx32\n)?(sbin\n)?usr\n$/);
});

test('ended at any moment of its start, it leaves no process', async () => {
  const mark = `${String(10_000 + process.pid)}.5`;
  for (let round = 0; round < 60; round += 1)
    await Promise.all(
      [0, 1, 2, 3].map(async (n) => {
        const stop = new AbortController();
        const running = runConfined(['/usr/bin/sleep', mark], [], 'read', stop.signal);
        const ended = assert.rejects(running, { code: 'cancelled' });
        await sleep((round % 10) + n / 4);
        stop.abort();
        await ended;
      }),
    );
  for (let tries = 0; alive(mark) > 0 && tries < 100; tries += 1) await sleep(50);
  assert.equal(alive(mark), 0);
});

test('ended before it begins, it does not', async () => {
  const stop = AbortSignal.abort();
  await assert.rejects(runConfined(['/usr/bin/true'], [], 'read', stop), { code: 'cancelled' });
});

test('much output is cut, and ends nothing', async () => {
  const { code, stdout } = await runConfined(
    ['/usr/bin/head', '-c', '5000000', '/usr/bin/python3'],
    [],
    'read',
  );
  assert.equal(code, 0);
  assert.ok(stdout.length <= 2 ** 20);
});

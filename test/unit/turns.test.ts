import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import { inTurn, Turn } from '../../src/runner/turns.ts';

test('two at one time, in their order; who hurries waits for nobody, and keeps nobody longer', async () => {
  const turns = Array.from({ length: 6 }, () => new Turn());
  const granted: number[] = [];
  for (const [index, turn] of turns.entries()) void turn.granted.then(() => granted.push(index));
  await setImmediate();
  assert.deepEqual(granted, [0, 1]);
  turns[4]?.hurry();
  turns[4]?.hurry();
  turns[0]?.hurry();
  await setImmediate();
  assert.deepEqual(granted, [0, 1, 4]);
  turns[0]?.end();
  turns[0]?.end();
  await setImmediate();
  assert.deepEqual(granted, [0, 1, 4], 'there are two still');
  for (const at of [1, 4]) turns[at]?.end();
  await setImmediate();
  assert.deepEqual(granted, [0, 1, 4, 2, 3]);
  for (const at of [2, 3]) turns[at]?.end();
  await setImmediate();
  assert.deepEqual(granted, [0, 1, 4, 2, 3, 5]);
  turns[5]?.end();
  let most = 0;
  let now = 0;
  await Promise.allSettled(
    Array.from({ length: 10 }, (_, index) =>
      inTurn(async () => {
        now += 1;
        most = Math.max(most, now);
        await setImmediate();
        now -= 1;
        if (index % 3 === 0) throw new Error('it failed');
      }),
    ),
  );
  assert.deepEqual([most, now], [2, 0]);
});

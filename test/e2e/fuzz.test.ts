/** A part of `make fuzz`, with the same seed each time: what fails here fails for everybody. */
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fuzz } from '../fuzz/fuzz.ts';

test('some thousand requests: nothing but what the document says, nothing left behind', async () => {
  const { faults, answers, succeeded } = await fuzz({ requests: 4000, seed: 1, connections: 8 });
  assert.deepEqual(faults, []);
  // It gets through to what it tests.
  assert((answers.get(200) ?? 0) > 400, JSON.stringify([...answers]));
  assert(succeeded.size > 40, [...succeeded].join(' '));
});

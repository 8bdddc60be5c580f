/** An Executor that refuses everything: what a test gives in its place is all that can happen. */
import { NoxError } from '../../src/protocol/errors.ts';
import type { Executor } from '../../src/protocol/executor.ts';

const refuse = () => Promise.reject(new NoxError('queue_full', 'Full'));

export const NOBODY: Executor = {
  run: () => ({ [Symbol.asyncIterator]: () => ({ next: refuse }) }),
  put: refuse,
  ask: refuse,
  send: refuse,
  fetch: refuse,
  health: () => Promise.resolve({ ok: true, status: 'ok' }),
  close: () => Promise.resolve(),
};

import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, mock, test } from 'node:test';
import { setImmediate } from 'node:timers/promises';
import fc from 'fast-check';
import { NoxError, type ErrorCode } from '../../src/protocol/errors.ts';
import { Slots, type SlotsOptions } from '../../src/runner/slots.ts';

type Result = 'waiting' | number | ErrorCode;

/** One caller of `acquire`, and what has become of it. */
class Caller {
  readonly #abort = new AbortController();
  result: Result = 'waiting';
  error: NoxError | undefined;

  constructor(slots: Slots) {
    slots.acquire(this.#abort.signal).then(
      (slot) => {
        this.result = slot;
      },
      (error: unknown) => {
        assert.ok(error instanceof NoxError);
        this.error = error;
        this.result = error.code;
      },
    );
  }

  abort(): void {
    this.#abort.abort();
  }
}

beforeEach(() => {
  mock.timers.enable({ apis: ['setTimeout'] });
});
afterEach(() => {
  mock.timers.reset();
});

async function settled(...callers: Caller[]): Promise<Result[]> {
  await setImmediate();
  return callers.map((caller) => caller.result);
}

describe('Slots', () => {
  const ONE: SlotsOptions = { slots: 1, queue: 2, waitSeconds: 10 };

  test('a free slot is given at once, a taken one is waited for in the order of asking', async () => {
    const slots = new Slots(ONE);
    const [a, b, c] = [new Caller(slots), new Caller(slots), new Caller(slots)];
    assert.deepEqual(await settled(a, b, c), [0, 'waiting', 'waiting']);
    assert.deepEqual([slots.busy, slots.waiting], [1, 2]);
    slots.release(0);
    assert.deepEqual(await settled(b, c), [0, 'waiting']);
    slots.release(0);
    assert.deepEqual(await settled(c), [0]);
    slots.release(0);
    assert.deepEqual([slots.busy, slots.waiting], [0, 0]);
  });

  test('queue_full: one more than may wait is refused at once, and told when to try again', async () => {
    const slots = new Slots(ONE);
    const callers = [1, 2, 3, 4].map(() => new Caller(slots));
    assert.deepEqual(await settled(...callers), [0, 'waiting', 'waiting', 'queue_full']);
    assert.equal(callers[3]?.error?.retryAfter, 1);
    slots.close();
  });

  test('queue_full: with a queue of 0 nobody waits', async () => {
    const slots = new Slots({ ...ONE, queue: 0 });
    assert.deepEqual(await settled(new Caller(slots), new Caller(slots)), [0, 'queue_full']);
  });

  test('queue_timeout: after the time to wait, not before, and told when to try again', async () => {
    const slots = new Slots(ONE);
    const [, waiting] = [new Caller(slots), new Caller(slots)];
    mock.timers.tick(9999);
    assert.deepEqual(await settled(waiting), ['waiting']);
    mock.timers.tick(1);
    assert.deepEqual(await settled(waiting), ['queue_timeout']);
    assert.equal(waiting.error?.retryAfter, 1);
    assert.match(waiting.error.message, /10 s/);
    assert.equal(slots.waiting, 0);
  });

  test('queue_timeout: a slot that comes free afterwards is not lost to the one who left', async () => {
    const slots = new Slots(ONE);
    const [, gone] = [new Caller(slots), new Caller(slots)];
    mock.timers.tick(10_000);
    slots.release(0);
    assert.deepEqual(await settled(gone, new Caller(slots)), ['queue_timeout', 0]);
  });

  test('who was granted a slot is not told of a timeout or an abort later', async () => {
    const slots = new Slots(ONE);
    const [, lucky] = [new Caller(slots), new Caller(slots)];
    slots.release(0);
    mock.timers.tick(20_000);
    lucky.abort();
    assert.deepEqual(await settled(lucky), [0]);
    assert.equal(slots.busy, 1);
  });

  test('abort: one who waits leaves the queue, those behind move up', async () => {
    const slots = new Slots(ONE);
    const [, b, c] = [new Caller(slots), new Caller(slots), new Caller(slots)];
    b.abort();
    assert.deepEqual(await settled(b, c), ['cancelled', 'waiting']);
    assert.equal(slots.waiting, 1);
    slots.release(0);
    assert.deepEqual(await settled(c), [0]);
  });

  test('abort: one who was aborted before asking takes no slot', async () => {
    const slots = new Slots(ONE);
    await assert.rejects(slots.acquire(AbortSignal.abort()), { code: 'cancelled' });
    assert.equal(slots.busy, 0);
  });

  test('close: those who wait are refused, those who come are refused, those who run may finish', async () => {
    const slots = new Slots(ONE);
    const [a, b, c] = [new Caller(slots), new Caller(slots), new Caller(slots)];
    slots.close();
    assert.deepEqual(await settled(a, b, c, new Caller(slots)), [
      0,
      'shutting_down',
      'shutting_down',
      'shutting_down',
    ]);
    assert.deepEqual([slots.busy, slots.waiting], [1, 0]);
    slots.release(0);
    assert.equal(slots.busy, 0);
  });

  type Step =
    | { readonly do: 'acquire' }
    | { readonly do: 'release'; readonly pick: number }
    | { readonly do: 'abort'; readonly pick: number }
    | { readonly do: 'wait'; readonly ms: number };
  const step: fc.Arbitrary<Step> = fc.oneof(
    { weight: 5, arbitrary: fc.constant({ do: 'acquire' } as const) },
    { weight: 3, arbitrary: fc.record({ do: fc.constant('release' as const), pick: fc.nat() }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('abort' as const), pick: fc.nat() }) },
    {
      weight: 1,
      arbitrary: fc.record({ do: fc.constant('wait' as const), ms: fc.integer({ min: 1, max: 700 }) }),
    },
  );

  test('property: any sequence of calls does what a plain list of callers would', async () => {
    const options = fc.record({
      slots: fc.integer({ min: 1, max: 4 }),
      queue: fc.integer({ min: 0, max: 5 }),
      waitSeconds: fc.constantFrom(0.1, 0.5, 1),
    });
    await fc.assert(
      fc.asyncProperty(options, fc.array(step, { maxLength: 40 }), async (setting, steps) => {
        const slots = new Slots(setting);
        let now = 0;
        let waiting: { readonly caller: Caller; readonly until: number }[] = [];
        let running: Caller[] = [];
        const refused = new Map<Caller, ErrorCode>();
        for (const each of steps) {
          if (each.do === 'acquire') {
            const caller = new Caller(slots);
            if (running.length < setting.slots) running.push(caller);
            else if (waiting.length < setting.queue)
              waiting.push({ caller, until: now + setting.waitSeconds * 1000 });
            else refused.set(caller, 'queue_full');
          } else if (each.do === 'release' && running.length > 0) {
            const [caller] = running.splice(each.pick % running.length, 1);
            slots.release(caller?.result as number);
            const next = waiting.shift();
            if (next !== undefined) running.push(next.caller);
          } else if (each.do === 'abort' && waiting.length > 0) {
            const [left] = waiting.splice(each.pick % waiting.length, 1);
            left?.caller.abort();
            if (left !== undefined) refused.set(left.caller, 'cancelled');
          } else if (each.do === 'wait') {
            now += each.ms;
            mock.timers.tick(each.ms);
            for (const { caller, until } of waiting) if (until <= now) refused.set(caller, 'queue_timeout');
            waiting = waiting.filter(({ until }) => until > now);
          }
          await setImmediate();
          const granted = running.map((caller) => caller.result);
          assert.ok(
            granted.every((slot) => typeof slot === 'number' && slot >= 0 && slot < setting.slots),
            `all of ${JSON.stringify(granted)} have a slot`,
          );
          assert.equal(new Set(granted).size, granted.length, 'no slot is held by two');
          assert.ok(waiting.every(({ caller }) => caller.result === 'waiting'));
          for (const [caller, code] of refused) assert.equal(caller.result, code);
          assert.deepEqual([slots.busy, slots.waiting], [running.length, waiting.length]);
        }
        slots.close();
        await setImmediate();
        assert.ok(waiting.every(({ caller }) => caller.result === 'shutting_down'));
        for (const caller of running) slots.release(caller.result as number);
        running = [];
        assert.deepEqual([slots.busy, slots.waiting], [0, 0]);
      }),
      { numRuns: 300 },
    );
  });
});

import assert from 'node:assert/strict';
import { afterEach, beforeEach, describe, mock, test } from 'node:test';
import fc from 'fast-check';
import { pino } from 'pino';
import { ADMIN, type Principal, type Quotas } from '../../src/gateway/principal.ts';
import { Quota } from '../../src/gateway/quota.ts';
import { Store } from '../../src/gateway/store/store.ts';
import { NoxError, type ErrorCode } from '../../src/protocol/errors.ts';

const DAY_MS = 86_400_000;
const bound = (quotas: Quotas): Principal => ({ ...ADMIN, id: 'tok_a', quotas });

let store: Store;
let now: number;
let quota: Quota;
beforeEach(() => {
  store = Store.open(':memory:', { runs: 1, days: 1 }, pino({ level: 'silent' }));
  now = 1_000_000;
  quota = new Quota(store.usage, () => now);
});
afterEach(() => {
  mock.timers.reset();
  store.close();
});

/** What came of asking: the code of the refusal and the seconds to wait. */
function ask(principal: Principal, cpuSeconds = 1): { code?: ErrorCode; retryAfter?: number | undefined } {
  try {
    quota.admit(principal, cpuSeconds).release();
    return {};
  } catch (error) {
    assert.ok(error instanceof NoxError, String(error));
    return { code: error.code, retryAfter: error.retryAfter };
  }
}

describe('runs at one time', () => {
  test('one more is refused by name, until one has ended; to end twice counts once', () => {
    const principal = bound({ concurrentRuns: 2 });
    const first = quota.admit(principal, 1);
    quota.admit(principal, 1);
    assert.throws(() => quota.admit(principal, 1), /The token tok_a has 2 runs under way, of 2 at one time/);
    assert.deepEqual(ask(principal), { code: 'quota_exceeded', retryAfter: 1 });
    first.charge(0);
    first.release();
    first.charge(5);
    quota.admit(principal, 1);
    assert.equal(ask(principal).code, 'quota_exceeded');
    assert.equal(quota.left(principal).running, 2);
  });

  test('is each token’s own, and the administrator has none', () => {
    quota.admit(bound({ concurrentRuns: 1 }), 1);
    assert.deepEqual(ask({ ...bound({ concurrentRuns: 1 }), id: 'tok_b' }), {});
    for (let each = 0; each < 1000; each += 1) quota.admit(ADMIN, 1);
  });

  test('a quota that is changed counts from the next run on', () => {
    quota.admit(bound({ concurrentRuns: 5 }), 1);
    assert.equal(ask(bound({ concurrentRuns: 1 })).code, 'quota_exceeded');
    assert.deepEqual(ask(bound({ concurrentRuns: 2 })), {});
    assert.deepEqual(ask(bound({})), {});
  });
});

describe('runs a minute', () => {
  const principal = bound({ runsPerMinute: 6 });

  test('so many at once, then one every ten seconds', () => {
    for (let each = 0; each < 6; each += 1) assert.deepEqual(ask(principal), {});
    assert.deepEqual(ask(principal), { code: 'rate_limited', retryAfter: 10 });
    now += 4000;
    assert.deepEqual(ask(principal), { code: 'rate_limited', retryAfter: 6 });
    now += 6000;
    assert.deepEqual(ask(principal), {});
    assert.equal(ask(principal).code, 'rate_limited');
  });

  test('the headers say how many there are, how many are left, and when all are left again', () => {
    assert.deepEqual(quota.headers(principal), {
      ...{ 'ratelimit-limit': '6', 'ratelimit-remaining': '6', 'ratelimit-reset': '0' },
    });
    ask(principal);
    ask(principal);
    assert.deepEqual(quota.headers(principal), {
      ...{ 'ratelimit-limit': '6', 'ratelimit-remaining': '4', 'ratelimit-reset': '20' },
    });
    assert.deepEqual(quota.headers(ADMIN), {});
  });

  test('a refusal of another quota takes nothing from the rate', () => {
    const both = bound({ runsPerMinute: 2, concurrentRuns: 1 });
    const one = quota.admit(both, 1);
    for (let each = 0; each < 5; each += 1) assert.equal(ask(both).code, 'quota_exceeded');
    one.release();
    assert.deepEqual(ask(both), {});
  });

  test('property: never more than the rate, and who waits as told is let in', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 1000 }),
        fc.array(fc.integer({ min: 0, max: 20_000 }), { maxLength: 300 }),
        (runsPerMinute, waits) => {
          quota = new Quota(store.usage, () => now);
          const limited = bound({ runsPerMinute });
          const start = now;
          let admitted = 0;
          for (const wait of waits) {
            now += wait;
            const { code, retryAfter = 0 } = ask(limited);
            if (code === undefined) admitted += 1;
            else {
              assert.ok(retryAfter >= 1 && retryAfter <= 60);
              const remaining = Number(quota.headers(limited)['ratelimit-remaining']);
              assert.equal(remaining, 0);
              now += retryAfter * 1000;
              assert.deepEqual(ask(limited), {});
              admitted += 1;
            }
            assert.ok(admitted <= runsPerMinute * (1 + (now - start) / 60_000) + 0.01);
          }
        },
      ),
    );
  });

  test('the wall clock set back or forward, by years: nobody is locked out and nobody gets more', () => {
    mock.timers.enable({ apis: ['Date'], now: Date.UTC(2026, 0, 1) });
    for (let each = 0; each < 6; each += 1) assert.deepEqual(ask(principal), {});
    for (const time of [Date.UTC(1971, 0, 1), Date.UTC(2100, 0, 1), Date.UTC(2026, 0, 1)]) {
      mock.timers.setTime(time);
      assert.equal(ask(principal).retryAfter, 10);
    }
    mock.timers.setTime(Date.UTC(1971, 0, 1));
    now += 10_000;
    assert.deepEqual(ask(principal), {});
  });
});

describe('CPU seconds a day', () => {
  const principal = bound({ cpuSecondsPerDay: 100 });

  test('a run may use what is left, and what it has used is gone for the day', () => {
    mock.timers.enable({ apis: ['Date'], now: Date.UTC(2026, 0, 1, 23, 59, 0) });
    const first = quota.admit(principal, 60);
    assert.equal(first.cpuSeconds, 60);
    const second = quota.admit(principal, 60);
    assert.equal(second.cpuSeconds, 40, 'the rest may be used by the first');
    assert.deepEqual(ask(principal), { code: 'quota_exceeded', retryAfter: 1 });
    first.charge(10.5);
    second.charge(40);
    assert.deepEqual(quota.left(principal), { running: 0, runsThisMinute: null, cpuSecondsToday: 49.5 });
    quota.admit(principal, 60).charge(49.5);
    assert.deepEqual(ask(principal), { code: 'quota_exceeded', retryAfter: 60 });
    assert.throws(() => quota.admit(principal, 1), /has used its 100 CPU seconds of this day \(UTC\)/);
    mock.timers.setTime(Date.UTC(2026, 0, 2));
    assert.equal(quota.admit(principal, 60).cpuSeconds, 60);
  });

  test('less than a run may have is nothing', () => {
    quota.admit(principal, 60).charge(99.5);
    assert.equal(ask(principal).code, 'quota_exceeded');
  });

  test('of a run that was cancelled the wall time is taken, as far as it could use that', () => {
    const one = quota.admit(principal, 60);
    now += 20_000;
    one.charge(undefined);
    assert.equal(quota.left(principal).cpuSecondsToday, 80);
    const two = quota.admit(principal, 5);
    now += 20_000;
    two.charge(undefined);
    assert.equal(quota.left(principal).cpuSecondsToday, 75);
  });

  test('what did not run costs nothing and counts as no run', () => {
    quota.admit(principal, 60).release();
    assert.deepEqual(store.usage.of('tok_a'), { runs: 0, cpuMs: 0 });
    assert.equal(quota.left(principal).cpuSecondsToday, 100);
  });

  test('the clock set back: the account of that day goes on, and the wait is never longer than a day', () => {
    mock.timers.enable({ apis: ['Date'], now: Date.UTC(2026, 0, 5) });
    quota.admit(principal, 60).charge(100);
    mock.timers.setTime(Date.UTC(2026, 0, 4));
    assert.deepEqual(ask(principal), {});
    mock.timers.setTime(Date.UTC(2026, 0, 5, 12));
    const { code, retryAfter } = ask(principal);
    assert.equal(code, 'quota_exceeded');
    assert.equal(retryAfter, DAY_MS / 2 / 1000);
  });

  test('property: whatever is asked for and used, never more than the quota within the limits given', () => {
    fc.assert(
      fc.property(
        fc.array(
          fc.record({
            limit: fc.integer({ min: 1, max: 80 }),
            part: fc.double({ min: 0, max: 1, noNaN: true }),
            late: fc.boolean(),
          }),
        ),
        (runs) => {
          store.close();
          store = Store.open(':memory:', { runs: 1, days: 1 }, pino({ level: 'silent' }));
          quota = new Quota(store.usage, () => now);
          const open: (() => void)[] = [];
          for (const { limit, part, late } of runs) {
            try {
              const admission = quota.admit(principal, limit);
              const end = () => admission.charge(admission.cpuSeconds * part);
              if (late) open.push(end);
              else end();
            } catch (error) {
              assert.ok(error instanceof NoxError && error.code === 'quota_exceeded');
            }
          }
          for (const end of open) end();
          assert.ok(store.usage.of('tok_a').cpuMs <= 100_000 + runs.length);
          assert.equal(quota.left(principal).running, 0);
        },
      ),
    );
  });
});

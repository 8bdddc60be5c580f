/** The gateway's runs when its disk is full, its runner is away, or the clock is set back. */
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, describe, mock, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { ADMIN } from '../../src/gateway/principal.ts';
import { viewOf } from '../../src/gateway/runs/record.ts';
import { Store } from '../../src/gateway/store/store.ts';
import { NoxError } from '../../src/protocol/errors.ts';
import type { RunEvent } from '../../src/protocol/messages.ts';
import {
  accept,
  END,
  ended,
  events,
  forever,
  log,
  make,
  never,
  order,
  quick,
  removeBooks,
  RESULT,
  rowOf,
  until,
  type Made,
} from '../support/book.ts';

after(removeBooks);

const DAY_MS = 86_400_000;

test('a full disk: what ends is written when there is room, what is refused is nowhere, output spares the database', async () => {
  const dir = mkdtempSync(join(tmpdir(), 'nox-full-'));
  const child = fileURLToPath(new URL('../support/full-runs.ts', import.meta.url));
  const { stdout } = await promisify(execFile)('bwrap', [
    ...['--bind', '/', '/', '--dev', '/dev', '--proc', '/proc'],
    ...['--size', String(4 * 2 ** 20), '--tmpfs', dir, process.execPath, child, dir],
  ]);
  rmSync(dir, { recursive: true });
  const told = JSON.parse(stdout) as {
    spared: number;
    truncated: boolean;
    printed: number;
    refusal: string;
    half: unknown;
    whileFull: { told: string[]; written: string[] };
    cutOff: string[];
    outcomes: string[];
    lastEvents: string[];
  };
  assert.ok(told.truncated);
  assert.ok(told.printed > 2 ** 20, `${told.printed} bytes of output are kept`);
  assert.ok(told.spared > 2 ** 18, `${told.spared} bytes are left`);
  assert.match(told.refusal, /^internal: The server's state cannot be written, because its disk is full/);
  assert.deepEqual(told.half, { running: 0, asked: 0, kept: false });
  const five = Array.from({ length: 5 });
  assert.deepEqual(
    told.whileFull,
    { told: five.map(() => 'ok'), written: five.map(() => 'running') },
    'they end for who asks here, and the disk was really full',
  );
  assert.deepEqual(told.cutOff, [], 'nothing is left for the next start');
  assert.deepEqual(
    told.outcomes,
    [...five, 6, 7].map(() => 'ok'),
  );
  assert.deepEqual(told.lastEvents, ['end', 'end', 'end']);
});

describe('a runner that is away', () => {
  /** Runs that are refused so many times, then run; and the requests that ran, in their order. */
  function refusing(times: number, dir?: string): Made & { readonly ran: string[] } {
    const ran: string[] = [];
    let refused = 0;
    const made = make(
      async function* ({ id }) {
        await Promise.resolve();
        refused += 1;
        if (refused <= times) throw new NoxError('runner_unavailable', 'Away');
        yield { type: 'started' };
        ran.push(id);
        yield END;
      },
      { slots: 3, ...(dir === undefined ? {} : { dir }) },
    );
    return { ...made, ran };
  }

  test('those that could not begin keep their order', async () => {
    const made = refusing(9);
    const orders = Array.from({ length: 7 }, () => order());
    const ids = orders.map((each) => accept(made, each));
    for (const id of ids) await ended(made, id);
    assert.deepEqual(
      made.ran,
      orders.map(({ requestId }) => requestId),
    );
  });

  test('they keep it across a restart too', async () => {
    const first = refusing(Infinity);
    const orders = Array.from({ length: 7 }, () => order());
    const ids = orders.map((each) => accept(first, each));
    await until('three have been tried twice', () => first.asked.length >= 6);
    await first.book.stop(0);
    first.store.close();
    const second = refusing(3, first.dir);
    second.book.resume();
    for (const id of ids) await ended(second, id);
    assert.deepEqual(
      second.ran,
      orders.map(({ requestId }) => requestId),
    );
  });
});

describe('the record says what the answer said', () => {
  const kept = ({ book, store }: Made, id: string) => {
    // Of the store alone, as the next server sees it.
    const row = store.runs.get(id, ADMIN);
    const { createdAt, startedAt, endedAt } = book.record(id, ADMIN);
    assert.deepEqual([row.created, row.started, row.ended], [createdAt, startedAt, endedAt]);
    return row;
  };

  test('of a run that has waited for its slot', async () => {
    const slot = Promise.withResolvers<undefined>();
    const made = make(async function* () {
      await slot.promise;
      yield { type: 'end', result: { ...RESULT, usage: { ...RESULT.usage, wallSeconds: 0 } } };
    });
    const waiting = made.book.wait(order({ output: 'bounded' }), never);
    const began = Date.now() + 50;
    await until('it has waited', () => Date.now() > began);
    slot.resolve(undefined);
    const { record } = (await waiting).run;
    await until('it is kept', () => rowOf(made, record.id)?.state === 'ended');
    assert.equal(kept(made, record.id).started, record.startedAt);
    assert.ok(Number(record.startedAt) >= began, 'it began when it had its slot');
  });

  test('of a run that never began', async () => {
    const made = make(async function* () {
      await Promise.resolve();
      throw new NoxError('queue_full', 'Full');
    });
    const { record } = (await made.book.wait(order(), never)).run;
    await until('it is kept', () => rowOf(made, record.id)?.state === 'ended');
    assert.equal(kept(made, record.id).started, null);
  });

  test('of one in the background', async () => {
    const made = make(quick);
    const id = accept(made, order());
    await ended(made, id);
    await until('it is kept', () => rowOf(made, id)?.state === 'ended');
    kept(made, id);
  });
});

describe('the clock is set back', () => {
  const noon = Date.UTC(2026, 5, 1, 12);
  const withClock = async (use: (set: (now: number) => void) => Promise<void>) => {
    mock.timers.enable({ apis: ['Date'], now: noon });
    try {
      await use((now) => {
        mock.timers.setTime(now);
      });
    } finally {
      mock.timers.reset();
    }
  };
  const turns = async (what: string, holds: () => boolean) => {
    // Date.now() stands still: it is no deadline here.
    for (let turn = 0; !holds(); turn += 1) {
      assert.ok(turn < 100_000, what);
      await new Promise(setImmediate);
    }
  };
  const inOrder = (times: readonly (number | null)[]) => {
    assert.deepEqual(
      times,
      [...times].sort((a, b) => Number(a) - Number(b)),
    );
  };

  test('while a run waits, and while it runs: nothing ends before it began; both keep their order', () =>
    withClock(async (set) => {
      let go = Promise.withResolvers<undefined>();
      const made = make(
        async function* (): AsyncGenerator<RunEvent> {
          yield { type: 'started' };
          await go.promise;
          yield END;
        },
        { slots: 1 },
      );
      const first = accept(made, order());
      const second = accept(made, order());
      const waited = made.book.wait(order({ output: 'bounded' }), never);
      await turns('the first runs', () => made.book.record(first, ADMIN).state === 'running');
      set(noon - DAY_MS);
      const third = accept(made, order());
      go.resolve(undefined);
      go = Promise.withResolvers();
      await turns('the second runs', () => made.book.record(second, ADMIN).state === 'running');
      set(noon - 365 * DAY_MS);
      go.resolve(undefined);
      const ids = [first, second, third, (await waited).run.record.id];
      await turns('all are kept', () => ids.every((id) => rowOf(made, id)?.state === 'ended'));
      for (const id of ids) {
        const { createdAt, startedAt, endedAt } = made.book.record(id, ADMIN);
        inOrder([createdAt, startedAt, endedAt]);
        const { created, started, ended: end } = made.store.runs.get(id, ADMIN);
        assert.deepEqual([created, started, end], [createdAt, startedAt, endedAt]);
      }
      assert.equal(new Set(ids).size, 4);
      assert.deepEqual(
        made.store.runs.page(ADMIN, {}, 10).runs.map(({ id }) => ids.indexOf(id)),
        [2, 3, 1, 0],
        'newest first, by acceptance',
      );
      assert.deepEqual(await events(made.book, third), ['started', 'end']);
      // The oldest by acceptance are forgotten first, whatever their times say.
      while (made.store.runs.prune({ runs: 2, since: 0, bytes: Infinity }));
      assert.deepEqual(
        made.store.runs.page(ADMIN, {}, 10).runs.map(({ id }) => ids.indexOf(id)),
        [2, 3],
      );
    }));

  test('across a restart: what ran was not cut off before it began, what waits is run', () =>
    withClock(async (set) => {
      const made = make(forever, { slots: 1 });
      const [ran, waits] = [accept(made, order()), accept(made, order())];
      await turns('it runs', () => made.book.record(ran, ADMIN).state === 'running');
      made.store.close();
      set(noon - DAY_MS);
      const next = make(quick, { dir: made.dir });
      next.book.resume();
      await turns('it has run', () => next.store.runs.get(waits, ADMIN).state === 'ended');
      for (const id of [ran, waits]) {
        const { createdAt, startedAt, endedAt } = next.book.record(id, ADMIN);
        inOrder([createdAt, startedAt, endedAt]);
      }
      assert.equal(viewOf(next.book.record(ran, ADMIN))['outcome'], 'sandbox_error');
    }));

  test('a webhook that is to be tried again does not wait for the clock to come back', () => {
    const store = Store.open(':memory:', { runs: 1000, days: 1 }, log);
    const run = { id: 'run_1', token: 'x', runtime: 'x', workspace: undefined, requestId: 'x' };
    store.durably(() => {
      store.runs.insert({ ...run, state: 'running' }, noon);
      store.webhooks.add({ id: 'whd_1', run: 'run_1', url: 'x', secret: 'x' });
    });
    const due = (now: number) => store.webhooks.due(8, now).map(({ tries }) => tries);
    assert.deepEqual(due(noon), [], 'its run has not ended');
    store.runs.finish('run_1', { outcome: 'ok' }, noon);
    assert.deepEqual(due(noon), [0]);
    store.webhooks.later('whd_1', 10_000, noon);
    assert.deepEqual(due(noon + 9999), []);
    assert.deepEqual(due(noon + 10_000), [1]);
    const back = noon - DAY_MS;
    assert.deepEqual(due(back), [1]);
    store.webhooks.later('whd_1', 30_000, back);
    assert.deepEqual(due(back + 29_999), [], 'from then on it waits as it should');
    assert.deepEqual(due(back + 30_000), [2]);
    store.close();
  });
});

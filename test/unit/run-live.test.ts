/** A run that is alive in the gateway, those that are watched, and those in the background: with a runner of the test's. */
import assert from 'node:assert/strict';
import { after, describe, mock, test } from 'node:test';
import { ADMIN } from '../../src/gateway/principal.ts';
import { Quota } from '../../src/gateway/quota.ts';
import { NoxError } from '../../src/protocol/errors.ts';
import type { RunInput } from '../../src/protocol/messages.ts';
import {
  aborted,
  accept,
  END,
  ended,
  events,
  forever,
  make,
  never,
  order,
  quick,
  removeBooks,
  RESULT,
  rowOf,
  until,
} from '../support/book.ts';

after(removeBooks);
const somebody = { ...ADMIN, id: 'tok_somebody', scopes: new Set(['run'] as const) };

describe('a run whose client waits', () => {
  test('has its output and its record', async () => {
    const made = make(quick);
    const { run, output } = await made.book.wait(order(), never);
    assert.equal(Buffer.concat(output.stdout).toString(), 'hello');
    assert.equal(run.record.result, RESULT);
    await until('the record is kept', () => rowOf(made, run.record.id)?.outcome === 'ok');
  });

  test('whoever reads sees its record before it is written; it is written in its place among the others', async () => {
    const made = make(quick);
    const { run } = await made.book.wait(order(), never);
    const { id } = run.record;
    assert.equal(rowOf(made, id), undefined, 'nothing is written between the run and its answer');
    assert.equal(made.book.record(id, ADMIN).result?.outcome, 'ok');
    assert.equal(rowOf(made, id)?.outcome, 'ok');

    const second = (await made.book.wait(order(), never)).run.record.id;
    const kept = accept(made, order());
    const [third] = made.book.page(ADMIN, {}, 1).runs;
    assert.equal(third?.id, kept);
    const fourth = (await made.book.wait(order(), never)).run.record.id;
    const ids = made.book.page(ADMIN, {}, 10).runs.map((row) => row.id);
    assert.deepEqual(ids, [fourth, kept, second, id]);
    assert.throws(() => made.book.record(fourth, somebody), { code: 'run_not_found' });
  });

  test('one that may wait: tried again where its runner has not heard of it, not where that was lost', async () => {
    const tried = async (unsent: boolean) => {
      let tries = 0;
      const made = make(async function* () {
        await Promise.resolve();
        tries += 1;
        if (tries === 1) throw new NoxError('runner_unavailable', 'Away', { unsent });
        yield* quick();
      });
      const { run } = await made.book.wait(order({ output: 'bounded' }), never, 10_000);
      return [tries, run.failure?.code, run.record.result?.outcome];
    };
    assert.deepEqual(await tried(true), [2, undefined, 'ok']);
    assert.deepEqual(await tried(false), [1, 'runner_unavailable', undefined]);
  });

  test('what a crash finds of it: nothing of the last moment, else that it was cut off', async () => {
    const first = make(forever);
    void first.book.wait(order(), never);
    await until('it is written', () => first.store.runs.page(ADMIN, {}, 10).runs.length === 1);
    const [cut] = first.store.runs.page(ADMIN, {}, 10).runs;
    void first.book.wait(order(), never);
    first.store.close();
    const second = make(quick, { dir: first.dir });
    second.book.resume();
    const { runs } = second.book.page(ADMIN, {}, 10);
    assert.deepEqual(
      runs.map(({ id, outcome }) => [id, outcome]),
      [[cut?.id, 'sandbox_error']],
    );
  });

  test('each way to end, told by its name; the first reason is kept', async () => {
    const abort = new AbortController();
    const { book } = make(forever);
    const waiting = book.wait(order(), abort.signal);
    abort.abort();
    const { run } = await waiting;
    run.cancel('abandoned');
    assert.deepEqual(
      [run.record.outcome, run.record.reason, run.cancelled],
      ['cancelled', 'cancelled by its client', 'client'],
    );

    const silent = make(async function* () {
      await Promise.resolve();
      yield { type: 'started' };
    });
    const none = await silent.book.wait(order(), never);
    assert.deepEqual(
      [none.run.record.outcome, none.run.failure?.code],
      ['sandbox_error', 'runner_unavailable'],
    );

    const failing = make(async function* () {
      await Promise.resolve();
      throw new TypeError('a fault');
    });
    const fault = await failing.book.wait(order(), never);
    assert.deepEqual([fault.run.record.error?.code, fault.run.record.outcome], ['internal', undefined]);
  });

  test('CPU time is charged also where the client goes before the end', async () => {
    const made = make(async function* (_, signal) {
      await aborted(signal);
      yield END;
    });
    let clock = 0;
    const quota = new Quota(made.store.usage, () => clock);
    const abort = new AbortController();
    const admission = quota.admit(ADMIN, 60);
    const waiting = made.book.wait(order({ output: 'bounded' }, admission), abort.signal);
    clock = 5000;
    abort.abort();
    await waiting;
    assert.equal(made.store.usage.of(ADMIN.id).cpuMs, 5000);
    assert.equal(quota.left(ADMIN).running, 0);
  });
});

describe('input', () => {
  test('comes in order; too much that waits is refused; after the end it is refused by name', async () => {
    const got: RunInput[] = [];
    const go = Promise.withResolvers<undefined>();
    const { book } = make(async function* (_, __, input) {
      yield { type: 'started' };
      await go.promise;
      for await (const each of input) {
        got.push(each);
        if (each.type === 'stdin_end') break;
      }
      yield END;
    });
    const run = await book.watch(order({ interactive: true }), never);
    const data = Buffer.alloc(700_000);
    run.tell({ type: 'stdin', data });
    assert.throws(
      () => {
        run.tell({ type: 'stdin', data });
      },
      { code: 'rate_limited' },
    );
    run.tell({ type: 'signal', signal: 2 });
    run.tell({ type: 'stdin_end' });
    go.resolve(undefined);
    await run.ended;
    assert.deepEqual(
      got.map(({ type }) => type),
      ['stdin', 'signal', 'stdin_end'],
    );
    assert.throws(
      () => {
        run.tell({ type: 'stdin_end' });
      },
      { code: 'run_ended' },
    );
  });

  test('signals and ends that nobody takes are bounded too', async () => {
    const { book } = make(forever);
    const run = await book.watch(order({ interactive: true }), never);
    assert.throws(
      () => {
        for (let each = 0; each < 1_000_000; each += 1) run.tell({ type: 'signal', signal: 10 });
      },
      { code: 'rate_limited' },
    );
    run.cancel('client');
    await run.ended;
  });

  test('waits for a run that cannot begin yet, and is then whole', async () => {
    let tries = 0;
    const got: string[] = [];
    const made = make(async function* (_, __, input) {
      tries += 1;
      if (tries === 1) {
        const taken = input[Symbol.asyncIterator]().next();
        await Promise.race([taken, new Promise((resolve) => setTimeout(resolve, 50))]);
        throw new NoxError('queue_full', 'Full');
      }
      yield { type: 'started' };
      for await (const each of input) {
        if (each.type === 'stdin') got.push(Buffer.from(each.data).toString());
        else break;
      }
      yield END;
    });
    const id = accept(made, order({ interactive: true }));
    const run = made.book.alive(id, ADMIN);
    run.tell({ type: 'stdin', data: Buffer.from('first') });
    run.tell({ type: 'stdin_end' });
    await run.ended;
    assert.deepEqual([tries, got], [2, ['first']]);
  });
});

describe('watched runs', () => {
  test('nobody comes back: ended by name after its time; an end can be read until then', async () => {
    mock.timers.enable({ apis: ['setTimeout'] });
    try {
      const { book } = make(forever);
      const run = await book.watch(order(), never);
      const gone = new AbortController();
      const reading = (async () => {
        const pieces = [];
        for await (const piece of await book.events(run.record.id, ADMIN, undefined, gone.signal)) {
          pieces.push(piece);
          gone.abort();
        }
        return pieces.length;
      })();
      assert.equal(await reading, 1);
      mock.timers.tick(29_000);
      // Back in time: the clock starts anew when it goes again.
      const back = new AbortController();
      const again = (async () => {
        for await (const piece of await book.events(run.record.id, ADMIN, undefined, back.signal))
          if (piece.length > 0) back.abort();
      })();
      await again;
      mock.timers.tick(29_000);
      assert.equal(run.record.state, 'running');
      mock.timers.tick(1001);
      await run.ended;
      assert.deepEqual(
        [run.record.outcome, run.record.reason?.includes('did not come back')],
        ['cancelled', true],
      );
    } finally {
      mock.timers.reset();
    }
  });

  test('what keeps it from beginning is told; the client that goes before that ends it', async () => {
    const full = make(async function* () {
      await Promise.resolve();
      throw new NoxError('queue_full', 'Full');
    });
    await assert.rejects(full.book.watch(order(), never), { code: 'queue_full' });

    const waiting = make(async function* (_, signal) {
      await aborted(signal);
    });
    const abort = new AbortController();
    const watching = waiting.book.watch(order(), abort.signal);
    abort.abort();
    await assert.rejects(watching, { code: 'cancelled' });
  });

  test('a stop ends it by name, and its reader hears of it', async () => {
    const { book } = make(forever);
    const run = await book.watch(order(), never);
    const reading = events(book, run.record.id);
    await book.stop(0);
    assert.deepEqual(
      [await reading, run.record.reason],
      [['started', 'end'], 'the server stopped while it was under way'],
    );
  });

  test('its output is not an error when its beginning is not held any more', async () => {
    const { book } = make(async function* () {
      await Promise.resolve();
      yield { type: 'started' };
      for (let each = 0; each < 50; each += 1)
        yield { type: 'output', stream: 'stdout', data: Buffer.alloc(65_536, 'x') };
      yield END;
    });
    const run = await book.watch(order(), never);
    assert.equal((await events(book, run.record.id)).length, 52);
    await assert.rejects(book.output(run.record.id, ADMIN), { name: 'PlaceError' });
  });
});

describe('the background', () => {
  test('in order, as many at a time as there are slots; each once', async () => {
    let now = 0;
    let most = 0;
    const made = make(async function* () {
      now += 1;
      most = Math.max(most, now);
      yield { type: 'started' };
      await new Promise((resolve) => setTimeout(resolve, 2));
      now -= 1;
      yield END;
    });
    const ids = Array.from({ length: 10 }, () => accept(made, order()));
    await Promise.all(ids.map((id) => ended(made, id)));
    assert.equal(most, 2);
    assert.deepEqual(
      made.asked,
      [...made.asked].sort((a, b) => Number(a.slice(1)) - Number(b.slice(1))),
    );
    assert.equal(new Set(made.asked).size, 10);
    for (const id of ids) assert.deepEqual(await events(made.book, id), ['started', 'end']);
  });

  test('one more than may wait is refused, and is nowhere', async () => {
    const made = make(forever, { slots: 1, queue: 2 });
    const quota = new Quota(made.store.usage);
    const ids = [0, 1, 2].map(() => accept(made, order()));
    assert.throws(() => accept(made, order({}, quota.admit(ADMIN, 1))), { code: 'queue_full' });
    assert.equal(quota.left(ADMIN).running, 0);
    assert.equal(made.store.runs.page(ADMIN, {}, 10).runs.length, 3);
    // One that waits is cancelled without having run, and its place is free.
    const run = made.book.cancel(ids[2] ?? '', ADMIN);
    await run.ended;
    assert.deepEqual([run.record.outcome, made.asked.length], ['cancelled', 1]);
    assert.deepEqual(await events(made.book, run.record.id), ['end']);
    accept(made, order());
    await made.book.stop(0);
  });

  test('requests that wait are bounded in bytes too', async () => {
    const made = make(forever, { slots: 1, queue: 1000, queueBytes: 26_000 });
    const stdin = 'x'.repeat(6000);
    const large = Array.from({ length: 4 }, () => accept(made, order({ stdin })));
    assert.throws(() => accept(made, order({ stdin })), { code: 'queue_full' });
    made.book.cancel(large[3] ?? '', ADMIN);
    const id = accept(made, order({ stdin }));
    assert.equal(made.book.record(id, ADMIN).state, 'queued');
    await made.book.stop(0);
  });

  test('what cannot begin because the runner is away or full begins later', async () => {
    const codes = ['runner_unavailable', 'queue_full', 'queue_timeout', 'shutting_down'] as const;
    let tries = 0;
    const made = make(async function* () {
      await Promise.resolve();
      const code = codes[tries];
      tries += 1;
      if (code !== undefined) throw new NoxError(code, 'Not now');
      yield* quick();
    });
    const id = accept(made, order());
    await ended(made, id);
    assert.deepEqual([tries, made.book.record(id, ADMIN).result?.outcome], [5, 'ok']);
  });

  test('what has begun is not begun again when its runner is lost', async () => {
    const made = make(async function* () {
      yield { type: 'started' };
      await Promise.resolve();
      throw new NoxError('runner_unavailable', 'Lost');
    });
    const id = accept(made, order());
    await ended(made, id);
    const { outcome, reason } = made.book.record(id, ADMIN);
    assert.deepEqual([made.asked.length, outcome, reason], [1, 'sandbox_error', 'Lost']);
  });

  test('after a crash: what ran ends by name, events too; what waited is run by the next server, once', async () => {
    const first = make(forever, { slots: 1 });
    const ran = accept(first, order());
    const waited = accept(first, order());
    await until('it runs', () => first.book.record(ran, ADMIN).state === 'running');
    // As a crash leaves it: the database is closed by nobody who finishes anything.
    first.store.close();
    const second = make(quick, { dir: first.dir });
    second.book.resume();
    await ended(second, waited);
    const cut = second.book.record(ran, ADMIN);
    assert.deepEqual(
      [cut.outcome, cut.reason],
      ['sandbox_error', 'The server ended while the run was under way'],
    );
    assert.equal(second.book.record(waited, ADMIN).result?.outcome, 'ok');
    assert.equal(second.asked.length, 1);
    assert.deepEqual(await events(second.book, ran), ['started', 'end']);
  });

  test('a stop: what runs ends by name, what waits stays for the next', async () => {
    const made = make(forever, { slots: 1 });
    const [runs, waits] = [accept(made, order()), accept(made, order())];
    await until('it runs', () => made.book.record(runs, ADMIN).state === 'running');
    await made.book.stop(0);
    assert.equal(made.store.runs.get(runs, ADMIN).outcome, 'sandbox_error');
    assert.equal(made.store.runs.get(waits, ADMIN).state, 'queued');
    assert.throws(() => accept(made, order()), { code: 'shutting_down' });
  });
});

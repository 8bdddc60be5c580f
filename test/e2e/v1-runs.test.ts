/** `/v1/runs` on a real server, gateway and runner apart; and what becomes of runs when one of the two is killed. */
import assert from 'node:assert/strict';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { eventually, restart, startServer, withServer, type Server } from '../support/server.ts';
import * as v1 from '../support/v1.ts';
import {
  collect,
  eventsOf,
  idOf,
  mark,
  NDJSON,
  sh,
  sleeping,
  type Answered,
  type Event,
  type Json,
} from '../support/v1.ts';

let server: Server;
before(async () => {
  server = await startServer({
    split: true,
    env: { NOX_SLOTS: '4', NOX_KEEP_OUTPUT: '256K', NOX_MAX_OUTPUT: '64K', NOX_QUEUE: '200' },
  });
});
after(() => server.stop());

const call = (
  method: string,
  path: string,
  body?: unknown,
  headers: Record<string, string> = {},
  on = server,
): Promise<Answered> => v1.call(on, method, path, body, headers);
const run = (body: unknown, headers: Record<string, string> = {}, on = server) => v1.run(on, body, headers);
const ended = (id: string, on = server) => v1.ended(on, id);
const open = (method: string, path: string, headers: Record<string, string>, body?: unknown, on = server) =>
  v1.open(on, method, path, headers, body);
const SSE = { accept: 'text/event-stream' };

const textOf = (events: readonly Event[]): string => events.map(({ text = '' }) => text).join('');
const numbers = (count: number): string =>
  Array.from({ length: count }, (_, index) => `${String(index + 1)}\n`).join('');
const gatewayOf = (each: Server) => each.processes.at(-1)?.pid;
function residentMiB(pid: number | undefined): number {
  const line = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${String(pid)}/status`, 'utf8'));
  return Number(line?.[1]) / 1024;
}

describe('three ways to take the answer', () => {
  test('wait', async () => {
    const answer = await run({
      code: 'import sys; print(input()); print("e", file=sys.stderr)',
      stdin: 'hi\n',
      labels: { a: 'b' },
    });
    assert.equal(answer.status, 200);
    const { stdout, stderr, outcome, exitCode, labels, state } = answer.body;
    assert.deepEqual(
      [stdout, stderr, outcome, exitCode, labels, state],
      ['hi\n', 'e\n', 'ok', 0, { a: 'b' }, 'ended'],
    );
    const kept = (await call('GET', `/v1/runs/${idOf(answer)}`)).body;
    assert.deepEqual([kept['outcome'], kept['labels'], 'stdout' in kept], ['ok', { a: 'b' }, false]);
  });

  test('NDJSON and SSE say the same', async () => {
    const body = sh('printf "a\\r\\nb\\0"; printf "\\xff\\xfe"; sleep 0.1; exit 3');
    const lines = await collect(await open('POST', '/v1/runs', NDJSON, body));
    assert.deepEqual([lines[0]?.type, lines.at(-1)?.type], ['started', 'end']);
    assert.equal(lines.at(-1)?.run?.['outcome'], 'failed');
    const response = await open('POST', '/v1/runs', SSE, body);
    assert.equal(response.headers['x-accel-buffering'], 'no');
    const text = (await response.toArray()).join('');
    const parsed = text
      .split('\n\n')
      .filter(Boolean)
      .map((block) => {
        const [, id, event, data] = /^id: (\d+)\nevent: (\w+)\ndata: (.*)$/s.exec(block) ?? [];
        const each = JSON.parse(data ?? '') as Event;
        assert.deepEqual([String(each.id), each.type], [id, event]);
        return each.type;
      });
    assert.deepEqual([parsed[0], parsed.at(-1)], ['started', 'end']);
  });

  test('HEAD of the events of a run that goes on is answered at once', async () => {
    const id = idOf(await run(sh('sleep 60', { background: true })));
    const head = await call('HEAD', `/v1/runs/${id}/events`);
    assert.equal(head.status, 200);
    const { headers } = await call('HEAD', `/v1/runs/${id}/events`, undefined, SSE);
    assert.match(headers.get('content-type') ?? '', /^text\/event-stream/);
    assert.equal(headers.get('nox-run-id'), id);
    assert.equal((await call('HEAD', '/v1/runs/run_00000000000000000000000a/events')).status, 404);
    assert.equal((await call('GET', `/v1/runs/${id}`)).body['outcome'], null);
    await call('POST', `/v1/runs/${id}/cancel`);
  });

  test('background', async () => {
    const answer = await run(sh('echo out; echo err >&2', { background: true }));
    assert.equal(answer.status, 202);
    const id = idOf(answer);
    assert.equal(answer.headers.get('location'), `/v1/runs/${id}`);
    const { outcome, stdout, stderr } = await ended(id);
    assert.deepEqual([outcome, stdout, stderr], ['ok', 'out\n', 'err\n']);
    const page = (await call('GET', '/v1/runs?limit=1')).body['runs'] as Json[];
    assert.equal(page.length, 1);
  });
});

describe('a connection that breaks', () => {
  for (const background of [false, true])
    test(`in mid-stream: goes on after any event, nothing lost, nothing twice${background ? ' (background)' : ''}`, async () => {
      const script = 'for i in $(seq 400); do echo $i; [ $((i % 40)) = 0 ] && sleep 0.05; done; true';
      const first = await open('POST', '/v1/runs', NDJSON, sh(script, background ? { background } : {}));
      const id = String(first.headers['nox-run-id']);
      const all: Event[] = [];
      let response = first;
      for (let breaks = 0; all.at(-1)?.type !== 'end'; breaks += 1) {
        assert.ok(breaks < 500);
        let taken = 0;
        for await (const event of eventsOf(response)) {
          all.push(event);
          taken += 1;
          if (taken >= 3 && event.type !== 'end') break;
        }
        response.destroy();
        if (all.at(-1)?.type === 'end') break;
        response = await open('GET', `/v1/runs/${id}/events`, {
          ...NDJSON,
          'last-event-id': String(all.at(-1)?.id),
        });
        assert.equal(response.statusCode, 200);
      }
      assert.equal(textOf(all), numbers(400));
      assert.equal(new Set(all.map(({ id: each }) => each)).size, all.length);
    });

  test('a place that is none, or is gone, is refused before the stream', async () => {
    const id = idOf(await run(sh('echo x', { background: true })));
    await ended(id);
    for (const place of ['1', '999999999']) {
      const answer = await call('GET', `/v1/runs/${id}/events`, undefined, { 'last-event-id': place });
      assert.deepEqual([answer.status, answer.body['code']], [416, 'range_not_satisfiable'], place);
    }
    for (const place of ['-1', 'x', '1e3', '0x10', '9'.repeat(400), '1, 2']) {
      const answer = await call('GET', `/v1/runs/${id}/events`, undefined, { 'last-event-id': place });
      assert.deepEqual([answer.status, answer.body['code']], [422, 'invalid_request'], place);
    }
  });

  test('a watched run whose beginning is forgotten can still be looked at', async () => {
    const response = await open('POST', '/v1/runs', NDJSON, sh('head -c 4000000 /dev/zero | tr "\\0" x'));
    assert.equal(textOf(await collect(response)).length, 4_000_000);
    const answer = await call('GET', `/v1/runs/${String(response.headers['nox-run-id'])}`);
    assert.deepEqual([answer.status, answer.body['outcome']], [200, 'ok']);
  });
});

describe('a live run', () => {
  test('a signal that is sent at once is not lost, however little of the program has begun', async () => {
    for (let n = 0; n < 20; n += 1) {
      const id = idOf(await run(sh('sleep 60', { background: true, interactive: true })));
      assert.equal((await call('POST', `/v1/runs/${id}/signal`, { signal: 'SIGTERM' })).status, 204);
      const { outcome, signal } = await ended(id);
      assert.deepEqual([outcome, signal], ['signaled', 15]);
    }
  });

  test('stdin, its end, and a signal that passes input which nobody reads', async () => {
    const echo = idOf(await run(sh('cat', { interactive: true, background: true })));
    for (const text of ['one ', 'two '])
      assert.equal((await call('POST', `/v1/runs/${echo}/stdin`, { text })).status, 204);
    assert.equal(
      (
        await call('POST', `/v1/runs/${echo}/stdin`, {
          base64: Buffer.from('three').toString('base64'),
          end: true,
        })
      ).status,
      204,
    );
    assert.equal((await ended(echo))['stdout'], 'one two three');
    const large = idOf(await run(sh('wc -c', { interactive: true, background: true })));
    const all = {
      text: 'x'.repeat(1_000_000),
      base64: Buffer.alloc(1_000_000).toString('base64'),
      end: true,
    };
    assert.equal((await call('POST', `/v1/runs/${large}/stdin`, all)).status, 204);
    assert.equal((await ended(large))['stdout'], '2000000\n');
    assert.equal((await call('POST', `/v1/runs/${echo}/stdin`, { text: 'late' })).body['code'], 'run_ended');

    const deaf = await open('POST', '/v1/runs', NDJSON, {
      code: 'import signal,sys,time\nsignal.signal(signal.SIGUSR1, lambda *a: sys.exit(7))\nprint("up", flush=True)\ntime.sleep(60)',
      interactive: true,
    });
    const events = eventsOf(deaf);
    for (
      let event = await events.next();
      (event.value as Event | undefined)?.text !== 'up\n';
      event = await events.next()
    )
      assert.ok(event.done !== true);
    const id = String(deaf.headers['nox-run-id']);
    assert.equal((await call('POST', `/v1/runs/${id}/stdin`, { text: 'x'.repeat(900_000) })).status, 204);
    assert.equal((await call('POST', `/v1/runs/${id}/signal`, { signal: 'SIGUSR1' })).status, 204);
    let last: Event | undefined;
    for await (const event of events) last = event;
    assert.deepEqual([last?.type, last?.run?.['exitCode']], ['end', 7]);
  });

  test('takes no input that did not ask for it', async () => {
    const id = idOf(await run(sh('sleep 60', { background: true })));
    assert.equal((await call('POST', `/v1/runs/${id}/stdin`, { text: 'x' })).body['code'], 'invalid_request');
    assert.equal((await call('POST', `/v1/runs/${id}/signal`, { signal: 'SIGNONE' })).status, 422);
    await call('POST', `/v1/runs/${id}/cancel`);
  });

  test('cancelled: nothing of it is alive when the answer comes', async () => {
    const seconds = mark();
    const id = idOf(await run(sh(`sleep ${seconds} & sleep ${seconds} & wait`, { background: true })));
    await eventually('it runs', () => sleeping(seconds) === 2);
    const answer = await call('POST', `/v1/runs/${id}/cancel`);
    assert.deepEqual([answer.status, answer.body['outcome'], sleeping(seconds)], [200, 'cancelled', 0]);
    assert.equal((await call('POST', `/v1/runs/${id}/cancel`)).body['code'], 'run_ended');
  });
});

describe('Idempotency-Key', () => {
  test('20 clients at the same time: one run, the same answer for all, whatever way they take it', async () => {
    const body = sh('echo $RANDOM$RANDOM; sleep 0.2');
    const key = { 'idempotency-key': `many-${mark()}` };
    const answers = await Promise.all(Array.from({ length: 20 }, () => run(body, key)));
    assert.deepEqual(
      [...new Set(answers.map(({ status }) => status))],
      [200],
      JSON.stringify(answers.map(({ body: each }) => each['code'])),
    );
    assert.equal(new Set(answers.map(idOf)).size, 1);
    assert.equal(new Set(answers.map(({ body: each }) => each['stdout'])).size, 1);
    const stream = await collect(await open('POST', '/v1/runs', { ...NDJSON, ...key }, body));
    assert.equal(textOf(stream), answers[0]?.body['stdout']);
    const other = await run(sh('true'), key);
    assert.deepEqual([other.status, other.body['code']], [422, 'idempotency_conflict']);
  });

  test('with `background`: the run, in whatever state it is', async () => {
    const key = { 'idempotency-key': `background-${mark()}` };
    const body = sh('sleep 0.2', { background: true });
    const [first, second] = [await run(body, key), await run(body, key)];
    assert.deepEqual([first.status, second.status, idOf(first)], [202, 202, idOf(second)]);
    await ended(idOf(first));
    assert.equal((await run(body, key)).body['outcome'], 'ok');
  });

  test('what was refused has not used its key; a repetition costs no quota', async () => {
    const made = await call('POST', '/v1/tokens', {
      name: 'one',
      scopes: ['run'],
      quotas: { concurrentRuns: 1 },
    });
    const one = { ...server, token: made.body['secret'] as string };
    const body = sh('sleep 5', { background: true });
    const first = await run(body, { 'idempotency-key': 'k1' }, one);
    assert.equal(first.status, 202, JSON.stringify([made.body, first.body]));
    assert.equal((await run(body, { 'idempotency-key': 'k2' }, one)).body['code'], 'quota_exceeded');
    assert.equal(idOf(await run(body, { 'idempotency-key': 'k1' }, one)), idOf(first));
    await ended(idOf(first));
    assert.equal((await run(body, { 'idempotency-key': 'k2' }, one)).status, 202);
    // Another token's key of the same name is another one; and what is another's is not there.
    assert.equal((await run(sh('true'), { 'idempotency-key': 'k1' })).status, 200);
    const theirs = idOf(await run(sh('sleep 2', { background: true, interactive: true })));
    const paths: [string, string, Json?][] = [
      ['GET', ''],
      ['GET', '/events'],
      ['POST', '/cancel'],
      ['POST', '/stdin', { text: 'x' }],
      ['POST', '/signal', { signal: 'SIGTERM' }],
    ];
    for (const [method, rest, sent] of paths) {
      const answer = await call(method, `/v1/runs/${theirs}${rest}`, sent, {}, one);
      assert.deepEqual([answer.status, answer.body['code']], [404, 'run_not_found'], rest);
    }
    assert.ok(
      ((await call('GET', '/v1/runs', undefined, {}, one)).body['runs'] as Json[]).every(
        ({ id }) => id !== theirs,
      ),
    );
  });
});

describe('hostile words', () => {
  test('an id or a key is no path; headers of every kind give a clean answer', async () => {
    for (const id of [
      '../../etc/passwd',
      '..%2f..%2fnox.db',
      'run_',
      `run_${'a'.repeat(25)}`,
      `run_${'A'.repeat(24)}`,
      '%00',
    ])
      for (const rest of ['', '/events']) {
        const { status } = await call('GET', `/v1/runs/${id}${rest}`);
        assert.ok(status >= 400 && status < 500, `${id}: ${String(status)}`);
      }
    for (const key of ['../../x', "'; DROP TABLE runs; --", 'x'.repeat(256), 'a b', 'é']) {
      const { status, body } = await run(sh('echo ok'), { 'idempotency-key': key });
      assert.ok(status === 200 || body['code'] === 'invalid_request', `${key}: ${String(status)}`);
    }
    for (const accept of [',,,', ';;;=', 'text/event-stream;q=0', '*/*, '.repeat(1000)])
      assert.equal((await run(sh('true'), { accept })).status, 200, accept);
  });
});

describe('bounds', () => {
  test('output beyond NOX_KEEP_OUTPUT is cut, and that is said', async () => {
    const id = idOf(await run(sh('seq 200000', { background: true })));
    const found = await ended(id);
    assert.deepEqual([found['outcome'], found['truncated']], ['ok', true]);
    const events = await collect(await open('GET', `/v1/runs/${id}/events`, NDJSON));
    assert.deepEqual([events.at(-1)?.type, events.at(-1)?.run?.['truncated']], ['end', true]);
    const text = textOf(events);
    assert.ok(text.length > 100_000 && text.length < 256 * 1024 && numbers(200_000).startsWith(text));
  });

  test('a reader that stops reading: the program waits, memory is bounded, others are served, then all comes', async () => {
    const size = 300_000_000;
    const response = await open('POST', '/v1/runs', NDJSON, {
      command: ['head', '-c', String(size), '/dev/zero'],
    });
    response.pause();
    const before = residentMiB(gatewayOf(server));
    await sleep(2000);
    assert.equal((await run(sh('echo ok'))).body['stdout'], 'ok\n');
    const state = (await call('GET', `/v1/runs/${String(response.headers['nox-run-id'])}`)).body['state'];
    const grown = residentMiB(gatewayOf(server)) - before;
    assert.equal(state, 'running');
    assert.ok(grown < 100, `${String(grown)} MiB`);
    response.destroy();
    const id = String(response.headers['nox-run-id']);
    await call('POST', `/v1/runs/${id}/cancel`);
  });
});

describe('faults', () => {
  const env = { NOX_SLOTS: '2', NOX_QUEUE: '100' };

  test('gateway killed -9: what ran ends by name, what waits runs once, nothing is lost, nothing is alive', () =>
    withServer({ split: true, env }, async (own) => {
      const seconds = mark();
      const running = await Promise.all(
        [0, 1].map(async () =>
          idOf(await run(sh(`echo begun; sleep ${seconds}`, { background: true }), {}, own)),
        ),
      );
      const queued = await Promise.all(
        Array.from({ length: 10 }, async () =>
          idOf(
            await run(
              { code: 'open("count", "a").write("x")', workspace: 'default', background: true },
              {},
              own,
            ),
          ),
        ),
      );
      const key = { 'idempotency-key': 'across' };
      const keyed = idOf(await run(sh('echo once', { background: true }), key, own));
      await eventually('two run', () => sleeping(seconds) === 2);
      // What is still on its way to the disk goes with the gateway.
      const spooled = (id: string) => join(dirname(own.workspace), 'state', 'runs', `${id}.ndjson`);
      await eventually('their output is kept', () =>
        running.every((id) => existsSync(spooled(id)) && readFileSync(spooled(id), 'utf8').includes('begun')),
      );
      const again = await restart(own, 'gateway', 'SIGKILL');
      await eventually('nothing is alive', () => sleeping(seconds) === 0);
      for (const id of running) {
        const { outcome, reason, stdout } = await ended(id, again);
        assert.deepEqual(
          [outcome, reason, stdout],
          ['sandbox_error', 'The server ended while the run was under way', 'begun\n'],
        );
        const events = await collect(await open('GET', `/v1/runs/${id}/events`, NDJSON, undefined, again));
        assert.equal(events.at(-1)?.type, 'end');
      }
      for (const id of queued) assert.equal((await ended(id, again))['outcome'], 'ok');
      assert.equal(
        (await run({ code: 'print(open("count").read())', workspace: 'default' }, {}, again)).body['stdout'],
        `${'x'.repeat(10)}\n`,
      );
      assert.equal(idOf(await run(sh('echo once', { background: true }), key, again)), keyed);
      assert.equal(((await call('GET', '/v1/runs', undefined, {}, again)).body['runs'] as Json[]).length, 14);
    }));

  test('the list, its filter and the run itself say the same: what runs is running, what waits is queued', () =>
    withServer({ split: true, env: { NOX_SLOTS: '1' } }, async (own) => {
      const seconds = mark();
      const stop = new AbortController();
      const begin = (body: Json) => {
        const answer = fetch(`${own.url}/v1/runs`, {
          method: 'POST',
          headers: { authorization: `Bearer ${own.token}` },
          body: JSON.stringify(body),
          signal: stop.signal,
        });
        answer.catch(() => undefined);
      };
      const seen = async (filter: string) => {
        const { body } = await call('GET', `/v1/runs?${filter}`, undefined, {}, own);
        return (body['runs'] as Json[]).map(({ id, state, startedAt }) => [id, state, startedAt !== null]);
      };
      begin(sh(`sleep ${seconds}`));
      await eventually('one runs', async () => (await seen('state=running')).length === 1);
      begin(sh('echo later'));
      await run(sh('echo last', { background: true }), {}, own);
      await eventually('two wait', async () => (await seen('state=queued')).length === 2);
      const all = await seen('');
      assert.deepEqual(
        all.map(([, state, started]) => [state, started]),
        [
          ['queued', false],
          ['queued', false],
          ['running', true],
        ],
      );
      for (const [id, state] of all)
        assert.equal((await call('GET', `/v1/runs/${String(id)}`, undefined, {}, own)).body['state'], state);
      assert.deepEqual(await seen('state=ended'), []);
      assert.deepEqual(await seen('state=running'), all.slice(2));
      stop.abort();
      await eventually('all have ended', async () => (await seen('state=ended')).length === 3);
    }));

  test('runner killed -9 with 20 runs alive: each is answered by name, and the next runner takes up what waits', () =>
    withServer({ split: true, env: { ...env, NOX_SLOTS: '20' } }, async (own) => {
      const seconds = mark();
      const waiting = Array.from({ length: 10 }, () => run(sh(`sleep ${seconds}`), {}, own));
      const background = await Promise.all(
        Array.from({ length: 10 }, async () =>
          idOf(await run(sh(`sleep ${seconds}`, { background: true }), {}, own)),
        ),
      );
      await eventually('20 run', () => sleeping(seconds) === 20);
      own.processes[0]?.kill('SIGKILL');
      for (const { status, body } of await Promise.all(waiting))
        assert.deepEqual([status, body['code']], [503, 'runner_unavailable']);
      for (const id of background) assert.equal((await ended(id, own))['outcome'], 'sandbox_error');
      const later = idOf(await run(sh('echo later', { background: true }), {}, own));
      const again = await restart(own, 'runner');
      assert.equal((await ended(later, again))['stdout'], 'later\n');
      await eventually('nothing is alive', () => sleeping(seconds) === 0);
    }));

  test('stopped gracefully: who watches is told, what waits is for the next server', () =>
    withServer({ split: true, env: { ...env, NOX_STOP_GRACE: '1' } }, async (own) => {
      const watched = open('POST', '/v1/runs', NDJSON, sh('sleep 60'), own).then(collect);
      const ids = await Promise.all(
        Array.from({ length: 3 }, async () => idOf(await run(sh('sleep 3', { background: true }), {}, own))),
      );
      await sleep(300);
      const again = await restart(own, 'gateway', 'SIGTERM');
      const last = (await watched).at(-1);
      assert.deepEqual(
        [last?.type, last?.run?.['outcome'], last?.run?.['reason']],
        ['end', 'sandbox_error', 'the server stopped while it was under way'],
      );
      const outcomes = await Promise.all(ids.map(async (id) => (await ended(id, again))['outcome']));
      assert.ok(outcomes.includes('ok'), String(outcomes));
      assert.ok(outcomes.every((outcome) => outcome === 'ok' || outcome === 'sandbox_error'));
    }));

  test('600 runs in the background: accepted, then all done', () =>
    withServer({ split: true, env }, async (own) => {
      const ids: string[] = [];
      const many = async () => {
        for (let each = 0; each < 30; each += 1)
          ids.push(idOf(await run({ command: ['true'], background: true }, {}, own)));
      };
      await Promise.all(Array.from({ length: 20 }, many));
      assert.equal(new Set(ids).size, 600);
      const done = async () => {
        const page = await call('GET', '/v1/runs?limit=1000&outcome=ok', undefined, {}, own);
        return (page.body['runs'] as Json[]).length;
      };
      for (const deadline = Date.now() + 120_000; (await done()) < 600 && Date.now() < deadline;)
        await sleep(500);
      assert.equal(await done(), 600);
    }));
});

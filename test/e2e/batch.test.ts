/** POST /v1/batch on real servers: results, errors, order, streams, quotas, clients that go. */
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { BatchAnswer } from '../../src/gateway/routes/v1-batch.ts';
import { validator } from '../../src/protocol/validate.ts';
import { eventually, post, startServer, withServer, type Server } from '../support/server.ts';

interface Item {
  readonly index: number;
  readonly run?: { id: string; outcome: string; stdout: string; stderr: string; exitCode: number };
  readonly error?: { code: string; detail: string };
}
const checked = validator(BatchAnswer);
const resultsOf = (answer: { body: unknown }) => checked(answer.body).results as unknown as Item[];
const python = (code: string, more: object = {}) => ({ code, ...more });
const batch = (server: Server, runs: unknown[], more: object = {}) =>
  post(server, '/v1/batch', { runs, ...more });

const send = (server: Server, accept: string, body: object, signal?: AbortSignal) =>
  fetch(`${server.url}/v1/batch`, {
    method: 'POST',
    headers: { authorization: `Bearer ${server.token}`, accept },
    body: JSON.stringify(body),
    ...(signal === undefined ? {} : { signal }),
  });

async function get(server: Server, path: string) {
  const headers = { authorization: `Bearer ${server.token}` };
  return (await (await fetch(`${server.url}${path}`, { headers })).json()) as Record<string, unknown>;
}

for (const split of [false, true]) {
  describe(split ? 'gateway --jitless and runner' : 'one process', () => {
    let server: Server;
    before(async () => {
      server = await startServer({ split, env: { NOX_SLOTS: '2', NOX_QUEUE: '2' } });
    });
    after(() => server.stop());

    test('a result or an error for each, in order, and a record for each that ran', async () => {
      const answer = await batch(server, [
        python('import time; time.sleep(0.5); print("slow")'),
        python('print(input())', { stdin: 'told\n' }),
        python('import sys; sys.exit(3)'),
        { runtime: 'no-such', code: '' },
        { command: ['echo', 'é'] },
        {},
        python('print("\\udc80".encode("utf8", "surrogateescape"))'),
      ]);
      assert.equal(answer.status, 200);
      const results = resultsOf(answer);
      assert.deepEqual(
        results.map(({ index }) => index),
        [0, 1, 2, 3, 4, 5, 6],
      );
      assert.deepEqual(
        results.map(({ run, error }) => error?.code ?? [run?.outcome, run?.stdout]),
        [
          ['ok', 'slow\n'],
          ['ok', 'told\n'],
          ['failed', ''],
          'unknown_runtime',
          ['ok', 'é\n'],
          'invalid_request',
          ['ok', "b'\\x80'\n"],
        ],
      );
      for (const { run } of results)
        if (run !== undefined) assert.equal((await get(server, `/v1/runs/${run.id}`))['id'], run.id);
    });

    test('more items than the queue has places are no fault of theirs', async () => {
      const answer = await batch(
        server,
        Array.from({ length: 60 }, (_, index) => python(`print(${String(index)})`)),
      );
      assert.deepEqual(
        resultsOf(answer).map(({ run }) => run?.stdout),
        Array.from({ length: 60 }, (_, index) => `${String(index)}\n`),
      );
    });

    test('others find room while batches run', async () => {
      const items = Array.from({ length: 8 }, () => python('import time; time.sleep(0.3)'));
      const batches = [batch(server, items), batch(server, items), batch(server, items)];
      const alone = await post(server, '/run_py', { code: 'print(1)' });
      assert.equal(alone.status, 200);
      for (const each of await Promise.all(batches))
        for (const { run } of resultsOf(each)) assert.equal(run?.outcome, 'ok');
    });

    test('stopOnFailure: what has not begun is not run', async () => {
      const items = [python('print(1)'), python('raise SystemExit(1)')];
      for (let more = 0; more < 20; more += 1) items.push(python('import time; time.sleep(0.1)'));
      const results = resultsOf(await batch(server, items, { stopOnFailure: true }));
      assert.equal(results.length, 22);
      assert.equal(results[1]?.run?.outcome, 'failed');
      assert.equal(results.at(-1)?.error?.code, 'not_run');
    });

    test('streams: each result as it is there, then the end', async () => {
      const runs = [python('import time; time.sleep(1)'), python('print("first")')];
      const text = await (await send(server, 'application/x-ndjson', { runs })).text();
      const events = text
        .trimEnd()
        .split('\n')
        .map((line) => JSON.parse(line) as Item & { end?: true });
      assert.deepEqual(
        events.map(({ index, end }) => end ?? index),
        [1, 0, true],
      );
      assert.equal(events[0]?.run?.stdout, 'first\n');
      const sse = await (await send(server, 'text/event-stream', { runs })).text();
      assert.match(
        sse,
        /^event: result\ndata: \{"index":1,[^\n]+\n\nevent: result\ndata: \{"index":0,[^\n]+\n\nevent: end\ndata: \{"end":true\}\n\n$/,
      );
    });

    test('an empty one, and those that cannot be taken', async () => {
      assert.deepEqual(resultsOf(await batch(server, [])), []);
      for (const [body, detail] of [
        [{ runs: [{ code: '', background: true }] }, /background/],
        [{ runs: [{ code: '', interactive: true }] }, /interactive/],
        [{ runs: Array.from({ length: 1001 }, () => ({ code: '' })) }, /runs/],
        [{ runs: {} }, /runs/],
        [{}, /runs/],
      ] as const) {
        const answer = await post(server, '/v1/batch', body);
        assert.deepEqual([answer.status, answer.body['code']], [422, 'invalid_request']);
        assert.match(String(answer.body['detail']), detail);
      }
    });

    test('a client that goes away ends what runs, and the rest is never begun', async () => {
      const gone = new AbortController();
      const label = `gone-${String(split)}`;
      const item = python('import time; time.sleep(15)', { labels: { label } });
      const answer = send(server, '*/*', { runs: Array.from({ length: 30 }, () => item) }, gone.signal);
      const mine = async () => {
        const { runs } = (await get(server, '/v1/runs?limit=100')) as {
          runs: { labels: object; state: string; outcome: string | null }[];
        };
        return runs.filter(({ labels }) => JSON.stringify(labels).includes(label));
      };
      await eventually('some run', async () => (await mine()).some(({ state }) => state !== 'queued'));
      gone.abort();
      await assert.rejects(answer);
      await eventually('all have ended', async () => (await mine()).every(({ state }) => state === 'ended'));
      const runs = await mine();
      assert.ok(runs.length <= 3, `${String(runs.length)} were begun`);
      assert.equal((await post(server, '/run_py', { code: 'print(1)' })).status, 200);
    });
  });
}

test('quotas are charged for each item; other runs of the token are waited for', async () => {
  await withServer({}, async (server) => {
    const made = await post(server, '/v1/tokens', {
      name: 'batch',
      scopes: ['run'],
      quotas: { runsPerMinute: 5, concurrentRuns: 1 },
    });
    assert.equal(made.status, 201);
    const own = { ...server, token: String(made.body['secret']) };
    const results = resultsOf(
      await batch(
        own,
        Array.from({ length: 8 }, () => python('print(1)')),
      ),
    );
    assert.equal(results.filter(({ run }) => run?.outcome === 'ok').length, 5);
    assert.equal(results.filter(({ error }) => error?.code === 'rate_limited').length, 3);
  });
});

test('a client that goes away before the first result is no fault of the server', async () => {
  await withServer({}, async (server) => {
    for (const accept of ['application/json', 'application/x-ndjson']) {
      const stop = new AbortController();
      const body = { runs: [{ command: ['sleep', '60'] }] };
      const left = send(server, accept, body, stop.signal).then((response) => response.text());
      left.catch(() => undefined);
      await eventually('it runs', async () => {
        const { runs } = await get(server, '/v1/runs?state=running');
        return Array.isArray(runs) && runs.length === 1;
      });
      stop.abort();
      await assert.rejects(left, { name: 'AbortError' });
      await eventually('it has ended', async () => {
        const { runs } = await get(server, '/v1/runs?state=running');
        return Array.isArray(runs) && runs.length === 0;
      });
    }
    assert.doesNotMatch(server.log(), /"level":50/);
  });
});

test('large outputs pass through a small memory', async () => {
  await withServer({ split: true, env: { NOX_MAX_OUTPUT: '8M', NOX_SLOTS: '2' } }, async (server) => {
    const item = python('print("\\x01" * 6_000_000)');
    const response = await send(server, '*/*', { runs: Array.from({ length: 24 }, () => item) });
    let bytes = 0;
    for await (const piece of response.body ?? []) bytes += (piece as Uint8Array).length;
    assert.ok(bytes > 24 * 6 * 6_000_000, String(bytes));
    const { readFileSync } = await import('node:fs');
    const status = readFileSync(`/proc/${String(server.processes.at(-1)?.pid)}/status`, 'utf8');
    const peak = Number(/VmHWM:\s+(\d+) kB/.exec(status)?.[1]) / 1024;
    assert.ok(peak < 400, `the gateway held ${String(peak)} MiB`);
  });
});

/** Metrics and traces of a real server. */
import assert from 'node:assert/strict';
import { request as httpRequest } from 'node:http';
import { connect, createServer, type AddressInfo } from 'node:net';
import { once } from 'node:events';
import { after, before, describe, test } from 'node:test';
import { put, runPy, runSh, startServer, type Server } from '../support/server.ts';
import { startCollector, type Collector, type ReceivedSpan } from '../support/collector.ts';
import { parseExposition } from '../support/exposition.ts';
import { until } from '../support/tools.ts';

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  server.close();
  return port;
}

const scrape = async (server: Server) => {
  const response = await fetch(`${server.url}/metrics`, {
    headers: { authorization: `Bearer ${server.token}` },
  });
  assert.equal(response.status, 200);
  assert.match(response.headers.get('content-type') ?? '', /^text\/plain; version=0\.0\.4/);
  return parseExposition(await response.text());
};
type Families = Awaited<ReturnType<typeof scrape>>;
const value = (families: Families, name: string, labels: Record<string, string> = {}) =>
  [...families.values()]
    .flatMap(({ samples }) => samples)
    .find(
      (sample) =>
        sample.name === name && Object.entries(labels).every(([key, each]) => sample.labels[key] === each),
    )?.value;

/** What no client library would send. */
async function raw(server: Server, text: string): Promise<void> {
  const socket = connect(Number(new URL(server.url).port), '127.0.0.1');
  socket.end(text);
  socket.resume();
  await once(socket, 'close');
}

for (const split of [true, false])
  describe(split ? 'gateway and runner apart' : 'in one process', () => {
    let server: Server;
    let collector: Collector;
    let port: number;
    before(async () => {
      collector = await startCollector();
      port = await freePort();
      const env = {
        NOX_METRICS_ADDR: `127.0.0.1:${port}`,
        NOX_OTLP_ENDPOINT: collector.url,
        NOX_TIMEOUT: '2',
      };
      server = await startServer({ split, env });
    });
    after(async () => {
      await server.stop();
      await collector.close();
    });

    const trace = (traceId: string) =>
      until(traceId, () => {
        const spans = collector.spans.filter((span) => span.traceId === traceId);
        return spans.some(({ kind }) => kind === 2) ? Promise.resolve(spans) : Promise.resolve(undefined);
      });
    const post = (path: string, body: string, headers: Record<string, string>) =>
      fetch(`${server.url}${path}`, {
        method: 'POST',
        body,
        headers: { authorization: `Bearer ${server.token}`, ...headers },
      });

    test('a scrape needs the token; the separate address does not, and has nothing else', async () => {
      for (const headers of [{}, { authorization: 'Bearer x' }])
        assert.equal((await fetch(`${server.url}/metrics`, { headers })).status, 401);
      const own = `http://127.0.0.1:${port}`;
      const response = await fetch(`${own}/metrics`);
      assert.equal(response.status, 200);
      parseExposition(await response.text());
      for (const path of ['/', '/run_py', '/health', '/metrics/x'])
        assert.equal((await fetch(`${own}${path}`)).status, 404);
      assert.equal((await fetch(`${own}/metrics`, { method: 'POST', body: 'x' })).status, 405);
    });

    test('runs, limits, uploads and errors are counted', async () => {
      await runPy(server, 'print(1)');
      await runSh(server, 'false');
      await runPy(server, 'while True: pass');
      await put(server, 'f', 'x'.repeat(1000));
      await runSh(server, 'rm x');
      const found = await scrape(server);
      assert.equal(value(found, 'nox_runs_total', { runtime: 'python', outcome: 'ok' }), 1);
      assert.equal(value(found, 'nox_runs_total', { runtime: 'command', outcome: 'failed' }), 1);
      assert.equal(value(found, 'nox_limits_fired_total', { limit: 'wallSeconds' }), 1);
      assert.equal(value(found, 'nox_upload_bytes_total'), 1000);
      assert.equal(value(found, 'nox_http_errors_total', { code: 'forbidden_command' }), 1);
      assert.equal(
        value(found, 'nox_http_request_duration_seconds_count', { route: '/run_py', status: '4xx' }),
        1,
      );
      assert.equal(value(found, 'nox_run_queue_seconds_count'), 3);
      assert((value(found, 'nox_run_wall_seconds_sum', { runtime: 'python' }) ?? 0) > 1.9);
      assert((value(found, 'process_resident_memory_bytes') ?? 0) > 10_000_000);
      if (!split) {
        assert.equal(value(found, 'nox_runner_up'), 1);
        assert.equal(value(found, 'nox_slots_busy'), 0);
        assert((value(found, 'nox_warm_zygotes') ?? 0) >= 1);
      }
    });

    test('hostile requests make no label, and all of them end', async () => {
      const lines = async () =>
        (await (await fetch(`http://127.0.0.1:${port}/metrics`)).text()).split('\n').length;
      await raw(server, 'GET /x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n');
      const before = await lines();
      for (let n = 0; n < 30; n += 1) {
        await raw(
          server,
          `GET /%22}${n}\\n?"=${n} HTTP/1.1\r\nhost: x\r\nx-request-id: a${n}\r\nconnection: close\r\n\r\n`,
        );
        await post(`/evil"${n}`, '{}', {
          traceparent: `00-${'f'.repeat(32)}-zz-01`,
          'x-request-id': `"${n}`,
        });
      }
      assert((await lines()) <= before + 20);
      const found = await scrape(server);
      // The scrape itself.
      assert.equal(value(found, 'nox_http_requests_in_flight'), 1);
      assert.equal(value(found, 'nox_runs_in_flight'), 0);
    });

    test('a trace from the client through the gateway to the run', async () => {
      const traceId = '4bf92f3577b34da6a3ce929d0e0e4736';
      const parent = '00f067aa0ba902b7';
      const response = await post('/run_py', '{"code":"print(1)"}', {
        traceparent: `00-${traceId}-${parent}-01`,
      });
      assert.equal(response.status, 200);
      const spans = await trace(traceId);
      const named = (name: string): ReceivedSpan => {
        const found = spans.filter((span) => span.name === name);
        assert.equal(found.length, 1, name);
        return found[0] as ReceivedSpan;
      };
      const root = named('POST /run_py');
      const call = named('executor run');
      const parts = ['queue wait', 'launch', 'run'].map(named);
      assert.equal(spans.length, 5);
      assert.deepEqual([root.parentSpanId, call.parentSpanId], [parent, root.spanId]);
      for (const part of parts)
        assert.deepEqual([part.parentSpanId, part.service], [call.spanId, 'nox-runner']);
      assert.equal(new Set(spans.map(({ spanId }) => spanId)).size, 5);
      for (const { traceId: id, spanId, startTimeUnixNano: start, endTimeUnixNano: end } of spans) {
        assert.match(`${id} ${spanId}`, /^[0-9a-f]{32} [0-9a-f]{16}$/);
        assert(BigInt(start) <= BigInt(end) && BigInt(end) < BigInt(Date.now() + 60_000) * 1_000_000n);
      }
      const within = [root, call, parts[0]].map((span) => BigInt(span?.startTimeUnixNano ?? 0));
      assert.deepEqual(within, [...within].sort());
      const outcome = call.attributes.find(({ key }) => key === 'nox.outcome');
      assert.deepEqual(outcome?.value, { stringValue: 'ok' });
      assert(!JSON.stringify(spans).includes(server.token));
    });

    test('a trace that the client does not record; one that is none; a run that fails', async () => {
      const off = 'a'.repeat(32);
      await post('/run_sh', '{"cmd":"true"}', { traceparent: `00-${off}-${'b'.repeat(16)}-00` });
      const failed = 'c'.repeat(32);
      await post('/run_sh', '{"cmd":"false"}', { traceparent: `00-${failed}-${'b'.repeat(16)}-01` });
      const spans = await trace(failed);
      assert.deepEqual(spans.find(({ name }) => name === 'executor run')?.status, { code: 2 });
      assert(!collector.spans.some(({ traceId }) => traceId === off));
    });

    test('a client that goes away ends its span and its run', async () => {
      const traceId = 'd'.repeat(32);
      const url = new URL(server.url);
      const request = httpRequest({
        ...{ host: url.hostname, port: url.port, method: 'POST', path: '/run_sh' },
        headers: {
          authorization: `Bearer ${server.token}`,
          traceparent: `00-${traceId}-${'e'.repeat(16)}-01`,
        },
      });
      request.on('error', () => undefined);
      request.end('{"cmd":"sleep 60"}');
      await until(
        'it runs',
        async () => value(await scrape(server), 'nox_runs_in_flight') === 1 || undefined,
      );
      request.destroy();
      const spans = await trace(traceId);
      assert(spans.some(({ name, status }) => name === 'executor run' && status?.code === 2));
      await until('none', async () => value(await scrape(server), 'nox_runs_in_flight') === 0 || undefined);
      assert.equal(
        value(await scrape(server), 'nox_runs_total', { outcome: 'cancelled', runtime: 'command' }),
        1,
      );
    });
  });

test('a collector that is down: every request as before, what is dropped is counted', async () => {
  const collector = await startCollector();
  await collector.close();
  const server = await startServer({ split: true, env: { NOX_OTLP_ENDPOINT: collector.url } });
  try {
    for (let n = 0; n < 5; n += 1) assert.equal((await runSh(server, 'true')).status, 200);
    await until(
      'dropped',
      async () => (value(await scrape(server), 'nox_trace_spans_dropped_total') ?? 0) > 0 || undefined,
    );
  } finally {
    await server.stop();
  }
});

test('an address for metrics that cannot be had: no start, and the reason', async () => {
  const holder = createServer().listen(0, '127.0.0.1');
  await once(holder, 'listening');
  const { port } = holder.address() as AddressInfo;
  await assert.rejects(
    startServer({ split: true, env: { NOX_METRICS_ADDR: `127.0.0.1:${port}` } }),
    /NOX_METRICS_ADDR: cannot listen on 127\.0\.0\.1:\d+ .*EADDRINUSE/,
  );
  holder.close();
});

/** Traces: what is honoured of a client's, and that no collector costs anybody anything. */
import assert from 'node:assert/strict';
import type { ServerResponse } from 'node:http';
import { test } from 'node:test';
import fc from 'fast-check';
import { pino } from 'pino';
import { KIND, parseTraceparent, Tracer } from '../../src/gateway/trace.ts';
import { startCollector } from '../support/collector.ts';

const log = pino({ level: 'silent' });
const TRACE = '4bf92f3577b34da6a3ce929d0e0e4736';
const SPAN = '00f067aa0ba902b7';

test('a traceparent as the W3C has it, and none else', () => {
  const good = { traceId: TRACE, spanId: SPAN };
  assert.deepEqual(parseTraceparent(`00-${TRACE}-${SPAN}-01`), { ...good, sampled: true });
  assert.deepEqual(parseTraceparent(`00-${TRACE}-${SPAN}-00`), { ...good, sampled: false });
  assert.deepEqual(parseTraceparent(`cc-${TRACE}-${SPAN}-03-what-comes`), { ...good, sampled: true });
  const bad = [
    ...['', 'x', `00-${TRACE}-${SPAN}`, `ff-${TRACE}-${SPAN}-01`, `00-${TRACE}-${SPAN}-01-more`],
    ...[
      `00-${TRACE.toUpperCase()}-${SPAN}-01`,
      `00-${'0'.repeat(32)}-${SPAN}-01`,
      `00-${TRACE}-${'0'.repeat(16)}-01`,
    ],
    ...[
      ` 00-${TRACE}-${SPAN}-01`,
      `00-${TRACE}-${SPAN}-01\n`,
      `00-${TRACE}-${SPAN}-1`,
      `00-${TRACE}${SPAN}-01`,
    ],
  ];
  for (const header of bad) assert.equal(parseTraceparent(header), undefined, header);
  fc.assert(fc.property(fc.string(), (header) => parseTraceparent(header) === undefined));
});

test('spans arrive whole, at the stop at the latest', async () => {
  const collector = await startCollector();
  const tracer = new Tracer(collector.url, log);
  const parent = tracer.accept('POST /x', `00-${TRACE}-${SPAN}-01`);
  assert(parent !== undefined);
  tracer.end(tracer.begin('child', KIND.client, parent), {
    text: 'a"\n\u2028',
    n: 3,
    f: 0.5,
    b: true,
    none: undefined,
  });
  tracer.end(parent, {}, 'queue_full');
  await tracer.close();
  const [child, root] = collector.spans;
  assert.deepEqual(
    [root?.traceId, root?.parentSpanId, root?.kind, root?.status],
    [TRACE, SPAN, 2, { code: 2 }],
  );
  assert.deepEqual([child?.traceId, child?.parentSpanId, child?.status], [TRACE, root?.spanId, undefined]);
  assert.deepEqual(child?.attributes, [
    { key: 'text', value: { stringValue: 'a"\n\u2028' } },
    { key: 'n', value: { intValue: '3' } },
    { key: 'f', value: { doubleValue: 0.5 } },
    { key: 'b', value: { boolValue: true } },
  ]);
  assert.deepEqual(tracer.state, { sent: 2, dropped: 0 });
  await collector.close();
});

test('a trace that the client does not record is not recorded here', () => {
  const tracer = new Tracer('http://127.0.0.1:9/', log);
  assert.equal(tracer.accept('x', `00-${TRACE}-${SPAN}-00`), undefined);
  assert.equal(tracer.accept('x', 'nonsense')?.parentId, undefined);
});

for (const [name, answer] of [
  ['is silent', () => undefined],
  ['refuses', (response: ServerResponse) => void response.writeHead(503).end()],
] as const)
  test(
    `a collector that ${name}: what waits is bounded and counted, and the stop comes to its end`,
    { timeout: 30_000 },
    async () => {
      const collector = await startCollector(answer);
      const tracer = new Tracer(collector.url, log);
      for (let n = 0; n < 20_000; n += 1) tracer.end(tracer.begin('x', KIND.internal));
      assert(tracer.state.dropped >= 15_000);
      await tracer.close();
      await collector.close();
    },
  );

test('nobody listens: dropped and counted, no error escapes', async () => {
  const collector = await startCollector();
  await collector.close();
  const tracer = new Tracer(collector.url, log);
  tracer.end(tracer.begin('x', KIND.internal));
  await tracer.close();
  assert.deepEqual(tracer.state, { sent: 0, dropped: 1 });
});

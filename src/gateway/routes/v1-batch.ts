/** `POST /v1/batch`: many runs, a result or an error of its own for each. */
import { hash } from 'node:crypto';
import { Readable } from 'node:stream';
import type { FastifyInstance } from 'fastify';
import Type from 'typebox';
import { ERRORS } from '../../protocol/errors.ts';
import { gathered, jsonObject } from '../json-stream.ts';
import { addRoute, closed } from '../route.ts';
import { membersOf } from '../runs/answer.ts';
import { Batches, type BatchOptions, type BatchResult } from '../runs/batch.ts';
import { ItemBody } from '../runs/request.ts';
import { Run, RunError } from '../runs/schema.ts';
import { formatWanted, sendPieces, type StreamFormat } from '../sse.ts';

/** Of one call. */
const ITEMS_MAX = 1000;

const BatchBody = closed({
  runs: Type.Array(ItemBody, { maxItems: ITEMS_MAX }),
  stopOnFailure: Type.Optional(
    Type.Boolean({ description: 'What has not begun when a run is not `ok` is not run' }),
  ),
});
const index = Type.Integer({ minimum: 0, description: 'Place in `runs`' });
const Result = Type.Union([closed({ index, run: Run }), closed({ index, error: RunError })]);
export const BatchAnswer = closed({ results: Type.Array(Result) });
/** Of the streams: each result as it is there, then the end. */
const BatchEvent = Type.Union(
  [...Result.anyOf, closed({ end: Type.Literal(true) }), closed({ type: Type.Literal('heartbeat') })],
  { title: 'BatchEvent' },
);

export function batchRoute(app: FastifyInstance, options: BatchOptions): void {
  const batches = new Batches(options);
  addRoute(app, {
    method: 'POST',
    url: '/v1/batch',
    summary: 'Run many programs: a result for each, in order in one answer, or streamed as they are there',
    scope: 'run',
    body: BatchBody,
    answers: { 200: BatchAnswer },
    events: BatchEvent,
    answerHeaders: ['cache-control'],
    errors: [],
    handler: async ({ body, principal, request, reply }) => {
      const { runs: items, stopOnFailure = false } = body;
      request.ending.subject = () => ({
        runs: String(items.length),
        batch: `sha256:${hash('sha256', JSON.stringify(items))}`,
      });
      const format = formatWanted(request);
      const call = { items, principal, requestId: request.id, stopOnFailure, ordered: format === undefined };
      const results = batches.run(call, app.calls.signal(reply));
      if (format === undefined) {
        void reply.type('application/json; charset=utf-8');
        return reply.send(Readable.from(answer(results), { objectMode: false }));
      }
      await sendPieces(reply, format, lines(results, format));
      return reply;
    },
  });
}

async function* answer(results: AsyncIterable<BatchResult>): AsyncGenerator<string> {
  let separator = '{"results":[';
  for await (const result of results) {
    yield* gathered(framed(separator, result, ''));
    separator = ',';
  }
  yield separator === ',' ? ']}' : '{"results":[]}';
}

async function* lines(results: AsyncIterable<BatchResult>, format: StreamFormat): AsyncGenerator<string> {
  const sse = format === 'sse';
  const after = sse ? '\n\n' : '\n';
  for await (const result of results)
    yield* gathered(framed(sse ? 'event: result\ndata: ' : '', result, after));
  yield `${sse ? 'event: end\ndata: ' : ''}{"end":true}${after}`;
}

function* framed(before: string, result: BatchResult, after: string): Generator<string> {
  yield `${before}{"index":${String(result.index)},`;
  if ('error' in result) {
    const { code, message } = result.error;
    yield `"error":${JSON.stringify({ code, detail: message, hint: ERRORS[code].hint })}`;
  } else {
    yield '"run":';
    yield* jsonObject(membersOf(result.run.record, result.output));
  }
  yield `}${after}`;
}

/** The standard output of a run as the body of an answer: its bytes as they come, and how it ended as trailers. */
import type { FastifyReply } from 'fastify';
import type { StreamName } from '../../protocol/messages.ts';
import { ByteWriter, takeOver } from '../answer-bytes.ts';
import { requireResult } from './answer.ts';
import type { RunBook } from './book.ts';
import type { LiveRun } from './live.ts';
import type { RunOrder } from './keeper.ts';
import type { OutputSink } from './sink.ts';

const HEADERS = {
  'content-type': 'application/octet-stream',
  'x-content-type-options': 'nosniff',
  'cache-control': 'no-store',
  // As for events (sse.ts).
  'x-accel-buffering': 'no',
  trailer: 'nox-outcome, nox-exit-code',
};

class StdoutSink implements OutputSink {
  readonly truncated = false;
  run: LiveRun | undefined;
  readonly #reply: FastifyReply;
  readonly #writer: ByteWriter;

  constructor(reply: FastifyReply) {
    this.#reply = reply;
    this.#writer = new ByteWriter(reply.raw);
  }

  started(): void {
    takeOver(this.#reply.headers({ ...HEADERS, 'nox-run-id': this.run?.record.id }));
    this.#reply.raw.flushHeaders();
  }

  output(stream: StreamName, data: Uint8Array): Promise<void> | undefined {
    return stream === 'stdout' ? this.#writer.write(data) : undefined;
  }

  end(): void {
    // The trailers have it.
  }
}

/**
 * Runs it, and sends what it prints. A slow client holds up the program; one that goes ends it.
 *
 * @throws NoxError that kept it from beginning; a run that has no result breaks the answer off
 */
export async function sendStdout(reply: FastifyReply, book: RunBook, order: RunOrder): Promise<FastifyReply> {
  const { raw, request, server } = reply;
  const sink = new StdoutSink(reply);
  const run = book.attend(order, sink, server.calls.signal(reply));
  sink.run = run;
  // A client that does not read would hold up the end of a run that is cancelled: its answer is broken off anyway.
  run.abort.signal.addEventListener('abort', () => {
    if (reply.sent) raw.destroy();
  });
  await run.ended;
  if (!reply.sent) requireResult(run);
  const { result } = run.record;
  if (result === undefined) {
    raw.destroy();
    return reply;
  }
  request.ending.run = { limits: order.request.limits, result };
  void reply.header('nox-outcome', result.outcome);
  raw.addTrailers({ 'nox-outcome': result.outcome, 'nox-exit-code': String(result.exitCode ?? '') });
  raw.end();
  return reply;
}

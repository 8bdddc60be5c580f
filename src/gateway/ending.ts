/**
 * The end of a request: when its answer has left or can no longer leave, and whoever worked for it is done.
 *
 * Fastify's own onResponse does not come for a client that went away before its answer, and such a request may have
 * run code or replaced a file all the same.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { ErrorCode } from '../protocol/errors.ts';
import type { LimitsRequest } from '../protocol/limits.ts';
import type { RunResult } from '../protocol/messages.ts';

import type { Span } from './trace.ts';

declare module 'fastify' {
  interface FastifyRequest {
    ending: Ending;
  }
}

interface Ending {
  /** What the request is about, for the audit file; made only if it is asked for. */
  subject?: () => Readonly<Record<string, string>>;
  /** The run that was made for it. */
  run?: { readonly limits: LimitsRequest | undefined; readonly result: RunResult };
  /** Why it was refused or failed. */
  failure?: ErrorCode;
  /** Of its trace, where there is one. */
  span?: Span;
  /** Where the answer was none of HTTP's: it has come to its end. */
  delivered?: boolean;
  answered: boolean;
  closed: boolean;
  /** Of its connection, before it. */
  readonly read: number;
  readonly written: number;
}

/** Bytes of a request and of its answer. */
export function traffic({ raw, ending }: FastifyRequest): {
  readonly bytesIn: number;
  readonly bytesOut: number;
} {
  const announced = Number(raw.headers['content-length']);
  return {
    // A refused body is announced, but not taken.
    bytesIn: raw.complete && announced >= 0 ? announced : raw.socket.bytesRead - ending.read,
    bytesOut: raw.socket.bytesWritten - ending.written,
  };
}

/** Calls `record` once for each request. */
export function onEnding(
  app: FastifyInstance,
  record: (request: FastifyRequest, reply: FastifyReply) => void,
): void {
  app.addHook('onRequest', (request, reply, done) => {
    const { socket } = request.raw;
    const ending: Ending = {
      answered: false,
      closed: false,
      read: socket.bytesRead,
      written: socket.bytesWritten,
    };
    request.ending = ending;
    reply.raw.once('close', () => {
      ending.closed = true;
      if (ending.answered) record(request, reply);
    });
    done();
  });
  app.addHook('onSend', (request, reply, _payload, done) => {
    const { ending } = request;
    if (ending.closed && !ending.answered) record(request, reply);
    ending.answered = true;
    done();
  });
}

/**
 * The end of a request: when its answer has left or can no longer leave, and whoever worked for it is done.
 *
 * Fastify's own onResponse does not come for a client that went away before its answer, and such a request may have
 * run code or replaced a file all the same.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { ErrorCode } from '../protocol/errors.ts';

declare module 'fastify' {
  interface FastifyRequest {
    ending: Ending;
  }
}

interface Ending {
  /** What the request is about, for the audit file; made only if it is asked for. */
  subject?: () => Readonly<Record<string, string>>;
  /** Why it was refused or failed. */
  failure?: ErrorCode;
  /** Where the answer was none of HTTP's: it has come to its end. */
  delivered?: boolean;
  answered: boolean;
  closed: boolean;
  /** Of its connection, before it. */
  readonly read: number;
  readonly written: number;
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

import type { FastifyReply } from 'fastify';

/** Aborted when the client goes away before its answer has been sent: its run is then ended. */
export function clientGone(reply: FastifyReply): AbortSignal {
  const gone = new AbortController();
  reply.raw.once('close', () => {
    if (!reply.raw.writableFinished) gone.abort();
  });
  return gone.signal;
}

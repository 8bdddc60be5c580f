/** Answers whose bytes are written past Fastify, one piece after the other, as fast as the client takes them. */
import type { FastifyReply, FastifyRequest } from 'fastify';

declare module 'fastify' {
  interface FastifyInstance {
    /** What each answer says about the token's rate. */
    quotaHeaders(request: FastifyRequest): Readonly<Record<string, string>>;
  }
}

/** Sends the head of an answer; the body is the caller's. */
export function takeOver(reply: FastifyReply): void {
  const { raw, request } = reply;
  reply.hijack();
  // What onSend would have done.
  request.ending.answered = true;
  raw.writeHead(reply.statusCode, {
    ...(reply.getHeaders() as Record<string, string>),
    ...reply.server.quotaHeaders(request),
  });
}

/**
 * Resolves when all has been sent, or the client has gone.
 *
 * @param body the next piece is asked for when the kernel has taken the one before: it may be in the same memory
 * @throws NoxError for what fails before the first piece; later, the answer is broken off
 */
export async function sendBytes(reply: FastifyReply, body: AsyncIterable<Uint8Array>): Promise<FastifyReply> {
  const { raw } = reply;
  const pieces = body[Symbol.asyncIterator]();
  let taken: (() => void) | undefined;
  raw.once('close', () => taken?.());
  try {
    let next = await pieces.next();
    takeOver(reply);
    for (; next.done !== true && !raw.destroyed; next = await pieces.next()) {
      const { value } = next;
      await new Promise<void>((resolve) => {
        taken = resolve;
        raw.write(value, () => {
          resolve();
        });
      });
    }
    raw.end();
  } catch (error) {
    if (!reply.sent) throw error;
    const gone = raw.destroyed;
    raw.destroy();
    if (!gone) throw error;
  } finally {
    await pieces.return?.();
  }
  return reply;
}

/** Answers whose bytes are written past Fastify, one piece after the other, as fast as the client takes them. */
import type { ServerResponse } from 'node:http';
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

/** The body of such an answer. */
export class ByteWriter {
  readonly #raw: ServerResponse;
  #taken: (() => void) | undefined;

  constructor(raw: ServerResponse) {
    this.#raw = raw;
    raw.once('close', () => this.#taken?.());
  }

  /** Resolves when the kernel has taken them, so that their memory may be used again, or the client has gone. */
  write(bytes: Uint8Array): Promise<void> {
    if (this.#raw.destroyed) return Promise.resolve();
    return new Promise((resolve) => {
      this.#taken = resolve;
      this.#raw.write(bytes, () => {
        resolve();
      });
    });
  }
}

/**
 * Resolves when all has been sent, or the client has gone.
 *
 * @throws NoxError for what fails before the first piece; later, the answer is broken off
 */
export async function sendBytes(reply: FastifyReply, body: AsyncIterable<Uint8Array>): Promise<FastifyReply> {
  const { raw } = reply;
  const pieces = body[Symbol.asyncIterator]();
  const writer = new ByteWriter(raw);
  try {
    let next = await pieces.next();
    takeOver(reply);
    for (; next.done !== true && !raw.destroyed; next = await pieces.next()) await writer.write(next.value);
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

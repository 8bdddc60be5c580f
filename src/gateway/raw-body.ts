import type { FastifyRequest } from 'fastify';
import { NoxError } from '../protocol/errors.ts';

/**
 * The bytes of a request, as they come. Whoever leaves them early does not close the connection: the refusal is still
 * to be sent on it.
 *
 * @throws NoxError `cancelled` when the client goes away before its end
 */
export async function* rawBody({ raw }: FastifyRequest): AsyncGenerator<Uint8Array> {
  try {
    yield* raw.iterator({ destroyOnReturn: false }) as AsyncIterable<Uint8Array>;
  } catch (cause) {
    throw new NoxError('cancelled', 'The upload broke off', { cause });
  }
}

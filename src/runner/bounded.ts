import { NoxError } from '../protocol/errors.ts';

/** A body within its bound, that ends with its signal even while the sender is silent. */
export async function* bounded(
  body: AsyncIterable<Uint8Array>,
  limit: number,
  signal: AbortSignal,
): AsyncGenerator<Uint8Array> {
  const aborted = Promise.withResolvers<never>();
  aborted.promise.catch(() => undefined);
  const onAbort = () => {
    aborted.reject(new NoxError('cancelled', 'The upload was cancelled'));
  };
  if (signal.aborted) onAbort();
  signal.addEventListener('abort', onAbort, { once: true });
  const source = body[Symbol.asyncIterator]();
  let bytes = 0;
  let finished = false;
  try {
    for (;;) {
      const next = await Promise.race([source.next(), aborted.promise]);
      finished = next.done === true;
      if (next.done === true) return;
      bytes += next.value.length;
      if (bytes > limit) throw new NoxError('payload_too_large', `The file has more than ${limit} bytes`);
      yield next.value;
    }
  } finally {
    signal.removeEventListener('abort', onAbort);
    // A sender that is silent does not hear this either: it is told, not waited for.
    if (!finished) source.return?.().then(undefined, () => undefined);
  }
}

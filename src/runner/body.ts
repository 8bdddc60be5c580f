import type { Socket } from 'node:net';
import { NoxError } from '../protocol/errors.ts';
import type { Framing, Pourable } from '../protocol/operations.ts';

/**
 * The bytes that follow an answer. What they are read from is let go of once: at the end, when the reader leaves, or,
 * if nobody begins to read, when the call is aborted.
 */
export class Body implements AsyncIterable<Uint8Array>, Pourable {
  readonly #source: AsyncGenerator<Uint8Array>;
  readonly #signal: AbortSignal;
  readonly #release: () => void;
  readonly #pour: Pourable['pour'] | undefined;
  #begun = false;
  #released = false;

  constructor(
    source: AsyncGenerator<Uint8Array>,
    release: () => void,
    signal: AbortSignal,
    pour?: Pourable['pour'],
  ) {
    this.#pour = pour;
    this.#source = source;
    this.#signal = signal;
    this.#release = () => {
      if (this.#released) return;
      this.#released = true;
      release();
    };
    const onAbort = () => {
      // Not under a read that is under way: its descriptor could be another file's by then.
      if (!this.#begun) this.#release();
    };
    if (signal.aborted) onAbort();
    else signal.addEventListener('abort', onAbort, { once: true });
  }

  async pour(socket: Socket, framing: Framing): Promise<boolean> {
    if (this.#released || this.#pour === undefined) return false;
    this.#begun = true;
    let poured = false;
    try {
      poured = await this.#pour(socket, framing);
    } finally {
      this.#begun = poured;
      if (poured || this.#signal.aborted) this.#release();
    }
    return poured;
  }

  [Symbol.asyncIterator](): AsyncIterator<Uint8Array> {
    const iterate = this.#iterate();
    return {
      next: () => {
        // Aborted before: its descriptor may be another file's by now.
        if (this.#released && !this.#begun) return Promise.reject(cancelled());
        this.#begun = true;
        return iterate.next();
      },
      return: async () => {
        // A generator that has not begun would not run its `finally`.
        if (!this.#begun) this.#release();
        await iterate.return(undefined);
        return { done: true, value: undefined };
      },
    };
  }

  async *#iterate(): AsyncGenerator<Uint8Array> {
    try {
      for await (const piece of this.#source) {
        yield piece;
        if (this.#signal.aborted) throw cancelled();
      }
    } finally {
      this.#release();
    }
  }
}

const cancelled = () => new NoxError('cancelled', 'The download was cancelled');

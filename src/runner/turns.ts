/**
 * Counts that clients bring about are made by few processes at one time, however many ask. Those for runs, of which
 * there are few, wait for nobody.
 */
const MAX = 2;
let taken = 0;
const waiting = new Set<() => void>();

export class Turn {
  readonly granted: Promise<void>;
  readonly #grant: () => void;
  #ended = false;

  /** The next, in the order in which they are made; `end` gives it to another. */
  constructor() {
    const { promise, resolve } = Promise.withResolvers<undefined>();
    this.granted = promise;
    this.#grant = () => {
      waiting.delete(this.#grant);
      taken += 1;
      resolve(undefined);
    };
    if (taken < MAX) this.#grant();
    else waiting.add(this.#grant);
  }

  /** At once: a run waits for it. */
  hurry(): void {
    if (waiting.has(this.#grant)) this.#grant();
  }

  /** Call once it was granted. */
  end(): void {
    if (this.#ended) return;
    this.#ended = true;
    taken -= 1;
    const [next] = waiting;
    if (taken < MAX) next?.();
  }
}

export async function inTurn<T>(work: () => Promise<T>): Promise<T> {
  const turn = new Turn();
  await turn.granted;
  try {
    return await work();
  } finally {
    turn.end();
  }
}

/** A fixed number of places for runs, and a bounded queue in front of them, first come first served. */
import { NoxError } from '../protocol/errors.ts';

export interface SlotsOptions {
  readonly slots: number;
  readonly queue: number;
  readonly waitSeconds: number;
}

interface Waiter {
  grant(slot: number): void;
  refuse(error: NoxError): void;
}

export class Slots {
  readonly #options: SlotsOptions;
  readonly #free: number[];
  readonly #waiting = new Set<Waiter>();
  #closed = false;

  constructor(options: SlotsOptions) {
    this.#options = options;
    this.#free = Array.from({ length: options.slots }, (_, index) => index);
  }

  get busy(): number {
    return this.#options.slots - this.#free.length;
  }

  get waiting(): number {
    return this.#waiting.size;
  }

  /**
   * Resolves to the number of a slot, which is the caller's until `release`.
   *
   * @throws NoxError `queue_full`, `queue_timeout`, `cancelled` or `shutting_down`
   */
  async acquire(signal: AbortSignal): Promise<number> {
    if (this.#closed) throw new NoxError('shutting_down', 'The server is stopping', { retryAfter: 1 });
    if (signal.aborted) throw new NoxError('cancelled', 'The run was cancelled before it began');
    const slot = this.#free.pop();
    if (slot !== undefined) return slot;
    if (this.#waiting.size >= this.#options.queue) {
      const { slots, queue } = this.#options;
      const message = `All ${String(slots)} slots are taken and ${String(queue)} runs are waiting`;
      throw new NoxError('queue_full', message, { retryAfter: 1 });
    }
    return this.#wait(signal);
  }

  /** Gives the slot to the longest waiting. Call once for each `acquire`, when nothing of the run is left. */
  release(slot: number): void {
    const [next] = this.#waiting;
    if (next === undefined) this.#free.push(slot);
    else next.grant(slot);
  }

  close(): void {
    this.#closed = true;
    for (const waiter of this.#waiting) {
      waiter.refuse(new NoxError('shutting_down', 'The server stopped while the run was waiting for a slot'));
    }
  }

  #wait(signal: AbortSignal): Promise<number> {
    const { waitSeconds } = this.#options;
    return new Promise<number>((resolve, reject) => {
      const settle = () => {
        this.#waiting.delete(waiter);
        clearTimeout(timer);
        signal.removeEventListener('abort', onAbort);
      };
      const waiter: Waiter = {
        grant: (slot) => {
          settle();
          resolve(slot);
        },
        refuse: (error) => {
          settle();
          reject(error);
        },
      };
      const onAbort = () => {
        waiter.refuse(new NoxError('cancelled', 'The run was cancelled while it waited for a slot'));
      };
      const timer = setTimeout(() => {
        const message = `No slot became free within ${String(waitSeconds)} s`;
        waiter.refuse(new NoxError('queue_timeout', message, { retryAfter: 1 }));
      }, waitSeconds * 1000);
      signal.addEventListener('abort', onAbort, { once: true });
      this.#waiting.add(waiter);
    });
  }
}

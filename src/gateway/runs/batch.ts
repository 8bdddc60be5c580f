/**
 * Many runs of one call. Of all batches together only a little more than the slots is with the runner at a time: its
 * slots are busy, and its queue is there for others.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { NoxError } from '../../protocol/errors.ts';
import type { Principal } from '../principal.ts';
import type { Quota } from '../quota.ts';
import { requireResult } from './answer.ts';
import type { Output, RunBook } from './book.ts';
import type { RunOrder } from './keeper.ts';
import type { LiveRun } from './live.ts';
import { orderOf } from './order.ts';
import type { ItemBody } from './request.ts';

/** While results of so many bytes wait to be taken, nothing more is begun. */
const HELD_BYTES = 32 * 1024 * 1024;
/** How often an item is tried again that its token's other runs leave no room. */
const RETRY_MS = 200;

export type BatchResult = { readonly index: number } & (
  { readonly run: LiveRun; readonly output: Output } | { readonly error: NoxError }
);

export interface BatchCall {
  readonly items: readonly ItemBody[];
  readonly principal: Principal;
  readonly requestId: string;
  /** What has not begun when an item fails is not run. */
  readonly stopOnFailure: boolean;
  /** Results in the order of the items, not as they are there. */
  readonly ordered: boolean;
}

export interface BatchOptions {
  readonly book: RunBook;
  readonly quota: Quota;
  readonly cpuSeconds: number;
  readonly slots: number;
  /** How long an item may find no room (NOX_QUEUE_WAIT). */
  readonly queueWaitSeconds: number;
}

export class Batches {
  readonly #options: BatchOptions;
  readonly #width: number;
  readonly #gate: Gate;

  constructor(options: BatchOptions) {
    this.#options = options;
    this.#width = options.slots + 1;
    this.#gate = new Gate(this.#width);
  }

  /**
   * A result for each item. One that is left early, or whose signal is aborted, ends what runs and begins nothing more.
   *
   * @param signal aborted: it ends, perhaps without all results
   */
  async *run(call: BatchCall, signal: AbortSignal): AsyncGenerator<BatchResult> {
    const { items, principal, stopOnFailure, ordered } = call;
    const left = new AbortController();
    const stop = AbortSignal.any([signal, left.signal]);
    const width = Math.min(this.#width, principal.quotas.concurrentRuns ?? Infinity);
    const results = new Map<number, BatchResult>();
    let next = 0;
    let running = 0;
    let held = 0;
    let failed = false;
    let wake: () => void = () => undefined;
    const take = (result: BatchResult) => {
      results.set(result.index, result);
      held += bytesOf(result);
      failed ||= !('run' in result) || result.run.record.result?.outcome !== 'ok';
      wake();
    };
    const begin = () => {
      while (next < items.length && running < width && held <= HELD_BYTES && !stop.aborted) {
        const index = next++;
        const stopped = () => stopOnFailure && failed;
        running += 1;
        void this.#one(call, index, stop, stopped).then((result) => {
          running -= 1;
          take(result);
          begin();
        });
      }
    };
    try {
      for (let sent = 0; sent < items.length;) {
        begin();
        const result = ordered ? results.get(sent) : results.values().next().value;
        if (result !== undefined) {
          results.delete(result.index);
          sent += 1;
          yield result;
          held -= bytesOf(result);
        } else if (running === 0) return;
        else
          await new Promise<void>((resolve) => {
            wake = resolve;
          });
      }
    } finally {
      left.abort();
    }
  }

  /** Never rejects. */
  async #one(
    call: BatchCall,
    index: number,
    stop: AbortSignal,
    stopped: () => boolean,
  ): Promise<BatchResult> {
    const { book, queueWaitSeconds } = this.#options;
    const patienceMs = queueWaitSeconds * 1000;
    try {
      return await this.#gate.through(async () => {
        const order = await this.#admitted(call, index, stop, stopped);
        const { run, output } = await book.wait(order, stop, patienceMs);
        requireResult(run);
        return { index, run, output };
      });
    } catch (error) {
      if (error instanceof NoxError) return { index, error };
      const cause = { cause: error };
      return { index, error: new NoxError('internal', 'The server failed; its log has the reason', cause) };
    }
  }

  /** Other runs of the token are waited for, as for a slot. */
  async #admitted(
    { items, principal, requestId }: BatchCall,
    index: number,
    stop: AbortSignal,
    stopped: () => boolean,
  ): Promise<RunOrder> {
    const body = items[index] ?? {};
    for (const until = performance.now() + this.#options.queueWaitSeconds * 1000; ;) {
      if (stop.aborted) throw new NoxError('cancelled', 'The client went away before the run began');
      if (stopped()) throw new NoxError('not_run', 'Another item of the batch failed before this one began');
      try {
        return orderOf(this.#options, { body, principal, requestId, whole: false });
      } catch (error) {
        if (!endsWithARun(error) || performance.now() > until) throw error;
        await sleep(RETRY_MS, undefined, { signal: stop }).catch(() => undefined);
      }
    }
  }
}

/** A quota that is full only as long as other runs of the token are under way (quota.ts). */
function endsWithARun(error: unknown): boolean {
  return error instanceof NoxError && error.code === 'quota_exceeded' && error.retryAfter === 1;
}

/** Of its output. */
function bytesOf(result: BatchResult): number {
  if (!('output' in result)) return 0;
  return Object.values(result.output)
    .flat()
    .reduce((sum, { length }) => sum + length, 0);
}

/** Lets so many in at a time, in the order in which they came. */
class Gate {
  readonly #waiting: (() => void)[] = [];
  #room: number;

  constructor(room: number) {
    this.#room = room;
  }

  async through<T>(work: () => Promise<T>): Promise<T> {
    if (this.#room > 0) this.#room -= 1;
    else
      await new Promise<void>((resolve) => {
        this.#waiting.push(resolve);
      });
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#room += 1;
      else next();
    }
  }
}

/**
 * Runs that go on without their clients: accepted when they are on the disk, begun when there is room, in their order.
 *
 * At most once: a run is marked as begun, on the disk, before the runner hears of it. What a crash finds so marked has
 * run or not, and ends as `sandbox_error`; what it finds waiting is run by the next server.
 */
import type { Logger } from 'pino';
import { NoxError } from '../../protocol/errors.ts';
import type { Executor } from '../../protocol/executor.ts';
import type { RunRequest } from '../../protocol/messages.ts';
import { ADMIN } from '../principal.ts';
import type { Store } from '../store/store.ts';
import { recordOf, type RunKeeper, type RunOrder } from './keeper.ts';
import { LiveRun, type RunObserver } from './live.ts';
import type { FileLog } from './log.ts';
import type { RunRecord } from './record.ts';
import { Logged } from './sink.ts';
import type { Spool } from './spool.ts';

/** How often a run that could not begin is tried again. */
const RETRY_MS = 500;

export interface BackgroundOptions {
  readonly executor: Executor;
  readonly store: Store;
  readonly keeper: RunKeeper;
  readonly spool: Spool;
  /** Runs at one time. */
  readonly slots: number;
  /** Runs that may wait (NOX_BACKGROUND_QUEUE). */
  readonly queue: number;
  readonly log: Logger;
}

export class Background {
  readonly #options: BackgroundOptions;
  readonly #observer: RunObserver;
  readonly #logs = new Map<string, FileLog>();
  readonly #queued: LiveRun[] = [];
  readonly #running = new Set<LiveRun>();
  #retry: NodeJS.Timeout | undefined;
  #stopping = false;
  #whenIdle: (() => void) | undefined;

  constructor(options: BackgroundOptions, observer: RunObserver) {
    this.#options = options;
    this.#observer = observer;
  }

  /** Takes up what a stop or a crash has left. */
  async resume(): Promise<LiveRun[]> {
    const { store, log } = this.#options;
    const { ended, queued } = store.runs.interrupted();
    if (ended.length + queued.length > 0)
      log.info({ cutOff: ended.length, waiting: queued.length }, 'runs taken up');
    const runs: LiveRun[] = [];
    for (const id of queued) {
      const request = store.runs.request(id);
      if (request === undefined)
        store.runs.finish(id, { outcome: 'sandbox_error', reason: 'The request is not kept any more' });
      else
        runs.push(
          await this.#enqueue(
            recordOf(store.runs.get(id, ADMIN), undefined),
            JSON.parse(request) as RunRequest,
          ),
        );
    }
    return runs;
  }

  /**
   * Accepts a run: on the disk when this returns.
   *
   * @param together what is to be on the disk with it, or not at all; returns false to take nothing
   * @throws NoxError `queue_full`
   */
  async accept(order: RunOrder, together: (id: string) => boolean): Promise<LiveRun | undefined> {
    const { queue, store, keeper } = this.#options;
    if (this.#stopping) throw new NoxError('shutting_down', 'The server is stopping', { retryAfter: 1 });
    if (this.#queued.length >= queue) {
      const message = `${String(queue)} runs are waiting in the background (NOX_BACKGROUND_QUEUE)`;
      throw new NoxError('queue_full', message, { retryAfter: 5 });
    }
    const record = keeper.newRecord(order);
    const taken = store.durably(() => {
      if (!together(record.id)) return false;
      keeper.insert(record, order.request);
      return true;
    });
    return taken ? this.#enqueue(record, order.request) : undefined;
  }

  /** Begins what there is room for. */
  dispatch(): void {
    const { slots } = this.#options;
    while (!this.#stopping && this.#retry === undefined && this.#running.size < slots) {
      const run = this.#queued.shift();
      if (run === undefined) return;
      void this.#run(run);
    }
  }

  /** @returns undefined where it is not alive here */
  read(id: string, after: number | undefined, signal: AbortSignal): AsyncGenerator<Buffer> | undefined {
    return this.#logs.get(id)?.read(after, signal);
  }

  /** @returns whether it waited, and is now ended */
  drop(run: LiveRun): boolean {
    const at = this.#queued.indexOf(run);
    if (at < 0) return false;
    this.#queued.splice(at, 1);
    run.drop('client');
    this.#logs.delete(run.record.id);
    return true;
  }

  /** Begins nothing more; what has not ended after its grace is ended. What waits is for the next server. */
  async stop(graceMs: number, cleanupMs: number): Promise<void> {
    this.#stopping = true;
    clearTimeout(this.#retry);
    if (await this.#idle(graceMs)) return;
    for (const run of this.#running) run.cancel('stopped');
    await this.#idle(cleanupMs);
  }

  async #enqueue(record: RunRecord, request: RunRequest): Promise<LiveRun> {
    const log = await this.#options.spool.create(record.id);
    const abort = new AbortController();
    const run = new LiveRun(record, request, abort, new Logged(log, abort.signal), this.#observer);
    this.#logs.set(record.id, log);
    this.#queued.push(run);
    return run;
  }

  async #run(run: LiveRun): Promise<void> {
    const { executor, store, log } = this.#options;
    const { id } = run.record;
    this.#running.add(run);
    let ended = false;
    try {
      store.durably(() => store.runs.markRunning(id));
      ended = await run.execute(executor, true);
      if (!ended) store.runs.markQueued(id);
    } catch (error) {
      // A full disk, say: it has not begun, and waits.
      log.error({ err: error }, 'state: a run in the background cannot be begun');
    }
    this.#running.delete(run);
    if (ended) this.#logs.delete(id);
    else {
      this.#queued.unshift(run);
      this.#retry = setTimeout(() => {
        this.#retry = undefined;
        this.dispatch();
      }, RETRY_MS).unref();
    }
    if (this.#running.size === 0) this.#whenIdle?.();
    this.dispatch();
  }

  /** @returns false if something runs after this time */
  async #idle(ms: number): Promise<boolean> {
    if (this.#running.size === 0) return true;
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        resolve(false);
      }, ms);
      this.#whenIdle = () => {
        clearTimeout(timer);
        resolve(true);
      };
    });
  }
}

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
import { newRunId } from '../store/ids.ts';
import type { Store } from '../store/store.ts';
import { recordOf, type RunKeeper, type RunOrder } from './keeper.ts';
import { LiveRun, type CancelReason, type RunObserver } from './live.ts';
import type { FileLog } from './log.ts';
import type { RunRecord } from './record.ts';
import { Logged } from './sink.ts';
import type { Spool } from './spool.ts';

/** How often a run that could not begin is tried again. */
const RETRY_MS = 500;
/** Of the requests of those that have not ended, which are in memory. */
const QUEUE_BYTES = 256 * 1024 * 1024;

export interface BackgroundOptions {
  readonly executor: Executor;
  readonly store: Store;
  readonly keeper: RunKeeper;
  readonly spool: Spool;
  /** Runs at one time. */
  readonly slots: number;
  /** Runs that may wait (NOX_BACKGROUND_QUEUE). */
  readonly queue: number;
  /** Default: 256 MiB. */
  readonly queueBytes?: number;
  readonly log: Logger;
}

export class Background {
  readonly #options: BackgroundOptions;
  readonly #observer: RunObserver;
  readonly #logs = new Map<string, FileLog>();
  readonly #queued: LiveRun[] = [];
  readonly #running = new Set<LiveRun>();
  /** Those that have not ended: the place of each in the order in which they came, and the bytes of its request. */
  readonly #open = new Map<LiveRun, { readonly place: number; readonly bytes: number }>();
  #places = 0;
  #allBytes = 0;
  #retry: NodeJS.Timeout | undefined;
  #stopping = false;
  #whenIdle: (() => void) | undefined;

  constructor(options: BackgroundOptions, observer: RunObserver) {
    this.#options = options;
    this.#observer = observer;
  }

  /** Takes up what a stop or a crash has left. */
  resume(): LiveRun[] {
    const { store, spool, log } = this.#options;
    const { ended, queued } = store.runs.interrupted();
    if (ended.length + queued.length > 0)
      log.info({ cutOff: ended.length, waiting: queued.length }, 'runs taken up');
    const runs: LiveRun[] = [];
    for (const id of queued) {
      const request = store.runs.request(id);
      if (request === undefined)
        store.runs.finish(id, { outcome: 'sandbox_error', reason: 'The request is not kept any more' });
      else {
        const record = recordOf(store.runs.get(id, ADMIN), undefined);
        runs.push(this.#enqueue(record, JSON.parse(request) as RunRequest, request.length, spool.create(id)));
      }
    }
    return runs;
  }

  /**
   * Accepts a run: on the disk when this returns.
   *
   * @param take makes the order of it, and puts on the disk what is to be there with it or not at all; returns
   *   undefined to take nothing
   * @throws NoxError `queue_full`
   */
  accept(take: (id: string) => RunOrder | undefined): { order: RunOrder; run: LiveRun } | undefined {
    const { store, keeper, spool } = this.#options;
    if (this.#stopping) throw new NoxError('shutting_down', 'The server is stopping', { retryAfter: 1 });
    const id = newRunId(Date.now());
    let order: RunOrder | undefined;
    // The list has the runs in the order in which they came.
    keeper.write();
    try {
      const taken = store.durably(() => {
        order = take(id);
        if (order === undefined) return undefined;
        const bytes = JSON.stringify(order.request).length;
        this.#checkRoom(bytes);
        const record = keeper.newRecord(order, id);
        // What can fail comes before: what is on the disk is accepted.
        const events = spool.create(id);
        keeper.insert(record, order.request);
        return { order, record, bytes, events };
      });
      if (taken === undefined) return undefined;
      const { record, bytes, events } = taken;
      return { order: taken.order, run: this.#enqueue(record, taken.order.request, bytes, events) };
    } catch (error) {
      order?.admission?.release();
      throw error;
    }
  }

  #checkRoom(bytes: number): void {
    const { queue, queueBytes = QUEUE_BYTES } = this.#options;
    const full = (message: string) => new NoxError('queue_full', message, { retryAfter: 5 });
    if (this.#queued.length >= queue)
      throw full(`${String(queue)} runs are waiting in the background (NOX_BACKGROUND_QUEUE)`);
    if (this.#allBytes + bytes > queueBytes)
      throw full(`The requests of the runs in the background may have ${String(queueBytes)} bytes together`);
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
  read(
    id: string,
    after: number | undefined,
    signal: AbortSignal,
  ): Promise<AsyncIterable<Buffer>> | undefined {
    return this.#logs.get(id)?.read(after, signal);
  }

  /** @returns whether it waited, and is now ended */
  drop(run: LiveRun, why: CancelReason): boolean {
    const at = this.#queued.indexOf(run);
    if (at < 0) return false;
    this.#queued.splice(at, 1);
    run.drop(why);
    this.#forget(run);
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

  #enqueue(record: RunRecord, request: RunRequest, bytes: number, log: FileLog): LiveRun {
    const abort = new AbortController();
    const run = new LiveRun(record, request, abort, new Logged(log, abort.signal), this.#observer);
    this.#logs.set(record.id, log);
    this.#open.set(run, { place: (this.#places += 1), bytes });
    this.#allBytes += bytes;
    this.#queued.push(run);
    return run;
  }

  /** One that could not begin waits again where it has waited. */
  #putBack(run: LiveRun): void {
    const placeOf = (each: LiveRun) => this.#open.get(each)?.place ?? 0;
    const next = this.#queued.findIndex((each) => placeOf(each) > placeOf(run));
    this.#queued.splice(next < 0 ? this.#queued.length : next, 0, run);
  }

  /** When its events are whole on the disk: until then they are read here. */
  #forget(run: LiveRun): void {
    const { id } = run.record;
    this.#allBytes -= this.#open.get(run)?.bytes ?? 0;
    this.#open.delete(run);
    void this.#logs.get(id)?.letGo(() => this.#logs.delete(id));
  }

  async #run(run: LiveRun): Promise<void> {
    const { executor, store, log } = this.#options;
    const { id } = run.record;
    this.#running.add(run);
    let ended = false;
    try {
      store.durably(() => store.runs.markRunning(id));
      ended = await run.execute(executor, () => true);
      if (!ended) store.runs.markQueued(id);
    } catch (error) {
      // A full disk, say, of which the database has told: it has not begun, and waits.
      if (!(error instanceof NoxError))
        log.error({ err: error }, 'state: a run in the background cannot be begun');
    }
    this.#running.delete(run);
    if (ended) this.#forget(run);
    else {
      this.#putBack(run);
      this.#retry ??= setTimeout(() => {
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

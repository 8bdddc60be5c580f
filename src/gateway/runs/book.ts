/**
 * All runs that the gateway knows: those that are alive here, and those that the store keeps.
 *
 * Three ways to be run. `wait`: the client waits for the result; nothing but the record is kept. `watch`: the client
 * reads the events as they come (watching.ts). `background`: the client need not be there (background.ts).
 */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { NoxError } from '../../protocol/errors.ts';
import type { Executor } from '../../protocol/executor.ts';
import type { StreamName } from '../../protocol/messages.ts';
import { BoundedOutput } from '../../protocol/output.ts';
import { ADMIN, type Principal } from '../principal.ts';
import type { Admission } from '../quota.ts';
import type { RunFilter } from '../store/runs.ts';
import type { Store } from '../store/store.ts';
import { Background } from './background.ts';
import { linesOf, outputOf } from './events.ts';
import { recordOf, RunKeeper, type RunOrder } from './keeper.ts';
import { LiveRun, type CancelReason, type RunObserver } from './live.ts';
import { MemoryLog } from './log.ts';
import { viewOf, type RunRecord } from './record.ts';
import { Collected, Logged, type OutputSink } from './sink.ts';
import type { Spool } from './spool.ts';
import { Watching } from './watching.ts';

/** How often a run that found no room is tried again. */
const RETRY_MS = 100;
const TIDY_MS = 10 * 60_000;
/** In this time a run that was told to end has ended. */
const CLEANUP_MS = 5000;

type Filter = Omit<RunFilter, 'ended'> & { readonly state?: RunRecord['state'] | undefined };
interface Page {
  readonly runs: readonly RunRecord[];
  /** The `after` of the next page, null at the end. */
  readonly next: string | null;
}

export type Output = Readonly<Record<StreamName, Uint8Array[]>>;

export interface RunBookOptions {
  readonly executor: Executor;
  readonly store: Store;
  readonly spool: Spool;
  readonly slots: number;
  readonly queue: number;
  readonly queueBytes?: number;
  /** What is shown of each stream of a run that is kept, in bytes. */
  readonly outputBytes: number;
  /** Told of the end of each run whose client does not wait for it. */
  readonly onEnd: (run: LiveRun) => void;
  readonly log: Logger;
}

export class RunBook implements RunObserver {
  readonly #options: RunBookOptions;
  readonly #keeper: RunKeeper;
  readonly #background: Background;
  readonly #watching = new Watching();
  readonly #live = new Map<string, LiveRun>();
  readonly #waitedFor = new Set<LiveRun>();
  readonly #admissions = new Map<string, Admission>();
  readonly #tidying: NodeJS.Timeout;
  #stopping = false;

  constructor(options: RunBookOptions) {
    this.#options = options;
    this.#keeper = new RunKeeper(options.store, options.log);
    this.#background = new Background({ ...options, keeper: this.#keeper }, this);
    this.#tidying = setInterval(() => {
      this.#tidy();
    }, TIDY_MS).unref();
  }

  /** Takes up what an earlier server has left. Call once, before anything else. */
  resume(): void {
    for (const run of this.#background.resume()) this.#live.set(run.record.id, run);
    this.#background.dispatch();
    this.#tidy();
  }

  /**
   * Runs it while its client waits.
   *
   * @param signal aborted when the client goes, or is sent away
   * @param patienceMs for so long a run is tried again that finds no room
   */
  async wait(
    order: RunOrder,
    signal: AbortSignal,
    patienceMs = 0,
  ): Promise<{ run: LiveRun; output: Output }> {
    const sink = new Collected();
    const run = new LiveRun(this.#keeper.newRecord(order), order.request, new AbortController(), sink, this);
    const until = performance.now() + patienceMs;
    const mayWait = ({ code }: NoxError) => code !== 'queue_timeout' && performance.now() < until;
    // The request leaves with it: the rest is done while the runner is at work.
    const done = this.#insist(run, mayWait);
    const off = this.#endWith(run, signal);
    this.#waitedFor.add(run);
    this.#attend(run, order);
    await done;
    off();
    return { run, output: sink.streams };
  }

  /** Begins a run whose events go to a sink of its client's. What keeps it from beginning is its `failure`. */
  attend(order: RunOrder, sink: OutputSink, signal: AbortSignal): LiveRun {
    const run = new LiveRun(this.#keeper.newRecord(order), order.request, new AbortController(), sink, this);
    const done = run.execute(this.#options.executor);
    const off = this.#endWith(run, signal);
    this.#attend(run, order);
    void done.then(off);
    return run;
  }

  /**
   * Begins a run whose events are then read.
   *
   * @throws NoxError that kept it from beginning
   */
  async watch(order: RunOrder, signal: AbortSignal): Promise<LiveRun> {
    const abort = new AbortController();
    const log = new MemoryLog();
    const sink = new Logged(log, abort.signal);
    const run = new LiveRun(this.#keeper.newRecord(order), order.request, abort, sink, this);
    void run.execute(this.#options.executor);
    const off = this.#endWith(run, signal);
    this.#watching.add(run, log);
    this.#attend(run, order);
    try {
      await run.begun;
      return run;
    } catch (error) {
      this.#watching.remove(run.record.id);
      throw error;
    } finally {
      off();
    }
  }

  /** See Background.accept. */
  background(take: (id: string) => RunOrder | undefined): void {
    const accepted = this.#background.accept(take);
    if (accepted === undefined) return;
    this.#begin(accepted.run, accepted.order);
    this.#background.dispatch();
  }

  /** @throws NoxError `run_not_found` */
  record(id: string, principal: Principal): RunRecord {
    const live = this.#find(id, principal);
    if (live !== undefined) return live.record;
    this.#keeper.write();
    const { runs } = this.#options.store;
    const row = runs.get(id, principal);
    return this.#keeper.unwritten(id) ?? recordOf(row, runs.result(id));
  }

  /** See Runs.page. Of those that are alive it is known here which have begun. */
  page(principal: Principal, { state, ...others }: Filter, limit: number, after?: string): Page {
    this.#keeper.write();
    const filter = state === undefined ? others : { ...others, ended: state === 'ended' };
    const { runs, next } = this.#options.store.runs.page(principal, filter, limit, after);
    const records = runs.map(
      (row) => this.#live.get(row.id)?.record ?? this.#keeper.unwritten(row.id) ?? recordOf(row, undefined),
    );
    return { runs: records.filter((record) => state === undefined || record.state === state), next };
  }

  /** One that has not ended. @throws NoxError `run_not_found`, `run_ended` */
  alive(id: string, principal: Principal): LiveRun {
    const { state } = this.record(id, principal);
    const run = this.#find(id, principal);
    if (run === undefined || state === 'ended') throw new NoxError('run_ended', `The run ${id} has ended`);
    return run;
  }

  /** @throws NoxError `run_not_found`, `run_ended` */
  cancel(id: string, principal: Principal): LiveRun {
    const run = this.alive(id, principal);
    this.#end(run, 'client');
    return run;
  }

  /** Ends all runs of a token that has been revoked; those that wait do not begin. */
  cancelAll(owner: string): void {
    for (const run of [...this.#live.values()]) if (run.record.owner === owner) this.#end(run, 'revoked');
  }

  #end(run: LiveRun, why: CancelReason): void {
    if (!this.#background.drop(run, why)) run.cancel(why);
  }

  /**
   * The events of a run: all, or those after one of them.
   *
   * @throws NoxError `run_not_found`; PlaceError
   */
  async events(
    id: string,
    principal: Principal,
    after: number | undefined,
    signal: AbortSignal,
  ): Promise<AsyncIterable<Buffer>> {
    const record = this.record(id, principal);
    const live = this.#watching.read(id, after, signal) ?? this.#background.read(id, after, signal);
    if (live !== undefined) return live;
    const { spool } = this.#options;
    // Without room for it the events are read as they are.
    if (record.state === 'ended') await spool.complete(id, viewOf(record)).catch(() => undefined);
    const log = await spool.open(id);
    try {
      return await log.read(after, signal);
    } finally {
      await log.letGo();
    }
  }

  /** What is kept of the output of a run, head and tail of each stream. @throws NoxError `run_not_found`; PlaceError */
  async output(id: string, principal: Principal): Promise<Output> {
    const kept: Output = { stdout: [], stderr: [], compile: [] };
    const bounds = new Map(
      (Object.keys(kept) as StreamName[]).map((name) => {
        const take = (data: Uint8Array) => kept[name].push(Buffer.from(data));
        return [name, new BoundedOutput(this.#options.outputBytes, take)];
      }),
    );
    const events = await this.events(id, principal, undefined, new AbortController().signal);
    for await (const lines of events) {
      for (const line of linesOf(lines)) {
        const output = outputOf(line);
        if (output !== undefined) bounds.get(output.stream)?.write(output.data);
      }
    }
    for (const each of bounds.values()) each.end();
    return kept;
  }

  /** Runs in the background have a time to come to their end, then they are ended by name. */
  async stop(graceSeconds: number): Promise<void> {
    this.#stopping = true;
    clearInterval(this.#tidying);
    const graceMs = graceSeconds * 1000;
    await Promise.all([this.#background.stop(graceMs, CLEANUP_MS), this.#watching.stop(graceMs)]);
    this.#keeper.stop();
  }

  started(run: LiveRun): void {
    // What is not in the background was kept as begun.
    this.#live.set(run.record.id, run);
  }

  ended(run: LiveRun): void {
    const { id } = run.record;
    this.#keeper.charge(run, this.#admissions.get(id));
    this.#admissions.delete(id);
    this.#watching.ended(id);
    if (!this.#waitedFor.delete(run)) this.#options.onEnd(run);
    this.#keeper.finish(run.record);
    this.#live.delete(id);
  }

  async #insist(run: LiveRun, mayWait: (error: NoxError) => boolean): Promise<void> {
    while (!(await run.execute(this.#options.executor, mayWait)))
      await sleep(RETRY_MS, undefined, { signal: run.abort.signal }).catch(() => undefined);
  }

  #begin(run: LiveRun, { admission }: RunOrder): void {
    this.#live.set(run.record.id, run);
    if (admission !== undefined) this.#admissions.set(run.record.id, admission);
  }

  #attend(run: LiveRun, order: RunOrder): void {
    this.#begin(run, order);
    this.#keeper.begin(run.record);
  }

  #endWith(run: LiveRun, signal: AbortSignal): () => void {
    const onAbort = () => {
      run.cancel(this.#stopping ? 'stopped' : 'client');
    };
    signal.addEventListener('abort', onAbort, { once: true });
    if (signal.aborted) onAbort();
    return () => {
      signal.removeEventListener('abort', onAbort);
    };
  }

  #find(id: string, principal: Principal): LiveRun | undefined {
    const run = this.#live.get(id) ?? this.#watching.run(id);
    if (run === undefined) return undefined;
    return principal.scopes.has('admin') || run.record.owner === principal.id ? run : undefined;
  }

  #tidy(): void {
    const { spool, store, log } = this.#options;
    const kept = (id: string) => {
      try {
        return store.runs.get(id, ADMIN).id === id;
      } catch {
        return false;
      }
    };
    spool
      .tidy(kept, (id) => this.#live.has(id))
      .catch((error: unknown) => {
        log.error({ err: error }, 'state: the output of runs cannot be tidied');
      });
  }
}

/** The runner itself: slots in front of runs, files of the workspace, and what it says about its health. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { NoxError } from '../protocol/errors.ts';
import type { Executor } from '../protocol/executor.ts';
import type { Asks, Fetched, Fetches, Sends } from '../protocol/operations.ts';
import { LIMIT_NAMES, LIMITS, type Limits, type LimitsRequest } from '../protocol/limits.ts';
import {
  ARGUMENTS_MAX_BYTES,
  ARGUMENT_MAX,
  PutRequest,
  RunRequest,
  type Health,
  type PutResult,
  type RunEvent,
  type RunInput,
  type RunResult,
} from '../protocol/messages.ts';
import type { Outcome } from '../protocol/outcome.ts';
import type { RunnerStatus } from '../protocol/status.ts';
import { validator } from '../protocol/validate.ts';
import { bounded } from './bounded.ts';
import { checkOperation, type Handlers } from './operations.ts';
import { executeRun, type RunContext, type RunOrder, type RunSink } from './run.ts';
import { Slots, type SlotsOptions } from './slots.ts';
import { pathNames } from './workspace.ts';
import { DEFAULT_WORKSPACE } from './workspaces.ts';

export interface LocalExecutorOptions {
  readonly context: RunContext;
  readonly slots: SlotsOptions;
  readonly limits: Limits;
  readonly maxUploadBytes: number;
  readonly handlers: Handlers;
  readonly log: Logger;
}

const OK: Health = { ok: true, status: 'ok' };
/** How often a runner that cannot run code tries whether it can again. */
const RETRY_MS = 1000;
/** Outcomes that only a program that really ran can have. */
const PROGRAM_RAN: ReadonlySet<Outcome> = new Set(['ok', 'failed', 'signaled', 'cpu_limit', 'process_limit']);
/** Conditions of a file system that say nothing about the request. */
const MACHINE_FULL = ['ENOSPC', 'EDQUOT'];

const checkRun = validator(RunRequest);
const checkPut = validator(PutRequest);

export class LocalExecutor implements Executor {
  readonly #options: LocalExecutorOptions;
  readonly #slots: Slots;
  readonly #closing = new AbortController();
  /** Of the runs that are alive. */
  readonly #stops = new Set<AbortController>();
  readonly #live = new Set<Promise<unknown>>();
  #stopping = false;
  #health: Health = OK;
  #retry: NodeJS.Timeout | undefined;

  constructor(options: LocalExecutorOptions) {
    this.#options = options;
    this.#slots = new Slots(options.slots);
  }

  async *run(
    request: RunRequest,
    signal: AbortSignal,
    input?: AsyncIterable<RunInput>,
  ): AsyncGenerator<RunEvent> {
    const checked = checkArguments(checkRun(request));
    const limits = lowerLimits(this.#options.limits, checked.limits);
    // What AbortSignal.any would do, which costs as much as the rest of this method.
    const stop = new AbortController();
    const onAbort = () => {
      // With a reason: without one an exception is made, with its stack, for nobody.
      stop.abort('aborted');
    };
    if (signal.aborted || this.#closing.signal.aborted) onAbort();
    signal.addEventListener('abort', onAbort);
    this.#stops.add(stop);
    try {
      const asked = performance.now();
      // Counted already now: a close in the moment in which the slot is granted must wait for this run as well.
      const granted = this.#slots.acquire(stop.signal);
      this.#track(granted);
      const slot = await granted;
      const queue = new EventQueue();
      const queueSeconds = (performance.now() - asked) / 1000;
      const order = { slot, request: checked, limits, input, queueSeconds, log: this.#options.log };
      const done = this.#execute(order, stop, queue);
      this.#track(done);
      try {
        for await (const event of queue) {
          if (event.type === 'end' && signal.aborted)
            throw new NoxError('cancelled', 'The run was cancelled');
          yield event;
        }
      } finally {
        onAbort();
        await done;
      }
    } finally {
      signal.removeEventListener('abort', onAbort);
      this.#stops.delete(stop);
    }
  }

  async #execute(order: RunOrder, stop: AbortController, queue: EventQueue): Promise<void> {
    const { slot, request, log } = order;
    try {
      const result = await executeRun(this.#options.context, order, stop, queue);
      this.#judge(verdictOf(result));
      const { outcome, exitCode, signal: ended, usage } = result;
      log.info({ requestId: request.id, outcome, exitCode, signal: ended, usage }, 'run');
      queue.push({ type: 'end', result });
    } catch (error) {
      const known = this.#toNoxError(error, request.id);
      if (known.code === 'sandbox_error') this.#judge('broken');
      queue.fail(known);
    } finally {
      this.#slots.release(slot);
    }
  }

  async put(request: PutRequest, body: AsyncIterable<Uint8Array>, signal: AbortSignal): Promise<PutResult> {
    const { id, path } = checkPut(request);
    if (this.#stopping) throw new NoxError('shutting_down', 'The server is stopping', { retryAfter: 1 });
    // Before the body: a wrong path must not cost an upload.
    pathNames(path);
    const state = this.#options.context.workspaces.get(DEFAULT_WORKSPACE);
    state.placeholder.remove();
    const work = state.change(AbortSignal.any([signal, this.#closing.signal]), (stop) =>
      state.workspace.write(path, bounded(body, this.#options.maxUploadBytes, stop), state.disk),
    );
    this.#track(work);
    try {
      const result = await work;
      this.#options.log.info({ requestId: id, bytes: result.bytes }, 'put');
      return result;
    } catch (error) {
      throw this.#toNoxError(error, id);
    }
  }

  async ask<Name extends keyof Asks>(
    name: Name,
    request: Asks[Name]['request'],
    signal: AbortSignal,
  ): Promise<Asks[Name]['answer']> {
    const handle = this.#options.handlers.ask[name];
    const checked = checkOperation('ask', name, request);
    return this.#operation(name, signal, (stop) => handle(checked, stop));
  }

  async send<Name extends keyof Sends>(
    name: Name,
    request: Sends[Name]['request'],
    body: AsyncIterable<Uint8Array>,
    signal: AbortSignal,
  ): Promise<Sends[Name]['answer']> {
    const handle = this.#options.handlers.send[name];
    const checked = checkOperation('send', name, request);
    return this.#operation(name, signal, (stop) => handle(checked, body, stop));
  }

  async fetch<Name extends keyof Fetches>(
    name: Name,
    request: Fetches[Name]['request'],
    signal: AbortSignal,
  ): Promise<Fetched<Fetches[Name]['answer']>> {
    const handle = this.#options.handlers.fetch[name];
    const checked = checkOperation('fetch', name, request);
    return this.#operation(name, signal, (stop) => handle(checked, stop));
  }

  /** Counted, so that a stop waits for it; ended by a stop. */
  async #operation<T>(
    name: string,
    signal: AbortSignal,
    work: (stop: AbortSignal) => Promise<T>,
  ): Promise<T> {
    if (this.#stopping) throw new NoxError('shutting_down', 'The server is stopping', { retryAfter: 1 });
    const done = work(AbortSignal.any([signal, this.#closing.signal]));
    this.#track(done);
    try {
      return await done;
    } catch (error) {
      throw this.#toNoxError(error, name);
    }
  }

  health(): Promise<Health> {
    return Promise.resolve(this.#stopping ? { ok: false, status: 'stopping' } : this.#health);
  }

  status(): RunnerStatus {
    const { queue, slots } = this.#options.slots;
    return {
      queue: { waiting: this.#slots.waiting, size: queue },
      slots: { busy: this.#slots.busy, size: slots },
      warm: this.#options.context.launcher.status(),
      memoryBytes: process.memoryUsage.rss(),
    };
  }

  /** Runs that wait for a slot. */
  get waiting(): number {
    return this.#slots.waiting;
  }

  /** Refuses new work, and what waits for a slot; resolves when what is under way has ended, or after `seconds`. */
  async drain(seconds: number): Promise<void> {
    this.#stopping = true;
    this.#slots.close();
    const late = new AbortController();
    const ended = async () => {
      while (this.#live.size > 0 && !late.signal.aborted) await Promise.allSettled(this.#live);
      late.abort();
    };
    const limit = sleep(seconds * 1000, undefined, { signal: late.signal }).then(
      () => {
        late.abort();
      },
      () => undefined,
    );
    await Promise.race([ended(), limit]);
  }

  async close(): Promise<void> {
    this.#stopping = true;
    this.#slots.close();
    this.#closing.abort();
    for (const stop of this.#stops) stop.abort('closing');
    clearTimeout(this.#retry);
    // What was counted as it waited for its slot is counted again as it runs.
    while (this.#live.size > 0) await Promise.allSettled(this.#live);
    this.#options.context.workspaces.close();
    await this.#options.context.launcher.close();
  }

  #track(work: Promise<unknown>): void {
    // A failure is told to whoever asked for the work; here only its end matters.
    const ended = work.catch(() => undefined).finally(() => this.#live.delete(ended));
    this.#live.add(ended);
  }

  #toNoxError(error: unknown, requestId: string): NoxError {
    if (error instanceof NoxError) return error;
    this.#options.log.error({ requestId, err: error }, 'sandbox_error');
    const full = MACHINE_FULL.includes((error as NodeJS.ErrnoException).code ?? '');
    const message = full
      ? 'The disk of the server is full'
      : 'The server could not do this; its log has the reason';
    return new NoxError('sandbox_error', message, { cause: error });
  }

  /** A broken sandbox makes the runner unhealthy; a program that ran to its own end makes it healthy again. */
  #judge(verdict: Verdict): void {
    if (verdict === 'works') this.#health = OK;
    if (verdict !== 'broken') return;
    this.#health = { ok: false, status: 'the sandbox does not start; the runner’s log has the reason' };
    if (this.#retry !== undefined || this.#stopping) return;
    this.#retry = setTimeout(() => {
      this.#retry = undefined;
      void this.#tryAgain();
    }, RETRY_MS).unref();
  }

  async #tryAgain(): Promise<void> {
    const program = { kind: 'command' as const, argv: ['true'] };
    try {
      for await (const event of this.run({ id: 'self-test', program }, this.#closing.signal))
        if (event.type === 'end') break;
    } catch {
      // It has been judged where it was caught, or says nothing: a full queue, a workspace that is being restored.
    }
    if (!this.#health.ok) this.#judge('broken');
  }
}

type Verdict = 'works' | 'broken' | 'unknown';

/** What a run's end says of the sandbox: one that was cut short may never have had a program. */
function verdictOf({ outcome, exitCode }: RunResult): Verdict {
  if (outcome === 'sandbox_error') return 'broken';
  return exitCode !== null || PROGRAM_RAN.has(outcome) ? 'works' : 'unknown';
}

/** execve(2)'s bounds, told before the run, not by a program that cannot start. */
function checkArguments(request: RunRequest): RunRequest {
  const { program } = request;
  const args = program.kind === 'command' ? program.argv : program.args;
  const field = program.kind === 'command' ? 'cmd' : 'args';
  let total = 0;
  for (const [index, arg] of args.entries()) {
    const bytes = Buffer.byteLength(arg);
    total += bytes + 1;
    if (arg.includes('\0')) throw new NoxError('invalid_request', `${field}.${String(index)}: contains NUL`);
    if (bytes > ARGUMENT_MAX) {
      const message = `${field}.${String(index)}: has ${String(bytes)} bytes, more than ${String(ARGUMENT_MAX)}`;
      throw new NoxError('invalid_request', message);
    }
  }
  if (total > ARGUMENTS_MAX_BYTES) {
    const message = `${field}: ${String(total)} bytes in all, more than ${String(ARGUMENTS_MAX_BYTES)}`;
    throw new NoxError('invalid_request', message);
  }
  for (const [name, value] of Object.entries(request.env ?? {})) {
    if (value.includes('\0')) throw new NoxError('invalid_request', `env.${name}: contains NUL`);
    // As one string: `name=value`.
    const bytes = name.length + 1 + Buffer.byteLength(value);
    total += bytes + 1;
    if (bytes > ARGUMENT_MAX)
      throw new NoxError('invalid_request', `env.${name}: has more than ${String(ARGUMENT_MAX)} bytes`);
  }
  if (total > ARGUMENTS_MAX_BYTES) {
    const message = `env: ${String(total)} bytes with the arguments, more than ${String(ARGUMENTS_MAX_BYTES)}`;
    throw new NoxError('invalid_request', message);
  }
  return request;
}

function lowerLimits(limits: Limits, asked: LimitsRequest | undefined): Limits {
  for (const name of LIMIT_NAMES) {
    const value = asked?.[name];
    if (value === undefined || value <= limits[name]) continue;
    const message = `limits.${name}: ${String(value)} is more than the ${String(limits[name])} of ${LIMITS[name].setting}`;
    throw new NoxError('invalid_request', message);
  }
  return { ...limits, ...asked };
}

/** Output that waits for its reader: above the one, the run is held up; below the other it goes on. */
const FULL_BYTES = 1024 * 1024;
const ROOM_BYTES = 256 * 1024;

/** From the callbacks of a run to the loop of its reader. */
class EventQueue implements RunSink, AsyncIterable<RunEvent> {
  onFull: ((full: boolean) => void) | undefined;
  readonly #events: RunEvent[] = [];
  #bytes = 0;
  #full = false;
  #failure: NoxError | undefined;
  #wake: (() => void) | undefined;

  push(event: RunEvent): void {
    this.#events.push(event);
    if (event.type === 'output') this.#bytes += event.data.length;
    if (!this.#full && this.#bytes > FULL_BYTES) this.#setFull(true);
    this.#wake?.();
  }

  fail(error: NoxError): void {
    this.#failure = error;
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<RunEvent> {
    for (;;) {
      for (const event of this.#events.splice(0)) {
        // Before it is taken: with its bytes the taker may do what it likes.
        const bytes = event.type === 'output' ? event.data.length : 0;
        yield event;
        if (event.type === 'end') return;
        this.#bytes -= bytes;
        if (this.#full && this.#bytes < ROOM_BYTES) this.#setFull(false);
      }
      if (this.#failure !== undefined) throw this.#failure;
      if (this.#events.length === 0)
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
    }
  }

  #setFull(full: boolean): void {
    this.#full = full;
    this.onFull?.(full);
  }
}

/**
 * One run that is alive in the gateway: a loop over the events of the runner, which fill its sink and its record.
 *
 * States: queued → running → ended. A run ends once, with a result of the runner or with the error that kept it from
 * one; what ends it early from here is `cancel(why)`, and the first reason is the one that is told.
 */
import { NoxError } from '../../protocol/errors.ts';
import type { Executor } from '../../protocol/executor.ts';
import type { RunInput, RunRequest, RunResult } from '../../protocol/messages.ts';
import type { RunRecord } from './record.ts';
import type { OutputSink } from './sink.ts';

/** Why a run was ended from here. */
export type CancelReason = 'client' | 'abandoned' | 'revoked' | 'stopped';

/** Input that waits for the run; more is refused. */
const INPUT_BYTES = 1024 * 1024;
/** What each piece of it takes besides, about. */
const PIECE_COSTS = 512;
/** Below it whoever waits for room goes on. */
const ROOM_BYTES = 256 * 1024;
/** None is the fault of the run, nor of its request, and it has not begun: the same may be tried again. */
const NOT_YET = new Set(['queue_full', 'queue_timeout', 'runner_unavailable', 'shutting_down']);

/** Whoever keeps its record. */
export interface RunObserver {
  started(run: LiveRun): void;
  ended(run: LiveRun): void;
}

export class LiveRun {
  record: RunRecord;
  readonly request: RunRequest;
  readonly abort: AbortController;
  /** Resolves when it has begun; rejects with the error that kept it from that. */
  readonly begun: Promise<void>;
  readonly ended: Promise<void>;
  readonly #begun = Promise.withResolvers<undefined>();
  readonly #ended = Promise.withResolvers<undefined>();
  readonly #sink: OutputSink;
  readonly #observer: RunObserver;
  readonly #input = new InputQueue();
  #why: CancelReason | undefined;
  #failure: NoxError | undefined;

  constructor(
    record: RunRecord,
    request: RunRequest,
    abort: AbortController,
    sink: OutputSink,
    observer: RunObserver,
  ) {
    this.record = record;
    this.request = request;
    this.abort = abort;
    this.#sink = sink;
    this.#observer = observer;
    this.begun = this.#begun.promise;
    this.begun.catch(() => undefined);
    this.ended = this.#ended.promise;
  }

  /** Why it was ended from here, if it was. */
  get cancelled(): CancelReason | undefined {
    return this.#why;
  }

  /** What kept it from a result. */
  get failure(): NoxError | undefined {
    return this.#failure;
  }

  /**
   * Never rejects: what goes wrong is in the record.
   *
   * @param mayWait whether one that could not begin yet is left as it is, to be executed again
   * @returns false where it was left
   */
  async execute(executor: Executor, mayWait: (error: NoxError) => boolean = () => false): Promise<boolean> {
    const started = Promise.withResolvers<boolean>();
    // What waits for a run that is not begun after all waits on. Others do not tell their beginning.
    const input = this.request.output === 'all' ? once(started.promise, this.#input) : this.#input;
    try {
      for await (const event of executor.run(this.request, this.abort.signal, input)) {
        if (event.type === 'started') {
          this.#start();
          started.resolve(true);
        } else if (event.type === 'output') {
          const room = this.#sink.output(event.stream, event.data);
          if (room !== undefined) await room;
        } else {
          this.#end(event.result);
          return true;
        }
      }
      throw new NoxError('runner_unavailable', 'The runner gave no result');
    } catch (error) {
      const known = asNoxError(error);
      // Of one that does not tell its beginning nobody knows, when its runner is lost.
      const lost = known.code === 'runner_unavailable' && !known.unsent && this.request.output !== 'all';
      const begun = lost || this.record.startedAt !== null;
      if (!begun && this.#why === undefined && NOT_YET.has(known.code) && mayWait(known)) return false;
      this.#end(known);
      return true;
    } finally {
      started.resolve(false);
    }
  }

  cancel(why: CancelReason): void {
    this.#why ??= why;
    this.abort.abort('cancelled');
  }

  /** One that has not begun ends without having run. */
  drop(why: CancelReason): void {
    this.#why ??= why;
    this.#end(new NoxError('cancelled', REASONS[why]));
  }

  /**
   * All of it, or nothing.
   *
   * @throws NoxError `run_ended`; `rate_limited` where the program does not read what it was sent before
   */
  tell(...inputs: RunInput[]): void {
    if (this.record.state === 'ended') throw new NoxError('run_ended', `The run ${this.record.id} has ended`);
    if (this.#input.push(inputs)) return;
    const message = `The program has not read ${String(INPUT_BYTES)} bytes of its input yet`;
    throw new NoxError('rate_limited', message, { retryAfter: 1 });
  }

  /** Resolves when most of what it was told has been taken, or it has ended. */
  async room(): Promise<void> {
    await this.#input.room();
  }

  #start(): void {
    if (this.record.state !== 'queued') return;
    this.record = { ...this.record, state: 'running', startedAt: this.#now() };
    this.#observer.started(this);
    this.#sink.started();
    this.#begun.resolve(undefined);
  }

  #end(how: RunResult | NoxError): void {
    if (this.record.state === 'ended') return;
    const failed = how instanceof NoxError;
    if (failed) this.#failure = how;
    const cut = this.#sink.truncated ? { truncated: true } : {};
    const endedAt = this.#now();
    this.record = { ...this.record, state: 'ended', endedAt, ...cut, ...this.#ending(how, endedAt) };
    this.#input.end();
    this.#sink.end(this.record);
    this.#observer.ended(this);
    if (failed && this.record.startedAt === null) this.#begun.reject(how);
    else this.#begun.resolve(undefined);
    this.#ended.resolve(undefined);
  }

  /** Not before what has been: the clock may have been set back. */
  #now(): number {
    return Math.max(this.record.createdAt, this.record.startedAt ?? 0, Date.now());
  }

  #ending(how: RunResult | NoxError, endedAt: number): Partial<RunRecord> {
    const why = this.#why;
    if (!(how instanceof NoxError)) {
      // The runner says that it ended it; why it did, is known here.
      if (how.outcome === 'cancelled' && why === 'stopped')
        return { outcome: 'sandbox_error', reason: REASONS.stopped };
      // Whoever waits for the end is told of the beginning late, or not at all.
      const { startedAt, createdAt } = this.record;
      const began = Math.max(createdAt, Math.round(endedAt - how.usage.wallSeconds * 1000));
      return { result: how, startedAt: Math.min(startedAt ?? began, began) };
    }
    // The runner gives no result to whoever has cancelled.
    if (why === 'stopped') return { outcome: 'sandbox_error', reason: REASONS.stopped };
    if (why !== undefined) return { outcome: 'cancelled', reason: REASONS[why] };
    if (this.record.startedAt === null) return { error: { code: how.code, detail: how.message } };
    return { outcome: 'sandbox_error', reason: how.message };
  }
}

const REASONS: Readonly<Record<CancelReason, string>> = {
  client: 'cancelled by its client',
  abandoned: 'its client went away and did not come back',
  revoked: 'its token was revoked',
  stopped: 'the server stopped while it was under way',
};

function asNoxError(error: unknown): NoxError {
  return error instanceof NoxError
    ? error
    : new NoxError('internal', 'The server failed; its log has the reason', { cause: error });
}

async function* once<T>(first: Promise<boolean>, then: AsyncIterable<T>): AsyncGenerator<T> {
  if (await first) yield* then;
}

const costOf = (input: RunInput): number => PIECE_COSTS + (input.type === 'stdin' ? input.data.length : 0);

/** From calls that come and go to the loop that feeds the run. */
class InputQueue implements AsyncIterable<RunInput> {
  readonly #waiting: RunInput[] = [];
  readonly #whenRoom: (() => void)[] = [];
  #bytes = 0;
  #ended = false;
  #wake: (() => void) | undefined;

  /** @returns false where there is no room */
  push(inputs: readonly RunInput[]): boolean {
    const bytes = inputs.reduce((sum, input) => sum + costOf(input), 0);
    if (this.#bytes > 0 && this.#bytes + bytes > INPUT_BYTES) return false;
    this.#bytes += bytes;
    this.#waiting.push(...inputs);
    this.#wake?.();
    return true;
  }

  end(): void {
    this.#ended = true;
    this.#wake?.();
    this.#tellRoom();
  }

  async room(): Promise<void> {
    if (this.#bytes <= ROOM_BYTES || this.#ended) return;
    await new Promise<void>((resolve) => {
      this.#whenRoom.push(resolve);
    });
  }

  #tellRoom(): void {
    for (const resolve of this.#whenRoom.splice(0)) resolve();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<RunInput> {
    for (;;) {
      const next = this.#waiting.shift();
      if (next !== undefined) {
        yield next;
        this.#bytes -= costOf(next);
        if (this.#bytes <= ROOM_BYTES) this.#tellRoom();
      } else if (this.#ended) return;
      else
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
    }
  }
}

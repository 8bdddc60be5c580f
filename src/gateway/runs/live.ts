/**
 * One run that is alive in the gateway: what it is to the runner (a loop over events), to its readers (a log), and to
 * the history (a record).
 *
 * States: queued → running → ended. A run ends once, with a result of the runner or with the error that kept it from
 * one; what ends it early from here is `cancel(why)`, and the first reason is the one that is told.
 */
import { NoxError } from '../../protocol/errors.ts';
import type { Executor } from '../../protocol/executor.ts';
import type { RunInput, RunRequest, RunResult, StreamName } from '../../protocol/messages.ts';
import { eventLine, OutputEncoder } from './events.ts';
import type { EventLog } from './log.ts';
import { viewOf, type RunRecord } from './record.ts';

/** Why a run was ended from here. */
export type CancelReason = 'client' | 'abandoned' | 'stopped';

/** Input that waits for the run; more is refused. */
const INPUT_BYTES = 1024 * 1024;

/** What happens to a run, for whoever keeps its record. */
export interface RunObserver {
  started(run: LiveRun): void;
  ended(run: LiveRun): void;
}

export class LiveRun {
  record: RunRecord;
  readonly log: EventLog;
  readonly request: RunRequest;
  /** Resolves at its first event, rejects with the error that kept it from one. */
  readonly begun: Promise<void>;
  readonly ended: Promise<void>;
  readonly #begun = Promise.withResolvers<undefined>();
  readonly #ended = Promise.withResolvers<undefined>();
  readonly #observer: RunObserver;
  readonly #abort = new AbortController();
  readonly #input = new InputQueue();
  #why: CancelReason | undefined;

  constructor(record: RunRecord, request: RunRequest, log: EventLog, observer: RunObserver) {
    this.record = record;
    this.request = request;
    this.log = log;
    this.#observer = observer;
    this.begun = this.#begun.promise;
    this.begun.catch(() => undefined);
    this.ended = this.#ended.promise;
  }

  /** Why it was ended from here, if it was. */
  get cancelled(): CancelReason | undefined {
    return this.#why;
  }

  /** Never rejects: what goes wrong is in the record. */
  async execute(executor: Executor): Promise<void> {
    const encoder = new OutputEncoder();
    const { signal } = this.#abort;
    try {
      for await (const event of executor.run(this.request, signal, this.#input)) {
        if (event.type === 'started') this.#start();
        else if (event.type === 'output') await this.#output(encoder, event.stream, event.data);
        else {
          for (const line of encoder.end()) this.log.append(line);
          this.#end(event.result);
          return;
        }
      }
      throw new NoxError('runner_unavailable', 'The runner gave no result');
    } catch (error) {
      for (const line of encoder.end()) this.log.append(line);
      this.#end(asNoxError(error));
    }
  }

  cancel(why: CancelReason): void {
    this.#why ??= why;
    this.#abort.abort('cancelled');
  }

  /**
   * @throws NoxError `run_ended`; `rate_limited` where the program does not read what it was sent before
   */
  tell(input: RunInput): void {
    if (this.record.state === 'ended') throw new NoxError('run_ended', `The run ${this.record.id} has ended`);
    if (!this.#input.push(input)) {
      const message = `The program has not read ${String(INPUT_BYTES)} bytes of its input yet`;
      throw new NoxError('rate_limited', message, { retryAfter: 1 });
    }
  }

  #start(): void {
    this.record = { ...this.record, state: 'running', startedAt: Date.now() };
    this.log.append(eventLine({ type: 'started' }));
    this.#observer.started(this);
    this.#begun.resolve(undefined);
  }

  async #output(encoder: OutputEncoder, stream: StreamName, data: Uint8Array): Promise<void> {
    for (const line of encoder.encode(stream, data)) this.log.append(line);
    await this.log.room(this.#abort.signal);
  }

  #end(how: RunResult | NoxError): void {
    const why = this.#why;
    const endedAt = Date.now();
    const base = { ...this.record, state: 'ended' as const, endedAt };
    if (!(how instanceof NoxError)) this.record = { ...base, result: how };
    else if (why === 'client' || why === 'abandoned')
      // The runner gives no result to whoever has cancelled.
      this.record = { ...base, outcome: 'cancelled', reason: REASONS[why] };
    else if (base.startedAt === null && why === undefined) {
      this.record = { ...base, error: { code: how.code, detail: how.message } };
    } else {
      this.record = {
        ...base,
        outcome: 'sandbox_error',
        reason: why === undefined ? how.message : REASONS[why],
      };
    }
    this.#input.end();
    this.log.append(eventLine({ type: 'end', run: viewOf(this.record) }));
    this.log.close();
    this.#observer.ended(this);
    if (how instanceof NoxError && base.startedAt === null) this.#begun.reject(how);
    else this.#begun.resolve(undefined);
    this.#ended.resolve(undefined);
  }
}

const REASONS: Readonly<Record<CancelReason, string>> = {
  client: 'cancelled by its client',
  abandoned: 'its client went away and did not come back',
  stopped: 'the server stopped while it was running',
};

function asNoxError(error: unknown): NoxError {
  return error instanceof NoxError
    ? error
    : new NoxError('internal', 'The server failed; its log has the reason', { cause: error });
}

/** From calls that come and go to the loop that feeds the run. */
class InputQueue implements AsyncIterable<RunInput> {
  readonly #waiting: RunInput[] = [];
  #bytes = 0;
  #ended = false;
  #wake: (() => void) | undefined;

  /** @returns false where there is no room */
  push(input: RunInput): boolean {
    const bytes = input.type === 'stdin' ? input.data.length : 0;
    if (this.#bytes > 0 && this.#bytes + bytes > INPUT_BYTES) return false;
    this.#bytes += bytes;
    this.#waiting.push(input);
    this.#wake?.();
    return true;
  }

  end(): void {
    this.#ended = true;
    this.#wake?.();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<RunInput> {
    for (;;) {
      const next = this.#waiting.shift();
      if (next !== undefined) {
        yield next;
        if (next.type === 'stdin') this.#bytes -= next.data.length;
      } else if (this.#ended) return;
      else
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
        });
    }
  }
}

/**
 * Keeps the records of runs in the store, and their accounts. The runs go on where the store fails: the end of one that
 * is in it is written when it can be.
 *
 * A run that is kept for a client that may go is written as it happens (background.ts). Of the others, whose clients
 * are there to see, all that happens within WRITE_MS is written together, which most often is the whole of a run, in
 * one transaction and not between its client and its answer: a process that is killed loses the records of that time.
 * Whoever reads from the store calls `write` first.
 */
import type { Logger } from 'pino';
import { NoxError } from '../../protocol/errors.ts';
import type { RunRequest } from '../../protocol/messages.ts';
import type { Principal } from '../principal.ts';
import type { Admission } from '../quota.ts';
import { newRunId } from '../store/ids.ts';
import type { RunRecord as Row } from '../store/runs.ts';
import type { Store } from '../store/store.ts';
import type { LiveRun } from './live.ts';
import { outcomeOfRecord, type RunRecord } from './record.ts';

const WRITE_MS = 20;
/** How often it is tried to write the ends that could not be written. */
const RETRY_MS = 1000;
/** Of these; then the oldest are left to the next start, which ends them as cut off. */
const UNWRITTEN = 10_000;

/** A run that is asked for. */
export interface RunOrder {
  readonly principal: Principal;
  readonly requestId: string;
  readonly runtime: string;
  /** undefined: a scratch one. */
  readonly workspace: string | undefined;
  readonly labels: Readonly<Record<string, string>>;
  readonly request: RunRequest;
  readonly admission?: Admission | undefined;
}

export class RunKeeper {
  readonly #store: Store;
  readonly #log: Logger;
  /** Runs that have not ended whose clients are there to see it. */
  readonly #attended = new Set<string>();
  /** Runs that have begun, which are to be put into the store. */
  readonly #begun = new Map<string, RunRecord>();
  /** Those that are not in the store, and will not be: there was no room. */
  readonly #unkept = new Set<string>();
  /** Those that have ended, which the store does not know yet. */
  readonly #unwritten = new Map<string, RunRecord>();
  #timer: NodeJS.Timeout | undefined;
  #stopped = false;

  constructor(store: Store, log: Logger) {
    this.#store = store;
    this.#log = log;
  }

  newRecord({ principal, requestId, runtime, workspace, labels }: RunOrder, id?: string): RunRecord {
    const now = Date.now();
    return {
      id: id ?? newRunId(now),
      owner: principal.id,
      requestId,
      runtime,
      workspace: workspace ?? null,
      labels,
      state: 'queued',
      createdAt: now,
      startedAt: null,
      endedAt: null,
    };
  }

  /** @param request kept with one that waits, so that it runs after a restart too */
  insert(record: RunRecord, request?: RunRequest): void {
    const { id, owner, runtime, workspace, requestId, labels, createdAt } = record;
    const metadata = Object.keys(labels).length === 0 ? {} : { metadata: JSON.stringify(labels) };
    this.#store.runs.insert(
      {
        ...{ id, token: owner, runtime, workspace: workspace ?? undefined, requestId, ...metadata },
        ...(request === undefined
          ? { state: 'running' as const }
          : { state: 'queued' as const, request: JSON.stringify(request) }),
      },
      createdAt,
    );
  }

  /** For a run whose client is there to see the result. */
  begin(record: RunRecord): void {
    this.#attended.add(record.id);
    this.#begun.set(record.id, record);
    this.#writeIn(WRITE_MS);
  }

  finish(record: RunRecord): void {
    const attended = this.#attended.delete(record.id);
    if (this.#unkept.delete(record.id)) return;
    this.#unwritten.set(record.id, record);
    for (const id of this.#unwritten.keys()) {
      if (this.#unwritten.size <= UNWRITTEN) break;
      this.#unwritten.delete(id);
    }
    if (attended) this.#writeIn(WRITE_MS);
    else this.write();
  }

  /** A run that has ended, where the store does not know it yet. */
  unwritten(id: string): RunRecord | undefined {
    return this.#unwritten.get(id);
  }

  /** What there is to write; what cannot be written now is told, and tried again. */
  write(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#begun.size + this.#unwritten.size === 0) return;
    try {
      this.#store.transaction(() => {
        for (const record of this.#begun.values()) this.insert(record);
        for (const record of this.#unwritten.values()) this.#finish(record);
      });
      this.#begun.clear();
      this.#unwritten.clear();
    } catch {
      this.#writeEach();
    }
    if (this.#unwritten.size > 0 && !this.#stopped) this.#writeIn(RETRY_MS);
  }

  /** What ends from now on is written at once: the store will be closed. */
  stop(): void {
    this.#stopped = true;
    this.write();
  }

  #writeIn(ms: number): void {
    if (this.#stopped) this.write();
    else
      this.#timer ??= setTimeout(() => {
        this.write();
      }, ms).unref();
  }

  /** So that one that cannot be written keeps no other from it. */
  #writeEach(): void {
    for (const record of this.#begun.values()) {
      try {
        this.insert(record);
      } catch (error) {
        this.#tell(error, 'insert');
        if (!this.#unwritten.delete(record.id)) this.#unkept.add(record.id);
      }
    }
    this.#begun.clear();
    for (const record of this.#unwritten.values()) {
      try {
        this.#finish(record);
      } catch (error) {
        this.#tell(error, 'finish');
        // Any other is a fault that another try does not mend.
        if (error instanceof NoxError) continue;
      }
      this.#unwritten.delete(record.id);
    }
  }

  #finish(record: RunRecord): void {
    const { id, result, error, reason, truncated, startedAt, endedAt } = record;
    this.#store.runs.finish(
      id,
      {
        outcome: outcomeOfRecord(record) ?? null,
        reason: reason ?? error?.detail,
        result: JSON.stringify({ result, error, reason, truncated }),
        started: startedAt,
      },
      endedAt ?? Date.now(),
    );
  }

  /** @param admission undefined: it was admitted before a restart */
  charge({ record, request, failure }: LiveRun, admission: Admission | undefined): void {
    const usage = record.result?.usage;
    const seconds = usage === undefined ? undefined : usage.userSeconds + usage.systemSeconds;
    // Only a run whose events are all told tells its beginning: another one may have run, and its client have gone.
    const silent = request.output !== 'all' && record.outcome !== undefined;
    if (failure !== undefined && record.startedAt === null && !silent) admission?.release();
    else if (admission !== undefined) admission.charge(seconds);
    else if (seconds !== undefined) this.#store.usage.add(record.owner, seconds * 1000);
  }

  /** Of a state that cannot be written the database has told. */
  #tell(error: unknown, what: string): void {
    if (!(error instanceof NoxError)) this.#log.error({ err: error }, `state: ${what} of a run`);
  }
}

/** Of a row of the store, and the JSON that is kept with it. */
export function recordOf(row: Row, result: string | undefined): RunRecord {
  const { id, token, created, started, ended, state, runtime, workspace, outcome, reason, requestId } = row;
  const kept = (result === undefined ? {} : JSON.parse(result)) as Pick<
    RunRecord,
    'result' | 'error' | 'reason' | 'truncated'
  >;
  return {
    ...{ id, owner: token, requestId, runtime, workspace, state },
    labels: (row.metadata === null ? {} : JSON.parse(row.metadata)) as Record<string, string>,
    ...{ createdAt: created, startedAt: started, endedAt: ended },
    ...(reason === null ? {} : { reason }),
    ...(outcome === null ? {} : { outcome }),
    ...kept,
  };
}

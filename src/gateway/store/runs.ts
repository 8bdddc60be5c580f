/**
 * The runs that were accepted, and what became of them.
 *
 * queued ─▶ running ─▶ ended, or straight from queued to ended for one that never ran. A run that waits in the
 * background keeps its request, so that it runs after a restart too; with its end the request is forgotten.
 */
import { NoxError } from '../../protocol/errors.ts';
import type { Outcome } from '../../protocol/outcome.ts';
import type { Principal } from '../principal.ts';
import type { Database, Query, Row } from './database.ts';

type RunState = 'queued' | 'running' | 'ended';

export interface NewRun {
  readonly id: string;
  /** Of the token, or `admin`. */
  readonly token: string;
  readonly runtime: string;
  /** undefined: a scratch one. */
  readonly workspace: string | undefined;
  readonly requestId: string;
  /** `running`: it is not kept for a restart, and begins at once. */
  readonly state: 'queued' | 'running';
  /** JSON, with which a queued run is made after a restart. */
  readonly request?: string | undefined;
  /** JSON, the client's own. */
  readonly metadata?: string | undefined;
}

export interface Ending {
  /** null: it was refused before it began. */
  readonly outcome: Outcome | null;
  /** Why Nox ended it, where Nox did. */
  readonly reason?: string | undefined;
  /** JSON. */
  readonly result?: string | undefined;
  /** When it began, where that is known better now; null: it never did. */
  readonly started?: number | null | undefined;
}

/** Times in milliseconds since 1970. */
export interface RunRecord {
  readonly id: string;
  readonly token: string;
  readonly created: number;
  readonly started: number | null;
  readonly ended: number | null;
  readonly state: RunState;
  readonly runtime: string;
  readonly workspace: string | null;
  readonly outcome: Outcome | null;
  readonly reason: string | null;
  readonly requestId: string;
  readonly metadata: string | null;
}

export interface RunFilter {
  readonly ended?: boolean | undefined;
  readonly outcome?: Outcome | undefined;
  readonly runtime?: string | undefined;
  readonly workspace?: string | undefined;
}
/** As expressions. */
const FILTERS = {
  ended: '(ended IS NOT NULL)',
  outcome: 'outcome',
  runtime: 'runtime',
  workspace: 'workspace',
} as const;
export type FilterName = keyof typeof FILTERS;

export interface RunPage {
  readonly runs: readonly RunRecord[];
  /** The `after` of the next page; null at the end. */
  readonly next: string | null;
}

/** A page with a filter looks at so many runs: it may have fewer than asked for, and yet a `next`. */
const SCAN = 10_000;
const PRUNE_BATCH = 500;
/** Results may be large: fewer at a time. */
const SIZE_BATCH = 20;
const COLUMNS =
  'id, token, created, started, ended, state, runtime, workspace, outcome, reason, request_id, metadata';

export const CUT_OFF = 'The server ended while the run was under way';

export class Runs {
  readonly #db: Database;
  readonly #pages = new Map<string, Query>();
  readonly #insert: Query;
  readonly #insertData: Query;
  readonly #started: Query;
  readonly #waiting: Query;
  readonly #ended: Query;
  readonly #endedData: Query;
  readonly #get: Query;
  readonly #data: Query;
  readonly #position: Query;

  constructor(db: Database) {
    this.#db = db;
    this.#insert = db.prepare(
      'INSERT INTO runs (id, token, created, started, state, runtime, workspace, request_id, metadata) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING n',
    );
    this.#insertData = db.prepare('INSERT INTO run_data (n, request) VALUES (?, ?)');
    this.#started = db.prepare(
      "UPDATE runs SET state = 'running', started = max(?, created) WHERE id = ? AND state = 'queued'",
    );
    this.#waiting = db.prepare(
      "UPDATE runs SET state = 'queued', started = NULL WHERE id = ? AND state = 'running'",
    );
    // Nothing ends before it has begun: the clock may have been set back.
    this.#ended = db.prepare(
      `UPDATE runs SET state = 'ended', started = iif(?, ?, started),
         ended = max(?, created, coalesce(started, 0)), outcome = ?, reason = ?
       WHERE id = ? AND ended IS NULL RETURNING n`,
    );
    this.#endedData = db.prepare(
      'INSERT INTO run_data (n, result) VALUES (?, ?) ON CONFLICT (n) DO UPDATE SET request = NULL, result = excluded.result',
    );
    this.#get = db.prepare(`SELECT ${COLUMNS} FROM runs WHERE id = ?`);
    this.#data = db.prepare('SELECT request, result FROM runs JOIN run_data USING (n) WHERE id = ?');
    this.#position = db.prepare('SELECT n FROM runs WHERE id = ?');
  }

  /** Durable if it is called within `durably`. */
  insert(run: NewRun, now = Date.now()): void {
    const { id, token, state, runtime, workspace, requestId, request, metadata } = run;
    const started = state === 'running' ? now : null;
    this.#db.transaction(() => {
      const row = this.#insert.get(
        ...[id, token, now, started, state, runtime, workspace ?? null, requestId, metadata ?? null],
      );
      if (request !== undefined) this.#insertData.run(row?.['n'] ?? null, request);
    });
  }

  /** @returns false for one that is not queued (any more) */
  markRunning(id: string, now = Date.now()): boolean {
    return this.#started.run(now, id) > 0;
  }

  /** What could not begin after all waits again. */
  markQueued(id: string): void {
    this.#waiting.run(id);
  }

  /**
   * The first end is kept.
   *
   * @returns false for one that has ended before, or is gone
   */
  finish(id: string, { outcome, reason, result, started }: Ending, now = Date.now()): boolean {
    const known = started === undefined ? 0 : 1;
    return this.#db.transaction(() => {
      const row = this.#ended.get(known, started ?? null, now, outcome, reason ?? null, id);
      if (row === undefined) return false;
      this.#endedData.run(row['n'] ?? null, result ?? null);
      return true;
    });
  }

  /**
   * @param principal sees its own runs, with the scope `admin` those of all
   * @throws NoxError `run_not_found`, also for one of somebody else's
   */
  get(id: string, principal: Principal): RunRecord {
    const row = this.#get.get(id);
    const run = row === undefined ? undefined : toRecord(row);
    if (run === undefined || !(principal.scopes.has('admin') || run.token === principal.id))
      throw new NoxError('run_not_found', `No run ${JSON.stringify(id.slice(0, 100))} is kept`);
    return run;
  }

  /** JSON; for whom, `get` has decided. */
  result(id: string): string | undefined {
    return (this.#data.get(id)?.['result'] ?? undefined) as string | undefined;
  }

  /** JSON; of one that has not ended. */
  request(id: string): string | undefined {
    return (this.#data.get(id)?.['request'] ?? undefined) as string | undefined;
  }

  /** Newest first. @param after the `next` of the page before; one that is gone gives an empty page */
  page(principal: Principal, filter: RunFilter, limit: number, after?: string): RunPage {
    const owner = principal.scopes.has('admin') ? [] : [principal.id];
    const before = after === undefined ? Number.MAX_SAFE_INTEGER : (this.#position.get(after)?.['n'] ?? 0);
    const names = (Object.keys(FILTERS) as FilterName[]).filter((name) => filter[name] !== undefined);
    const values = names.map((name) => (name === 'ended' ? Number(filter.ended) : (filter[name] ?? null)));
    const query = this.#query(pageSql(owner.length > 0, names));
    const runs = query.all(...owner, before, ...values, limit + 1).map(toRecord);
    if (runs.length > limit) return { runs: runs.slice(0, limit), next: runs[limit - 1]?.id ?? null };
    if (names.length === 0) return { runs, next: null };
    const last = this.#query(lastSql(owner.length > 0)).get(...owner, before);
    return { runs, next: (last?.['id'] ?? null) as string | null };
  }

  /**
   * At the start, before anything runs: what was running was cut off, and ends as `sandbox_error` with the reason.
   *
   * @returns ids: those that it ended, and those that wait to be run, in the order in which they were accepted
   */
  interrupted(now = Date.now()): { readonly ended: readonly string[]; readonly queued: readonly string[] } {
    return this.#db.durably(() => {
      const open = (state: string) =>
        this.#query('SELECT id FROM runs WHERE ended IS NULL AND state = ? ORDER BY n')
          .all(state)
          .map((row) => String(row['id']));
      const ended = open('running');
      for (const id of ended) this.finish(id, { outcome: 'sandbox_error', reason: CUT_OFF }, now);
      return { ended, queued: open('queued') };
    });
  }

  /** Forgets runs that ended, the oldest first. @returns whether there may be more to forget */
  prune(keep: { readonly runs: number; readonly since: number; readonly bytes: number }): boolean {
    const { total } = this.#query('SELECT count(*) AS total FROM runs').get() as { total: number };
    const surplus = Math.min(PRUNE_BATCH, Math.max(0, total - keep.runs));
    const oldest = `SELECT n, created FROM runs WHERE ended IS NOT NULL ORDER BY n LIMIT ${PRUNE_BATCH}`;
    const old = this.#query(`DELETE FROM runs WHERE n IN (SELECT n FROM (${oldest}) WHERE created < ?)`);
    const most = this.#query(
      'DELETE FROM runs WHERE n IN (SELECT n FROM runs WHERE ended IS NOT NULL ORDER BY n LIMIT ?)',
    );
    const byAge = old.run(keep.since);
    const byNumber = most.run(Math.max(0, surplus - byAge));
    const bySize = this.#db.bytes() > keep.bytes ? most.run(SIZE_BATCH) : 0;
    return byAge === PRUNE_BATCH || byNumber + byAge === PRUNE_BATCH || bySize > 0;
  }

  #query(sql: string): Query {
    const query = this.#pages.get(sql) ?? this.#db.prepare(sql);
    this.#pages.set(sql, query);
    return query;
  }
}

const mine = (owned: boolean): string => (owned ? 'token = ? AND' : '');

/** Values: the owner if owned, the position before which, one for each name, the limit. */
export function pageSql(owned: boolean, names: readonly FilterName[]): string {
  const newest = `FROM runs WHERE ${mine(owned)} n < ? ORDER BY n DESC`;
  if (names.length === 0) return `SELECT ${COLUMNS} ${newest} LIMIT ?`;
  const matching = names.map((name) => `${FILTERS[name]} = ?`).join(' AND ');
  return `SELECT ${COLUMNS} FROM (SELECT * ${newest} LIMIT ${SCAN}) WHERE ${matching} ORDER BY n DESC LIMIT ?`;
}

/** The last run that a page with a filter looks at, if there may be more behind it. */
export function lastSql(owned: boolean): string {
  return `SELECT id FROM runs WHERE ${mine(owned)} n < ? ORDER BY n DESC LIMIT 1 OFFSET ${SCAN - 1}`;
}

function toRecord(row: Row): RunRecord {
  const { request_id, ...rest } = row;
  return { ...rest, requestId: request_id } as unknown as RunRecord;
}

/**
 * `Idempotency-Key`: what was asked for under a key happens at most once, also across a crash.
 *
 * A key is reserved on the disk before anything happens, in the same transaction as the run that it stands for. A
 * reservation that a crash has cut off stays one: it is answered with what became of it, and nothing runs again.
 */
import { hash as hashOf, timingSafeEqual } from 'node:crypto';
import { NoxError } from '../../protocol/errors.ts';
import type { Database, Query } from './database.ts';

/** For so long a key is known. */
const KEEP_MS = 24 * 3_600_000;
/** An answer that is longer is not kept, only its status. */
const BODY_MAX = 64 * 1024;
const PRUNE_BATCH = 500;

export type Reservation =
  /** Reserved now: go on. */
  | { readonly kind: 'new' }
  /** Stands for this run, in whatever state that is. */
  | { readonly kind: 'run'; readonly run: string }
  /** Has been answered. undefined: with a body that was too long to keep. */
  | { readonly kind: 'answer'; readonly status: number; readonly body: string | undefined }
  /** Somebody is at it at this moment. */
  | { readonly kind: 'pending' }
  /** The server ended before there was an answer. */
  | { readonly kind: 'interrupted' };

export class Idempotency {
  readonly #db: Database;
  readonly #get: Query;
  readonly #insert: Query;
  readonly #complete: Query;
  readonly #abandon: Query;
  readonly #expire: Query;

  constructor(db: Database) {
    this.#db = db;
    // What an earlier process has left open, nobody is at any more.
    db.prepare('UPDATE idempotency SET interrupted = 1 WHERE status IS NULL').run();
    this.#get = db.prepare(
      'SELECT hash, run, status, body, interrupted FROM idempotency WHERE token = ? AND key = ? AND created > ?',
    );
    this.#insert = db.prepare(
      'INSERT OR REPLACE INTO idempotency (token, key, hash, created, run) VALUES (?, ?, ?, ?, ?)',
    );
    this.#complete = db.prepare(
      'UPDATE idempotency SET status = ?, body = ? WHERE token = ? AND key = ? AND status IS NULL',
    );
    this.#abandon = db.prepare('DELETE FROM idempotency WHERE token = ? AND key = ? AND status IS NULL');
    this.#expire = db.prepare(
      'DELETE FROM idempotency WHERE (token, key) IN (SELECT token, key FROM idempotency WHERE created <= ? LIMIT ?)',
    );
  }

  /**
   * Call within `durably`, together with the insertion of the run.
   *
   * @param request method, path and body, as they came
   * @throws NoxError `idempotency_conflict` for a key that stands for another request
   */
  reserve(token: string, key: string, request: string, run?: string, now = Date.now()): Reservation {
    const hash = hashOf('sha256', request, 'buffer');
    return this.#db.durably(() => {
      const row = this.#get.get(token, key, now - KEEP_MS);
      if (row === undefined) {
        this.#insert.run(token, key, hash, now, run ?? null);
        return { kind: 'new' };
      }
      if (!timingSafeEqual(row['hash'] as Uint8Array, hash))
        throw new NoxError(
          'idempotency_conflict',
          `The Idempotency-Key ${JSON.stringify(key)} stands for another request`,
        );
      if (typeof row['run'] === 'string') return { kind: 'run', run: row['run'] };
      if (typeof row['status'] === 'number')
        return {
          kind: 'answer',
          status: row['status'],
          body: (row['body'] ?? undefined) as string | undefined,
        };
      return { kind: row['interrupted'] === 1 ? 'interrupted' : 'pending' };
    });
  }

  complete(token: string, key: string, status: number, body: string): void {
    const kept = Buffer.byteLength(body) > BODY_MAX ? null : body;
    this.#db.durably(() => this.#complete.run(status, kept, token, key));
  }

  /** For a request that was refused before anything happened: its key is free again. */
  abandon(token: string, key: string): void {
    this.#db.durably(() => this.#abandon.run(token, key));
  }

  /** @returns whether there may be more */
  prune(now = Date.now()): boolean {
    return this.#expire.run(now - KEEP_MS, PRUNE_BATCH) === PRUNE_BATCH;
  }
}

/** Webhooks that are to be delivered: with the run on the disk, and gone when they are, or when it is given up. */
import type { Database, Query } from './database.ts';

export interface Webhook {
  readonly id: string;
  readonly run: string;
  readonly url: string;
  readonly secret: string;
  readonly tries: number;
}

export class WebhookStore {
  readonly #add: Query;
  readonly #due: Query;
  readonly #later: Query;
  readonly #remove: Query;

  constructor(db: Database) {
    this.#add = db.prepare(
      'INSERT INTO webhooks (id, run, url, secret, tries, due) VALUES (?, ?, ?, ?, 0, 0)',
    );
    this.#due = db.prepare(
      `SELECT w.id, w.run, w.url, w.secret, w.tries FROM webhooks w JOIN runs r ON r.id = w.run
       WHERE w.due <= ? AND r.ended IS NOT NULL ORDER BY w.due LIMIT ?`,
    );
    this.#later = db.prepare('UPDATE webhooks SET tries = tries + 1, due = ? WHERE id = ?');
    this.#remove = db.prepare('DELETE FROM webhooks WHERE id = ?');
  }

  add(webhook: Omit<Webhook, 'tries'>): void {
    const { id, run, url, secret } = webhook;
    this.#add.run(id, run, url, secret);
  }

  /** Those whose run has ended and whose time has come. */
  due(limit: number, now = Date.now()): readonly Webhook[] {
    return this.#due.all(now, limit) as unknown as Webhook[];
  }

  /** @param due milliseconds since 1970 */
  later(id: string, due: number): void {
    this.#later.run(due, id);
  }

  remove(id: string): void {
    this.#remove.run(id);
  }
}

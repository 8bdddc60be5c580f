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
       WHERE (w.due <= ?1 OR w.tried > ?1) AND r.ended IS NOT NULL ORDER BY w.due LIMIT ?2`,
    );
    this.#later = db.prepare('UPDATE webhooks SET tries = tries + 1, tried = ?, due = ? WHERE id = ?');
    this.#remove = db.prepare('DELETE FROM webhooks WHERE id = ?');
  }

  add(webhook: Omit<Webhook, 'tries'>): void {
    const { id, run, url, secret } = webhook;
    this.#add.run(id, run, url, secret);
  }

  /** Those whose run has ended and whose time has come, or cannot be told, because the clock was set back. */
  due(limit: number, now = Date.now()): readonly Webhook[] {
    return this.#due.all(now, limit) as unknown as Webhook[];
  }

  /** @param delay milliseconds */
  later(id: string, delay: number, now = Date.now()): void {
    this.#later.run(now, now + Math.round(delay), id);
  }

  remove(id: string): void {
    this.#remove.run(id);
  }
}

/** The gateway's state: one database, a class for each kind of thing in it, and how it is kept small. */
import type { Logger } from 'pino';
import { Database, MEMORY } from './database.ts';
import { Idempotency } from './idempotency.ts';
import { Runs } from './runs.ts';
import { TokenFile } from './token-file.ts';
import { Tokens } from './tokens.ts';
import { Usage } from './usage.ts';
import { WebhookStore } from './webhooks.ts';

export interface Keep {
  /** NOX_KEEP_RUNS. */
  readonly runs: number;
  /** NOX_KEEP_DAYS. */
  readonly days: number;
}

const DAY_MS = 86_400_000;
const PRUNE_EVERY_MS = 10 * 60_000;
/** Between two batches of a pruning, requests are served. */
const PRUNE_PAUSE_MS = 50;
/** Of the database; beyond it the oldest runs are forgotten first. */
const KEEP_BYTES = 1024 ** 3;

export class Store {
  readonly runs: Runs;
  readonly idempotency: Idempotency;
  readonly tokens: Tokens;
  readonly usage: Usage;
  readonly webhooks: WebhookStore;
  readonly #db: Database;
  readonly #log: Logger;
  readonly #keep: Keep;
  readonly #tokenFile: TokenFile | undefined;
  #timer: NodeJS.Timeout | undefined;

  private constructor(db: Database, directory: string, keep: Keep, log: Logger) {
    this.#db = db;
    this.#keep = keep;
    this.#log = log;
    this.runs = new Runs(db);
    this.idempotency = new Idempotency(db);
    this.tokens = new Tokens(db);
    this.usage = new Usage(db, log);
    this.webhooks = new WebhookStore(db);
    this.#tokenFile = directory === MEMORY ? undefined : new TokenFile(directory, this.tokens, log);
    this.#pruneIn(PRUNE_PAUSE_MS);
  }

  /**
   * @param directory NOX_STATE; `:memory:` for none
   * @throws Error with the remedy, if it cannot be used
   */
  static open(directory: string, keep: Keep, log: Logger): Store {
    const db = Database.open(directory, log);
    try {
      return new Store(db, directory, keep, log);
    } catch (error) {
      db.close();
      throw error;
    }
  }

  /** Several changes at once, all or none. */
  transaction<T>(work: () => T): T {
    return this.#db.transaction(work);
  }

  /** The same, on the disk when this returns: for what a client is then told is accepted. */
  durably<T>(work: () => T): T {
    return this.#db.durably(work);
  }

  /** Forgets what is too old or too much. @returns whether there may be more to forget */
  prune(now = Date.now()): boolean {
    const since = now - this.#keep.days * DAY_MS;
    this.tokens.prune(since);
    this.usage.prune(now);
    const keys = this.idempotency.prune(now);
    const runs = this.runs.prune({ runs: this.#keep.runs, since, bytes: KEEP_BYTES });
    if (!keys && !runs) this.#db.shrink();
    return keys || runs;
  }

  close(): void {
    clearTimeout(this.#timer);
    this.usage.flush();
    this.#tokenFile?.close();
    this.#db.close();
  }

  #pruneIn(ms: number): void {
    this.#timer = setTimeout(() => {
      let more = false;
      try {
        more = this.prune();
      } catch (error) {
        this.#log.error({ err: error }, 'state: nothing could be forgotten');
      }
      this.#pruneIn(more ? PRUNE_PAUSE_MS : PRUNE_EVERY_MS);
    }, ms).unref();
  }
}

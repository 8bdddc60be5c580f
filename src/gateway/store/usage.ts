/**
 * What each token has used, by UTC day. Counted in memory and written behind, together for all: a process that is
 * killed loses what has not been written yet.
 */
import type { Logger } from 'pino';
import type { Database, Query } from './database.ts';

export interface DayUsage {
  readonly runs: number;
  readonly cpuMs: number;
}

const FLUSH_MS = 1000;
const KEEP_DAYS = 400;
const DAY_MS = 86_400_000;

/** `YYYY-MM-DD`, UTC. */
export function dayOf(now: number): string {
  return new Date(now).toISOString().slice(0, 10);
}

export class Usage {
  readonly #db: Database;
  readonly #log: Logger;
  readonly #get: Query;
  readonly #add: Query;
  readonly #forget: Query;
  /** Day → token → what is not in the database yet. */
  #pending = new Map<string, Map<string, DayUsage>>();
  #timer: NodeJS.Timeout | undefined;

  constructor(db: Database, log: Logger) {
    this.#db = db;
    this.#log = log;
    this.#get = db.prepare('SELECT runs, cpu_ms AS cpuMs FROM usage WHERE token = ? AND day = ?');
    this.#add = db.prepare(
      `INSERT INTO usage (token, day, runs, cpu_ms) VALUES (?, ?, ?, ?)
       ON CONFLICT (token, day) DO UPDATE SET runs = runs + excluded.runs, cpu_ms = cpu_ms + excluded.cpu_ms`,
    );
    this.#forget = db.prepare('DELETE FROM usage WHERE day < ?');
  }

  add(token: string, cpuMs: number, now = Date.now()): void {
    const day = dayOf(now);
    const tokens = this.#pending.get(day) ?? new Map<string, DayUsage>();
    const { runs, cpuMs: before } = tokens.get(token) ?? NONE;
    tokens.set(token, { runs: runs + 1, cpuMs: before + Math.round(cpuMs) });
    this.#pending.set(day, tokens);
    this.#timer ??= setTimeout(() => {
      this.#timer = undefined;
      this.flush();
    }, FLUSH_MS).unref();
  }

  of(token: string, now = Date.now()): DayUsage {
    const day = dayOf(now);
    const written = (this.#get.get(token, day) ?? NONE) as unknown as DayUsage;
    const pending = this.#pending.get(day)?.get(token) ?? NONE;
    return { runs: written.runs + pending.runs, cpuMs: written.cpuMs + pending.cpuMs };
  }

  /** What cannot be written now is written with what comes next. */
  flush(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#pending.size === 0) return;
    try {
      this.#db.transaction(() => {
        for (const [day, tokens] of this.#pending)
          for (const [token, { runs, cpuMs }] of tokens) this.#add.run(token, day, runs, cpuMs);
      });
      this.#pending = new Map();
    } catch (error) {
      this.#log.warn({ err: error }, 'usage: not written yet');
    }
  }

  prune(now = Date.now()): void {
    this.#forget.run(dayOf(now - KEEP_DAYS * DAY_MS));
  }
}

const NONE: DayUsage = { runs: 0, cpuMs: 0 };

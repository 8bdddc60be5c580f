/**
 * What a token may use: runs at one time, runs a minute, CPU time a day.
 *
 * The first two are counted in memory, on the monotonic clock. Only the day is the wall clock's: set back, it goes on
 * with the account of that day.
 */
import { NoxError } from '../protocol/errors.ts';
import { LIMITS } from '../protocol/limits.ts';
import type { Principal } from './principal.ts';
import type { Usage } from './store/usage.ts';

const DAY_MS = 86_400_000;

/** Leave to run. Exactly one of the two is to be called; only the first call counts. */
export interface Admission {
  /** What the run may use at most: what was asked for, or what is left of the day. */
  readonly cpuSeconds: number;
  /** It ran. undefined: nobody knows for how long; its wall time is taken, as far as it could use that. */
  charge(cpuSeconds: number | undefined): void;
  /** It did not run. */
  release(): void;
}

export interface Left {
  readonly running: number;
  /** null: no bound. */
  readonly runsThisMinute: number | null;
  readonly cpuSecondsToday: number | null;
}

interface Account {
  running: number;
  /** CPU time that the running ones may still use. */
  reservedSeconds: number;
  /** Runs that may start now, as of the time `at`. */
  bucket: number | undefined;
  at: number;
}

export class Quota {
  readonly #usage: Usage;
  readonly #monotonic: () => number;
  readonly #accounts = new Map<string, Account>();

  /** @param monotonic milliseconds from any origin */
  constructor(usage: Usage, monotonic: () => number = () => performance.now()) {
    this.#usage = usage;
    this.#monotonic = monotonic;
  }

  /**
   * @param cpuSeconds the run's limit
   * @throws NoxError `quota_exceeded`, `rate_limited`, with `retryAfter`
   */
  admit(principal: Principal, cpuSeconds: number): Admission {
    const { id, quotas } = principal;
    const account = this.#account(principal);
    const { concurrentRuns, runsPerMinute, cpuSecondsPerDay } = quotas;
    if (concurrentRuns !== undefined && account.running >= concurrentRuns) {
      throw new NoxError(
        'quota_exceeded',
        `The token ${id} has ${account.running} runs under way, of ${concurrentRuns} at one time`,
        { retryAfter: 1 },
      );
    }
    const left = this.#cpuLeft(principal, account);
    if (cpuSecondsPerDay !== undefined && left < LIMITS.cpuSeconds.minimum) {
      const full = account.reservedSeconds > 0;
      throw new NoxError(
        'quota_exceeded',
        `The token ${id} has ${full ? 'used or reserved' : 'used'} its ${cpuSecondsPerDay} CPU seconds of this day (UTC)`,
        { retryAfter: full ? 1 : Math.ceil((DAY_MS - (Date.now() % DAY_MS)) / 1000) },
      );
    }
    if (runsPerMinute !== undefined && account.bucket !== undefined) {
      if (account.bucket < 1 - ROUNDING) {
        throw new NoxError('rate_limited', `The token ${id} may start ${runsPerMinute} runs a minute`, {
          retryAfter: secondsUntil(1, account.bucket, runsPerMinute),
        });
      }
      account.bucket -= 1;
    }
    return this.#admitted(id, account, Math.min(cpuSeconds, left));
  }

  /** `RateLimit-*` (draft-ietf-httpapi-ratelimit-headers-07) of a token with a rate; `Reset`: seconds until all is left again. */
  headers(principal: Principal): Readonly<Record<string, string>> {
    const { runsPerMinute } = principal.quotas;
    if (runsPerMinute === undefined) return NO_HEADERS;
    const { bucket = runsPerMinute } = this.#account(principal);
    return {
      'ratelimit-limit': String(runsPerMinute),
      'ratelimit-remaining': String(Math.floor(bucket)),
      'ratelimit-reset': String(secondsUntil(runsPerMinute, bucket, runsPerMinute)),
    };
  }

  left(principal: Principal): Left {
    const account = this.#account(principal);
    const cpu = this.#cpuLeft(principal, account);
    return {
      running: account.running,
      runsThisMinute: account.bucket === undefined ? null : Math.floor(account.bucket),
      cpuSecondsToday: cpu === Infinity ? null : Math.max(0, cpu),
    };
  }

  #cpuLeft({ id, quotas: { cpuSecondsPerDay } }: Principal, account: Account): number {
    if (cpuSecondsPerDay === undefined) return Infinity;
    return cpuSecondsPerDay - this.#usage.of(id).cpuMs / 1000 - account.reservedSeconds;
  }

  #admitted(id: string, account: Account, cpuSeconds: number): Admission {
    const started = this.#monotonic();
    let open = true;
    const end = (): boolean => {
      if (!open) return false;
      open = false;
      account.running -= 1;
      account.reservedSeconds = account.running === 0 ? 0 : account.reservedSeconds - cpuSeconds;
      return true;
    };
    account.running += 1;
    account.reservedSeconds += cpuSeconds;
    return {
      cpuSeconds,
      charge: (used) => {
        const seconds = used ?? Math.min(cpuSeconds, (this.#monotonic() - started) / 1000);
        if (end()) this.#usage.add(id, seconds * 1000);
      },
      release: () => void end(),
    };
  }

  /** With its bucket filled up to now. */
  #account({ id, quotas: { runsPerMinute } }: Principal): Account {
    const now = this.#monotonic();
    const account = this.#accounts.get(id) ?? {
      running: 0,
      reservedSeconds: 0,
      bucket: undefined,
      at: now,
    };
    this.#accounts.set(id, account);
    if (runsPerMinute === undefined) account.bucket = undefined;
    else {
      const gained = ((now - account.at) / 60_000) * runsPerMinute;
      account.bucket = Math.min(runsPerMinute, (account.bucket ?? runsPerMinute) + gained);
    }
    account.at = now;
    return account;
  }
}

const NO_HEADERS = {};
/** After the seconds that it was told to wait, a client is let in. */
const ROUNDING = 1e-6;

function secondsUntil(wanted: number, bucket: number, perMinute: number): number {
  return Math.max(0, Math.ceil(((wanted - bucket) / perMinute) * 60));
}

/**
 * The tokens: what each may do, and the hash of its secret. The secret itself is nowhere.
 *
 * `nox_<prefix>_<secret>`: 8 visible characters by which it is found and recognised, and 32 random bytes as 43
 * characters of base64url. Bytes that are random need no slow hash: sha256 cannot be turned around for them.
 */
import { hash, randomBytes } from 'node:crypto';
import { NoxError } from '../../protocol/errors.ts';
import type { Quotas, Scope } from '../principal.ts';
import type { Database, Query, Row } from './database.ts';
import { randomText } from './ids.ts';

/** What an administrator decides about a token. */
export interface TokenRights {
  readonly name: string;
  readonly scopes: readonly Scope[];
  /** Names; null: all. */
  readonly runtimes: readonly string[] | null;
  /** Ids; null: all. */
  readonly workspaces: readonly string[] | null;
  readonly quotas: Quotas;
  /** Milliseconds since 1970; null: never. */
  readonly expires: number | null;
}

export interface TokenRecord extends TokenRights {
  readonly id: string;
  /** Its visible part. */
  readonly prefix: string;
  readonly created: number;
  readonly revoked: number | null;
  /** To the minute. */
  readonly used: number | null;
}

/** With the hashes, for the one who checks a secret. */
export interface TokenHashes {
  readonly token: TokenRecord;
  readonly hash: Uint8Array;
  /** Of the secret before the last rotation, until this time. */
  readonly old: { readonly hash: Uint8Array; readonly until: number } | undefined;
}

/** For a backup: as it is in the table, the hashes in hexadecimal. */
export interface TokenRow {
  readonly id: string;
  readonly prefix: string;
  readonly hash: string;
  readonly old_hash: string | null;
  readonly old_until: number | null;
  readonly name: string;
  readonly scopes: string;
  readonly runtimes: string | null;
  readonly workspaces: string | null;
  readonly quotas: string;
  readonly created: number;
  readonly expires: number | null;
}

export interface NewSecret {
  readonly token: TokenRecord;
  /** Shown once. */
  readonly secret: string;
}

const TOKEN = /^nox_([0-9a-z]{8})_[A-Za-z0-9_-]{43}$/;
const USED_EVERY_MS = 60_000;
const COLUMNS = 'id, name, prefix, scopes, runtimes, workspaces, quotas, created, expires, revoked, used';

/** @returns undefined for a text that is no token of ours */
export function prefixOf(text: string): string | undefined {
  return TOKEN.exec(text)?.[1];
}

export function hashOf(secret: string): Buffer {
  return hash('sha256', secret, 'buffer');
}

function newSecret(prefix: string): string {
  return `nox_${prefix}_${randomBytes(32).toString('base64url')}`;
}

export class Tokens {
  /** Told when a token has come, gone or changed. */
  onChange: () => void = () => undefined;
  readonly #db: Database;
  readonly #insert: Query;
  readonly #update: Query;
  readonly #rotate: Query;
  readonly #revoke: Query;
  readonly #used: Query;
  readonly #byId: Query;
  readonly #byPrefix: Query;
  readonly #first: Query;
  readonly #next: Query;
  readonly #forget: Query;
  readonly #rows: Query;
  readonly #add: Query;

  constructor(db: Database) {
    this.#db = db;
    this.#insert = db.prepare(
      `INSERT INTO tokens (id, prefix, hash, name, scopes, runtimes, workspaces, quotas, expires, created)
       VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    );
    this.#update = db.prepare(
      'UPDATE tokens SET name = ?, scopes = ?, runtimes = ?, workspaces = ?, quotas = ?, expires = ? WHERE id = ?',
    );
    // With the right-hand sides as they were before.
    this.#rotate = db.prepare('UPDATE tokens SET old_hash = hash, old_until = ?, hash = ? WHERE id = ?');
    this.#revoke = db.prepare('UPDATE tokens SET revoked = ? WHERE id = ? AND revoked IS NULL');
    this.#used = db.prepare('UPDATE tokens SET used = ? WHERE id = ?');
    this.#byId = db.prepare(`SELECT ${COLUMNS} FROM tokens WHERE id = ?`);
    this.#byPrefix = db.prepare(PREFIX_SQL);
    this.#first = db.prepare(`SELECT ${COLUMNS} FROM tokens ORDER BY n DESC LIMIT ?`);
    this.#next = db.prepare(PAGE_SQL);
    this.#forget = db.prepare('DELETE FROM tokens WHERE revoked < ?');
    this.#rows = db.prepare(
      `SELECT id, prefix, hex(hash) AS hash, nullif(hex(old_hash), '') AS old_hash, old_until, name, scopes, runtimes,
         workspaces, quotas, created, expires FROM tokens WHERE revoked IS NULL ORDER BY n`,
    );
    this.#add = db.prepare(
      `INSERT OR IGNORE INTO tokens (id, prefix, hash, old_hash, old_until, name, scopes, runtimes, workspaces, quotas,
         created, expires) VALUES (?, ?, unhex(?), unhex(?), ?, ?, ?, ?, ?, ?, ?, ?)`,
    );
  }

  create(rights: TokenRights, now = Date.now()): NewSecret {
    const id = `tok_${randomText(16)}`;
    const prefix = randomText(8);
    const secret = newSecret(prefix);
    this.#change(() => this.#insert.run(id, prefix, hashOf(secret), ...columns(rights), now));
    return { token: this.get(id), secret };
  }

  /** @throws NoxError `token_not_found` */
  get(id: string): TokenRecord {
    const row = this.#byId.get(id);
    if (row === undefined)
      throw new NoxError('token_not_found', `No token ${JSON.stringify(id.slice(0, 100))}`);
    return toRecord(row);
  }

  /** Newest first. @param after the `next` of the page before */
  page(limit: number, after?: string): { readonly tokens: TokenRecord[]; readonly next: string | null } {
    const rows = after === undefined ? this.#first.all(limit + 1) : this.#next.all(after, limit + 1);
    const tokens = rows.slice(0, limit).map(toRecord);
    return { tokens, next: rows.length > limit ? (tokens.at(-1)?.id ?? null) : null };
  }

  /** @throws NoxError `token_not_found`, also for a revoked one */
  update(id: string, change: Partial<TokenRights>): TokenRecord {
    return this.#change(() => {
      const rights = { ...this.#live(id), ...change };
      this.#update.run(...columns(rights), id);
      return this.get(id);
    });
  }

  /** @param overlapMs for so long the old secret is valid too */
  rotate(id: string, overlapMs: number, now = Date.now()): NewSecret {
    return this.#change(() => {
      const secret = newSecret(this.#live(id).prefix);
      this.#rotate.run(now + overlapMs, hashOf(secret), id);
      return { token: this.get(id), secret };
    });
  }

  /** May be repeated. */
  revoke(id: string, now = Date.now()): void {
    this.#change(() => {
      this.get(id);
      this.#revoke.run(now, id);
    });
  }

  find(prefix: string): TokenHashes | undefined {
    const row = this.#byPrefix.get(prefix);
    if (row === undefined) return undefined;
    const { hash, old_hash, old_until, ...rest } = row;
    const old = old_hash === null ? undefined : { hash: old_hash as Uint8Array, until: Number(old_until) };
    return { token: toRecord(rest), hash: hash as Uint8Array, old };
  }

  /** Written at most once a minute; the clock may have been set back. */
  markUsed({ id, used }: TokenRecord, now = Date.now()): void {
    if (used === null || Math.abs(now - used) >= USED_EVERY_MS) this.#used.run(now, id);
  }

  /** Forgets tokens that were revoked before this time. */
  prune(before: number): void {
    this.#forget.run(before);
  }

  /** Those that are not revoked, oldest first, for a backup (token-file.ts). */
  rows(): TokenRow[] {
    return this.#rows.all() as unknown as TokenRow[];
  }

  /** Takes tokens of a backup; one that is known stays as it is. @returns how many are new */
  add(rows: readonly TokenRow[]): number {
    return this.#change(() =>
      rows.reduce((added, row) => {
        const { id, prefix, hash, old_hash, old_until, name, scopes, ...rest } = row;
        const { runtimes, workspaces, quotas, created, expires } = rest;
        const rights = [name, scopes, runtimes, workspaces, quotas, created, expires] as const;
        return added + this.#add.run(id, prefix, hash, old_hash, old_until, ...rights);
      }, 0),
    );
  }

  #change<T>(work: () => T): T {
    const done = this.#db.durably(work);
    this.onChange();
    return done;
  }

  #live(id: string): TokenRecord {
    const token = this.get(id);
    if (token.revoked !== null)
      throw new NoxError('token_not_found', `The token ${id} has been revoked: make a new one`);
    return token;
  }
}

export const PREFIX_SQL = `SELECT ${COLUMNS}, hash, old_hash, old_until FROM tokens WHERE prefix = ?`;
/** Values: the id before, the limit. */
export const PAGE_SQL = `SELECT ${COLUMNS} FROM tokens WHERE n < (SELECT n FROM tokens WHERE id = ?) ORDER BY n DESC LIMIT ?`;

function columns({ name, scopes, runtimes, workspaces, quotas, expires }: TokenRights) {
  const list = (names: readonly string[] | null) => (names === null ? null : JSON.stringify(names));
  return [
    name,
    JSON.stringify(scopes),
    list(runtimes),
    list(workspaces),
    JSON.stringify(quotas),
    expires,
  ] as const;
}

function toRecord(row: Row): TokenRecord {
  const parse = (value: unknown): unknown => (typeof value === 'string' ? JSON.parse(value) : null);
  // Written by `columns`.
  return {
    ...row,
    scopes: parse(row['scopes']),
    runtimes: parse(row['runtimes']),
    workspaces: parse(row['workspaces']),
    quotas: parse(row['quotas']),
  } as unknown as TokenRecord;
}

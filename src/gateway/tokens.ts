/** Whose token a request carries: NOX_API_TOKEN, the administrator's, or one of the database. */
import { timingSafeEqual } from 'node:crypto';
import { NoxError } from '../protocol/errors.ts';
import { bearerCheck, bearerOf } from './auth.ts';
import { ADMIN, type Principal } from './principal.ts';
import { hashOf, prefixOf, type TokenRecord, type Tokens } from './store/tokens.ts';

/** For a token that is not there: it costs a comparison too. */
const NO_HASH = Buffer.alloc(32);

export class Authenticator {
  readonly #isAdmin: (header: string | undefined) => boolean;
  readonly #tokens: Tokens;

  constructor(adminToken: string, tokens: Tokens) {
    this.#isAdmin = bearerCheck(adminToken);
    this.#tokens = tokens;
  }

  /**
   * Looks into the database each time, so that every change is effective at once.
   *
   * @throws NoxError `unauthorized`; only who has the secret is told more
   */
  authenticate(header: string | undefined, now = Date.now()): Principal {
    if (this.#isAdmin(header)) return ADMIN;
    const secret = bearerOf(header) ?? '';
    const prefix = prefixOf(secret);
    const found = prefix === undefined ? undefined : this.#tokens.find(prefix);
    const hash = hashOf(secret);
    const current = timingSafeEqual(found?.hash ?? NO_HASH, hash);
    const old = timingSafeEqual(found?.old?.hash ?? NO_HASH, hash);
    if (found === undefined || !(current || old)) throw new NoxError('unauthorized', 'Unauthorized');
    const { token } = found;
    const fault = faultOf(token, now, current ? undefined : found.old?.until);
    if (fault !== undefined) throw new NoxError('unauthorized', `Unauthorized: ${fault}`);
    this.#markUsed(token, now);
    return principalOf(token);
  }

  #markUsed(token: TokenRecord, now: number): void {
    try {
      this.#tokens.markUsed(token, now);
    } catch {
      // The disk is full, and has been logged: to look at something must work all the same.
    }
  }
}

/** @param oldUntil where the secret is the one before the last rotation */
function faultOf({ revoked, expires }: TokenRecord, now: number, oldUntil?: number): string | undefined {
  if (revoked !== null) return 'the token has been revoked';
  if (expires !== null && now >= expires) return `the token expired at ${new Date(expires).toISOString()}`;
  if (oldUntil !== undefined && now >= oldUntil) return 'the token has been rotated and has a new secret';
  return undefined;
}

function principalOf(token: TokenRecord): Principal {
  const set = (names: readonly string[] | null) => (names === null ? undefined : new Set(names));
  const { id, name, scopes, runtimes, workspaces, quotas, expires } = token;
  return {
    id,
    name,
    scopes: new Set(scopes),
    runtimes: set(runtimes),
    workspaces: set(workspaces),
    quotas,
    expires,
  };
}

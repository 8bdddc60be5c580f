import assert from 'node:assert/strict';
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, test } from 'node:test';
import type { FastifyRequest } from 'fastify';
import fc from 'fast-check';
import { pino } from 'pino';
import {
  ADMIN,
  mayUseDefault,
  requireRuntime,
  requireWorkspace,
  type Principal,
} from '../../src/gateway/principal.ts';
import { Store } from '../../src/gateway/store/store.ts';
import type { TokenRights } from '../../src/gateway/store/tokens.ts';
import { Authenticator } from '../../src/gateway/tokens.ts';
import { NoxError } from '../../src/protocol/errors.ts';

const RIGHTS: TokenRights = {
  name: 'a colleague',
  scopes: ['run'],
  ...{ runtimes: null, workspaces: null, quotas: {}, expires: null },
};
const MINUTE_MS = 60_000;

let dir: string;
let store: Store;
let auth: Authenticator;
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nox-tokens-'));
  store = Store.open(dir, { runs: 1, days: 1 }, pino({ level: 'silent' }));
  auth = new Authenticator('the-admin', store.tokens);
});
afterEach(() => {
  store.close();
  rmSync(dir, { recursive: true });
});

function refusal(header: string | undefined, now?: number): string {
  try {
    auth.authenticate(header, now);
  } catch (error) {
    assert.ok(error instanceof NoxError && error.code === 'unauthorized', String(error));
    return error.message;
  }
  return assert.fail(`${String(header)} is let in`);
}

describe('authentication', () => {
  test('NOX_API_TOKEN is the administrator’s; a token is its own principal', () => {
    assert.equal(auth.authenticate('Bearer the-admin'), ADMIN);
    const { token, secret } = store.tokens.create({
      ...RIGHTS,
      ...{ runtimes: ['python'], workspaces: ['w'], quotas: { runsPerMinute: 3 } },
    });
    const principal = auth.authenticate(`bearer ${secret}`);
    assert.deepEqual(principal, {
      ...{ id: token.id, name: 'a colleague', scopes: new Set(['run']), runtimes: new Set(['python']) },
      ...{ workspaces: new Set(['w']), quotas: { runsPerMinute: 3 }, expires: null },
    });
  });

  test('the shape: a visible prefix, and 32 random bytes', () => {
    const { token, secret } = store.tokens.create(RIGHTS);
    assert.match(secret, /^nox_[0-9a-z]{8}_[A-Za-z0-9_-]{43}$/);
    assert.ok(secret.startsWith(`nox_${token.prefix}_`));
    assert.match(token.id, /^tok_[0-9a-z]{16}$/);
  });

  test('nothing but the whole secret opens the door', () => {
    const { secret } = store.tokens.create(RIGHTS);
    const { secret: other } = store.tokens.create(RIGHTS);
    const mixed = secret.slice(0, 13) + other.slice(13);
    const swapped = secret.slice(0, -2) + (secret.endsWith('A') ? 'BB' : 'AA');
    for (const text of [
      '',
      secret.slice(0, -1),
      `${secret}A`,
      mixed,
      swapped,
      secret.toUpperCase(),
      secret.slice(4),
    ])
      assert.equal(refusal(`Bearer ${text}`), 'Unauthorized');
    assert.equal(refusal(undefined), 'Unauthorized');
    assert.equal(refusal(`Basic ${secret}`), 'Unauthorized');
  });

  test('property: no other text does, and none makes it fail', () => {
    const { secret } = store.tokens.create(RIGHTS);
    const prefix = secret.slice(0, 13);
    const tail = fc.array(fc.constantFrom('A', 'z', '0', '9', '-', '_'), { minLength: 43, maxLength: 43 });
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string({ unit: 'binary' }),
          tail.map((chars) => prefix + chars.join('')),
          tail.map((chars) => `nox_00000000_${chars.join('')}`),
        ),
        (text) => text === secret || refusal(`Bearer ${text}`) === 'Unauthorized',
      ),
    );
  });

  test('expired, revoked, rotated: at once, and said to none but the one who has the secret', () => {
    const now = Date.now();
    const { token, secret } = store.tokens.create({ ...RIGHTS, expires: now + MINUTE_MS });
    const wrong = `Bearer ${secret.slice(0, -4)}0000`;
    auth.authenticate(`Bearer ${secret}`, now + MINUTE_MS - 1);
    assert.match(refusal(`Bearer ${secret}`, now + MINUTE_MS), /^Unauthorized: the token expired at 20/);
    assert.equal(refusal(wrong, now + MINUTE_MS), 'Unauthorized');
    store.tokens.update(token.id, { expires: null });
    auth.authenticate(`Bearer ${secret}`, now + MINUTE_MS);
    const rotated = store.tokens.rotate(token.id, 0, now);
    assert.match(refusal(`Bearer ${secret}`, now), /rotated and has a new secret$/);
    auth.authenticate(`Bearer ${rotated.secret}`, now);
    store.tokens.revoke(token.id);
    assert.match(refusal(`Bearer ${rotated.secret}`), /has been revoked$/);
    assert.match(refusal(`Bearer ${secret}`), /has been revoked$/);
    assert.equal(refusal(wrong), 'Unauthorized');
  });

  test('a rotation with an overlap: both secrets until then, then the new one; of two rotations the last two', () => {
    const now = Date.now();
    const { token, secret: first } = store.tokens.create(RIGHTS);
    const { secret: second } = store.tokens.rotate(token.id, MINUTE_MS, now);
    for (const secret of [first, second]) auth.authenticate(`Bearer ${secret}`, now + MINUTE_MS - 1);
    assert.match(refusal(`Bearer ${first}`, now + MINUTE_MS), /rotated/);
    auth.authenticate(`Bearer ${second}`, now + MINUTE_MS);
    store.tokens.rotate(token.id, MINUTE_MS, now);
    assert.equal(refusal(`Bearer ${first}`, now), 'Unauthorized');
    auth.authenticate(`Bearer ${second}`, now);
  });

  test('the last use is written at most once a minute, also if the clock is set back', () => {
    const now = Date.now();
    const { token, secret } = store.tokens.create(RIGHTS);
    const used = (time: number) => {
      auth.authenticate(`Bearer ${secret}`, time);
      return store.tokens.get(token.id).used;
    };
    assert.equal(used(now), now);
    assert.equal(used(now + MINUTE_MS - 1), now);
    assert.equal(used(now + MINUTE_MS), now + MINUTE_MS);
    assert.equal(used(now - MINUTE_MS), now - MINUTE_MS);
  });

  test('the secret is nowhere in the state, neither as text nor as its bytes', () => {
    const { token, secret } = store.tokens.create({ ...RIGHTS, name: 'findable' });
    const rotated = store.tokens.rotate(token.id, MINUTE_MS);
    for (const each of [secret, rotated.secret]) auth.authenticate(`Bearer ${each}`);
    const look = () => {
      let found = false;
      for (const name of readdirSync(dir)) {
        const bytes = readFileSync(join(dir, name));
        found ||= bytes.includes('findable');
        for (const each of [secret, rotated.secret]) {
          const tail = each.slice(13);
          for (const needle of [tail, Buffer.from(tail, 'base64url'), tail.slice(0, 20)])
            assert.ok(!bytes.includes(needle), name);
        }
      }
      assert.ok(found, 'the token itself is there');
    };
    look();
    store.close();
    look();
    store = Store.open(dir, { runs: 1, days: 1 }, pino({ level: 'silent' }));
  });

  test('tokens that were revoked long ago are forgotten, others never', () => {
    const now = Date.now();
    const { token: gone } = store.tokens.create(RIGHTS, 0);
    const { token: kept } = store.tokens.create({ ...RIGHTS, expires: 1 }, 0);
    store.tokens.revoke(gone.id, now - 2 * 86_400_000);
    store.prune(now);
    assert.deepEqual(
      store.tokens.page(10).tokens.map(({ id }) => id),
      [kept.id],
    );
  });
});

test('the four calls need their scope, the default workspace, and the runtime', () => {
  const ask = (principal: Partial<Principal>, ...needs: Parameters<typeof mayUseDefault>) => {
    const request = { principal: { ...ADMIN, ...principal }, method: 'POST', url: '/x?token=1' };
    let message = '';
    mayUseDefault(...needs)(request as FastifyRequest, undefined as never, (error) => {
      message = error?.message ?? 'ok';
    });
    return message;
  };
  assert.equal(ask({}, 'run', 'python'), 'ok');
  assert.equal(
    ask({ scopes: new Set(['files', 'admin']) }, 'run'),
    'The token lacks the scope `run` for POST /x',
  );
  assert.equal(ask({ workspaces: new Set(['a']) }, 'files'), 'The token may not use the workspace "default"');
  assert.equal(
    ask({ runtimes: new Set(['perl']) }, 'run', 'python'),
    'The token may not use the runtime "python"',
  );
  assert.equal(
    ask({ runtimes: new Set(['python']), workspaces: new Set(['default']) }, 'run', 'python'),
    'ok',
  );
  assert.throws(() => requireWorkspace({ ...ADMIN, workspaces: new Set() }, 'a'), /"a"/);
  assert.throws(() => requireRuntime({ ...ADMIN, runtimes: new Set() }, 'a'), /"a"/);
});

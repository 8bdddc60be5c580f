/** The tokens in a file, for a backup: what is in it, when, and what a restore makes of it. */
import assert from 'node:assert/strict';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { pino } from 'pino';
import { RESTORED_FILE, TOKENS_FILE } from '../../src/gateway/store/token-file.ts';
import { Store } from '../../src/gateway/store/store.ts';
import type { TokenRights } from '../../src/gateway/store/tokens.ts';
import { Authenticator } from '../../src/gateway/tokens.ts';

const RIGHTS: TokenRights = {
  ...{ name: 'a "colleague"', scopes: ['run'], runtimes: ['python'], workspaces: null },
  ...{ quotas: { runsPerMinute: 5 }, expires: 4_000_000_000_000 },
};

const made: { dir: string; store: Store }[] = [];
function open(dir = mkdtempSync(join(tmpdir(), 'nox-token-file-'))) {
  const store = Store.open(dir, { runs: 1, days: 1 }, pino({ level: 'silent' }));
  made.push({ dir, store });
  return { dir, store, auth: new Authenticator('the-admin', store.tokens) };
}
afterEach(() => {
  for (const { store } of made) store.close();
  for (const { dir } of made.splice(0)) rmSync(dir, { recursive: true, force: true });
});
const namesIn = (dir: string): string[] =>
  existsSync(join(dir, TOKENS_FILE))
    ? (JSON.parse(readFileSync(join(dir, TOKENS_FILE), 'utf8')) as { tokens: { name: string }[] }).tokens.map(
        ({ name }) => name,
      )
    : [];
async function until(what: string, condition: () => boolean): Promise<void> {
  for (const end = Date.now() + 10_000; !condition();) {
    assert.ok(Date.now() < end, what);
    await sleep(20);
  }
}
const bearer = (secret: string) => `Bearer ${secret}`;

test('it follows every change, without a secret, for its user alone', async () => {
  const { dir, store } = open();
  await until('the file is there', () => existsSync(join(dir, TOKENS_FILE)));
  assert.equal(statSync(join(dir, TOKENS_FILE)).mode & 0o777, 0o600);
  const { token, secret } = store.tokens.create(RIGHTS);
  await until('made', () => namesIn(dir).length === 1);
  assert.ok(!readFileSync(join(dir, TOKENS_FILE), 'utf8').includes(secret.slice(-20)));
  store.tokens.update(token.id, { name: 'another' });
  await until('changed', () => namesIn(dir)[0] === 'another');
  store.tokens.revoke(token.id);
  await until('revoked', () => namesIn(dir).length === 0);
});

test('restored elsewhere, a token has the same secret and the same rights; the file is gone', async () => {
  const { dir, store } = open();
  const { token, secret } = store.tokens.create(RIGHTS);
  const rotated = store.tokens.rotate(token.id, 3_600_000);
  await until('made', () => namesIn(dir).length === 1);
  await sleep(1200);
  const other = mkdtempSync(join(tmpdir(), 'nox-token-file-'));
  writeFileSync(join(other, RESTORED_FILE), readFileSync(join(dir, TOKENS_FILE)));
  const { store: there, auth } = open(other);
  assert.deepEqual(
    { ...there.tokens.get(token.id), used: null },
    { ...store.tokens.get(token.id), used: null },
  );
  for (const each of [secret, rotated.secret]) assert.equal(auth.authenticate(bearer(each)).id, token.id);
  assert.ok(!existsSync(join(other, RESTORED_FILE)));
  await until('and is in the next backup', () => namesIn(other).length === 1);
});

test('restored where it is known, it stays as it is: what was revoked or rotated since stays so', async () => {
  const { dir, store } = open();
  const revoked = store.tokens.create(RIGHTS);
  const rotated = store.tokens.create(RIGHTS);
  await until('made', () => namesIn(dir).length === 2);
  const saved = readFileSync(join(dir, TOKENS_FILE));
  store.tokens.revoke(revoked.token.id);
  const now = store.tokens.rotate(rotated.token.id, 0);
  made.splice(0);
  store.close();
  writeFileSync(join(dir, RESTORED_FILE), saved);
  const { auth } = open(dir);
  assert.throws(() => auth.authenticate(bearer(revoked.secret)), { code: 'unauthorized' });
  assert.throws(() => auth.authenticate(bearer(rotated.secret)), { code: 'unauthorized' });
  assert.equal(auth.authenticate(bearer(now.secret)).id, rotated.token.id);
});

test('a file that cannot be written is said, and costs no token', () => {
  const dir = mkdtempSync(join(tmpdir(), 'nox-token-file-'));
  mkdirSync(join(dir, `${TOKENS_FILE}.new`));
  const said: string[] = [];
  const log = pino({ level: 'error' }, { write: (line: string) => void said.push(line) });
  const store = Store.open(dir, { runs: 1, days: 1 }, log);
  made.push({ dir, store });
  assert.match(said.join(''), /the tokens for a backup could not be written/);
  const { token, secret } = store.tokens.create(RIGHTS);
  assert.equal(new Authenticator('the-admin', store.tokens).authenticate(bearer(secret)).id, token.id);
});

test('what is no file of tokens: the gateway does not start, says why, and takes in nothing', async () => {
  const { dir, store } = open();
  store.tokens.create(RIGHTS);
  await until('made', () => namesIn(dir).length === 1);
  const { tokens } = JSON.parse(readFileSync(join(dir, TOKENS_FILE), 'utf8')) as { tokens: object[] };
  const one = tokens[0] ?? {};
  const bad: unknown[] = [
    null,
    { format: 2, tokens },
    { format: 1, tokens: [{ ...one, scopes: '[' }] },
    { format: 1, tokens: [one, { ...one, id: 'tok_b', prefix: 'bbbbbbbb', scopes: '["run"]]' }] },
    { format: 1, tokens: [{ ...one, hash: 'x' }] },
    { format: 1, tokens: [{ ...one, more: 1 }] },
  ];
  for (const value of bad) {
    const other = mkdtempSync(join(tmpdir(), 'nox-token-file-'));
    writeFileSync(join(other, RESTORED_FILE), JSON.stringify(value));
    assert.throws(() => open(other), /tokens\.restored\.json: has no tokens of a backup .*: remove it/);
    rmSync(join(other, RESTORED_FILE));
    assert.equal(open(other).store.tokens.page(10).tokens.length, 0);
  }
});

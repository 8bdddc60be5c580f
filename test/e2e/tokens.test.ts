/** /v1/tokens on real servers: made, used, refused, changed, rotated, revoked; hostile input; nothing kept of a secret. */
import assert from 'node:assert/strict';
import { once } from 'node:events';
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import Type, { type TSchema } from 'typebox';
import { pino } from 'pino';
import { WebSocket } from 'ws';
import { Token, TokenPage, TokenSelf, TokenWithSecret } from '../../src/gateway/routes/v1-tokens.ts';
import { Store } from '../../src/gateway/store/store.ts';
import { validator } from '../../src/protocol/validate.ts';
import { eventually, makeDirectory, startServer, TOKEN, withServer, type Server } from '../support/server.ts';
import { mark, sleeping } from '../support/v1.ts';

type Json = Record<string, unknown>;
interface Reply {
  readonly status: number;
  readonly headers: Headers;
  readonly body: Json;
}

const ErrorAnswer = Type.Object({ detail: Type.String(), code: Type.String(), hint: Type.String() });

for (const split of [false, true]) {
  describe(split ? 'gateway --jitless and runner' : 'one process', () => {
    let server: Server;
    before(async () => {
      server = await startServer({ split });
    });
    after(() => server.stop());

    const call = async (method: string, path: string, body?: unknown, token = TOKEN): Promise<Reply> => {
      const response = await fetch(`${server.url}${path}`, {
        method,
        headers: { authorization: `Bearer ${token}` },
        ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
      });
      const text = await response.text();
      return {
        status: response.status,
        headers: response.headers,
        body: text === '' ? {} : (JSON.parse(text) as Json),
      };
    };
    const fits = <T extends TSchema>(schema: T, { body }: Reply) => validator(schema)(body);
    const create = async (more: object = {}) => {
      const reply = await call('POST', '/v1/tokens', { name: 'n', scopes: ['run'], ...more });
      assert.equal(reply.status, 201, JSON.stringify(reply.body));
      assert.equal(reply.headers.get('cache-control'), 'no-store');
      return fits(TokenWithSecret, reply);
    };
    const run = (token: string) => call('POST', '/run_py', { code: 'print(6 * 7)' }, token);
    const refused = (reply: Reply, status: number, code: string, detail?: RegExp) => {
      fits(ErrorAnswer, reply);
      assert.deepEqual([reply.status, reply.body['code']], [status, code], JSON.stringify(reply.body));
      if (detail !== undefined) assert.match(String(reply.body['detail']), detail);
    };
    const put = async (token: string): Promise<Reply> => {
      const form = new FormData();
      form.set('f', new Blob(['x']), 'file');
      const headers = { authorization: `Bearer ${token}` };
      const response = await fetch(`${server.url}/put?path=p`, { method: 'POST', headers, body: form });
      return { status: response.status, headers: response.headers, body: (await response.json()) as Json };
    };

    test('made, used, seen by the administrator, and only its prefix after that', async () => {
      const { secret, ...token } = await create({ name: 'Zoë’s grader; DROP TABLE tokens; --' });
      assert.equal((await run(secret)).body['stdout'], '42\n');
      const got = fits(Token, await call('GET', `/v1/tokens/${token.id}`));
      assert.deepEqual({ ...got, lastUsed: null }, token);
      assert.ok(got.lastUsed !== null);
      assert.ok(secret.startsWith(`${got.prefix}_`));
      const list = await call('GET', '/v1/tokens');
      assert.ok(fits(TokenPage, list).tokens.some(({ id }) => id === token.id));
      assert.ok(!JSON.stringify(list.body).includes(secret.slice(13)));
    });

    test('each scope opens its calls and no other', async () => {
      const { secret: runs } = await create({ scopes: ['run'] });
      const { secret: files } = await create({ scopes: ['files'] });
      const { secret: admin } = await create({ scopes: ['admin'] });
      assert.equal((await run(runs)).status, 200);
      assert.equal((await put(files)).status, 200);
      refused(await put(runs), 403, 'forbidden', /lacks the scope `files`/);
      for (const token of [files, admin]) {
        refused(await run(token), 403, 'forbidden', /lacks the scope `run`/);
        refused(await call('POST', '/run_sh', { cmd: 'true' }, token), 403, 'forbidden');
      }
      for (const [method, path] of [
        ['GET', '/v1/tokens'],
        ['POST', '/v1/tokens'],
        ['GET', '/v1/tokens/tok_0123456789abcdef'],
        ['PATCH', '/v1/tokens/tok_0123456789abcdef'],
        ['DELETE', '/v1/tokens/tok_0123456789abcdef'],
        ['POST', '/v1/tokens/tok_0123456789abcdef/rotate'],
      ] as const)
        for (const token of [runs, files])
          refused(await call(method, path, undefined, token), 403, 'forbidden', /lacks the scope `admin`/);
      assert.equal((await call('GET', '/v1/tokens', undefined, admin)).status, 200);
      // Before the body: what cannot be parsed is not looked at.
      refused(await call('POST', '/run_py', '{', files), 403, 'forbidden');
    });

    test('bound to another workspace or runtime, the four calls are closed', async () => {
      const { secret: elsewhere } = await create({ scopes: ['run', 'files'], workspaces: ['other'] });
      refused(await run(elsewhere), 403, 'forbidden', /workspace "default"/);
      refused(await put(elsewhere), 403, 'forbidden', /workspace "default"/);
      const { secret: python } = await create({ runtimes: ['python'], workspaces: ['default'] });
      assert.equal((await run(python)).status, 200);
      refused(await call('POST', '/run_sh', { cmd: 'true' }, python), 403, 'forbidden', /runtime "bash"/);
    });

    test('without a token, and with a wrong one: the same answer on every route', async () => {
      for (const path of ['/v1/tokens', '/v1/tokens/self', '/run_py'])
        for (const token of ['', 'x', 'nox_00000000_0123456789012345678901234567890123456789012']) {
          const reply = await call(path === '/run_py' ? 'POST' : 'GET', path, undefined, token);
          refused(reply, 401, 'unauthorized', /^Unauthorized$/);
          assert.equal(reply.headers.get('www-authenticate'), 'Bearer');
        }
    });

    test('rotated: the new secret at once, the old one for as long as was said', async () => {
      const { id, secret: first } = await create();
      const second = fits(TokenWithSecret, await call('POST', `/v1/tokens/${id}/rotate`));
      assert.equal(second.id, id);
      refused(await run(first), 401, 'unauthorized', /rotated/);
      const third = fits(
        TokenWithSecret,
        await call('POST', `/v1/tokens/${id}/rotate`, { overlapSeconds: 60 }),
      );
      for (const { secret } of [second, third]) assert.equal((await run(secret)).status, 200);
    });

    test('revoked: what it has under way ends', async () => {
      const { id, secret } = await create({ scopes: ['run', 'files'] });
      const headers = { authorization: `Bearer ${secret}` };
      const seconds = mark();
      const watched = fetch(`${server.url}/v1/workspaces/default/watch`, { headers }).then((watch) =>
        watch.text(),
      );
      const terminal = new WebSocket(
        `${server.url.replace('http', 'ws')}/v1/terminal?command=sleep&command=${seconds}`,
        { headers },
      );
      await once(terminal, 'message');
      const closed = once(terminal, 'close');
      const waited = call('POST', '/v1/runs', { command: ['sleep', seconds] }, secret);
      const gone = Promise.all([assert.rejects(watched), assert.rejects(waited), closed]);
      // More than there are slots.
      const sleeper = { command: ['sleep', seconds], background: true };
      for (let n = 0; n < 20; n += 1)
        assert.equal((await call('POST', '/v1/runs', sleeper, secret)).status, 202);
      const other = await call('POST', '/v1/runs', { ...sleeper, command: ['sleep', `${seconds}1`] });
      assert.equal((await call('DELETE', `/v1/tokens/${id}`)).status, 204);
      await gone;
      await eventually('its runs have ended', async () => {
        const { body } = await call('GET', '/v1/runs?limit=100');
        const open = (body['runs'] as Json[]).filter(({ state }) => state !== 'ended');
        return open.length === 1 && open[0]?.['id'] === other.body['id'] && sleeping(seconds) === 0;
      });
      const { body } = await call('GET', '/v1/runs?limit=100&outcome=cancelled');
      const reasons = (body['runs'] as Json[]).map(({ reason }) => reason);
      assert.deepEqual(new Set(reasons), new Set(['its token was revoked']));
      await call('POST', `/v1/runs/${String(other.body['id'])}/cancel`);
    });

    test('revoked: refused from the next call on, and for good', async () => {
      const { id, secret } = await create();
      assert.equal((await run(secret)).status, 200);
      for (let each = 0; each < 2; each += 1)
        assert.equal((await call('DELETE', `/v1/tokens/${id}`)).status, 204);
      refused(await run(secret), 401, 'unauthorized', /has been revoked/);
      assert.notEqual(fits(Token, await call('GET', `/v1/tokens/${id}`)).revoked, null);
      refused(await call('PATCH', `/v1/tokens/${id}`, { name: 'b' }), 404, 'token_not_found', /revoked/);
      refused(await call('POST', `/v1/tokens/${id}/rotate`), 404, 'token_not_found', /revoked/);
    });

    test('expired: refused when its time has come, let in when that is changed', async () => {
      const { id, secret } = await create({ expires: new Date(Date.now() + 3000).toISOString() });
      assert.equal((await run(secret)).status, 200);
      await eventually('expired', async () => (await run(secret)).status === 401);
      refused(await run(secret), 401, 'unauthorized', /the token expired at 2/);
      assert.equal((await call('PATCH', `/v1/tokens/${id}`, { expires: null })).status, 200);
      assert.equal((await run(secret)).status, 200);
    });

    test('changed: what is named changes at once, the rest stays', async () => {
      const { id, secret } = await create({ quotas: { runsPerMinute: 5, storageBytes: 7 } });
      const change = { scopes: ['files'], quotas: { runsPerMinute: null, concurrentRuns: 2 } };
      const changed = fits(Token, await call('PATCH', `/v1/tokens/${id}`, change));
      assert.deepEqual(changed.quotas, { storageBytes: 7, concurrentRuns: 2 });
      assert.deepEqual([changed.name, changed.scopes], ['n', ['files']]);
      refused(await run(secret), 403, 'forbidden');
      assert.deepEqual(fits(Token, await call('PATCH', `/v1/tokens/${id}`, {})).scopes, ['files']);
      for (const [member, value] of Object.entries({ id: 'admin', revoked: null, hash: 'x', created: 1 }))
        refused(
          await call('PATCH', `/v1/tokens/${id}`, { [member]: value }),
          422,
          'invalid_request',
          new RegExp(`^${member}: no such member`),
        );
    });

    test('self: what am I allowed, how much is left', async () => {
      const { id, secret } = await create({
        ...{ scopes: ['run', 'files'], runtimes: ['python'], workspaces: ['default'] },
        quotas: { runsPerMinute: 10, cpuSecondsPerDay: 100 },
      });
      await run(secret);
      const self = fits(TokenSelf, await call('GET', '/v1/tokens/self', undefined, secret));
      assert.deepEqual([self.id, self.scopes, self.runtimes], [id, ['run', 'files'], ['python']]);
      assert.deepEqual([self.used.running, self.used.runsToday, self.left.runsThisMinute], [0, 1, 9]);
      assert.ok(self.used.cpuSecondsToday > 0);
      assert.ok(Math.abs((self.left.cpuSecondsToday ?? 0) + self.used.cpuSecondsToday - 100) < 0.01);
      const admin = fits(TokenSelf, await call('GET', '/v1/tokens/self'));
      assert.deepEqual([admin.id, admin.quotas, admin.left.cpuSecondsToday], ['admin', {}, null]);
    });

    test('a rate: headers that count down, then 429 with the seconds to wait', async () => {
      const { secret } = await create({ quotas: { runsPerMinute: 2 } });
      for (const remaining of ['1', '0']) {
        const reply = await run(secret);
        assert.equal(reply.status, 200);
        assert.equal(reply.headers.get('ratelimit-limit'), '2');
        assert.equal(reply.headers.get('ratelimit-remaining'), remaining);
        assert.ok(Number(reply.headers.get('ratelimit-reset')) > 0);
      }
      const reply = await run(secret);
      refused(reply, 429, 'rate_limited', /may start 2 runs a minute/);
      const wait = Number(reply.headers.get('retry-after'));
      assert.ok(wait >= 1 && wait <= 30, String(wait));
      assert.equal(reply.headers.get('ratelimit-remaining'), '0');
      assert.equal((await run(TOKEN)).headers.get('ratelimit-limit'), null);
      assert.equal((await call('GET', '/v1/tokens/self', undefined, secret)).status, 200);
    });

    test('runs at one time', async () => {
      const { secret } = await create({ quotas: { concurrentRuns: 1 } });
      const gone = new AbortController();
      const long = fetch(`${server.url}/run_py`, {
        method: 'POST',
        headers: { authorization: `Bearer ${secret}` },
        body: JSON.stringify({ code: 'import time; time.sleep(15)' }),
        signal: gone.signal,
      }).catch(() => undefined);
      const self = async () =>
        fits(TokenSelf, await call('GET', '/v1/tokens/self', undefined, secret)).used.running;
      await eventually('it runs', async () => (await self()) === 1);
      const reply = await run(secret);
      refused(reply, 429, 'quota_exceeded', /has 1 runs under way, of 1 at one time/);
      assert.equal(reply.headers.get('retry-after'), '1');
      gone.abort();
      await long;
      await eventually('it has ended', async () => (await self()) === 0);
      assert.equal((await run(secret)).status, 200);
    });

    test('CPU seconds a day: a run gets what is left, then none is let in', async () => {
      const { secret } = await create({ quotas: { cpuSecondsPerDay: 1 } });
      const reply = await call('POST', '/run_py', { code: 'while True: pass' }, secret);
      assert.equal(reply.headers.get('nox-outcome'), 'cpu_limit');
      refused(await run(secret), 429, 'quota_exceeded', /has used its 1 CPU seconds of this day/);
    });

    for (const [what, body, detail] of [
      ['a name that is not there', { scopes: ['run'] }, /^name: missing/],
      ['an empty name', { name: '', scopes: ['run'] }, /^name: ""/],
      ['a huge name', { name: 'x'.repeat(100_000), scopes: ['run'] }, /^name: "x{90,100}…? /],
      ['a name with a line break', { name: 'a\nb', scopes: ['run'] }, /^name: /],
      ['NUL in the name', { name: 'a\0b', scopes: ['run'] }, /^name: /],
      ['a number for a name', { name: 5, scopes: ['run'] }, /^name: 5 must be string/],
      ['no scope', { name: 'n', scopes: [] }, /^scopes: /],
      ['an unknown scope', { name: 'n', scopes: ['root'] }, /^scopes\.0: "root"/],
      ['a scope twice', { name: 'n', scopes: ['run', 'run'] }, /^scopes: /],
      ['a text for a list', { name: 'n', scopes: 'run' }, /^scopes: "run" must be array/],
      ['an unknown member', { name: 'n', scopes: ['run'], scope: 'run' }, /^scope: no such member/],
      [
        'an unknown quota',
        { name: 'n', scopes: ['run'], quotas: { cpu: 1 } },
        /^quotas\.cpu: no such member/,
      ],
      [
        'a quota of nothing',
        { name: 'n', scopes: ['run'], quotas: { concurrentRuns: 0 } },
        /^quotas\.concurrentRuns: 0/,
      ],
      [
        'half a run',
        { name: 'n', scopes: ['run'], quotas: { runsPerMinute: 0.5 } },
        /^quotas\.runsPerMinute: 0\.5/,
      ],
      [
        'a quota beyond all',
        { name: 'n', scopes: ['run'], quotas: { storageBytes: 1e300 } },
        /^quotas\.storageBytes: /,
      ],
      ['__proto__', '{"name":"n","scopes":["run"],"__proto__":{"id":"admin"}}', /^__proto__: no such member/],
      ['constructor', '{"name":"n","scopes":["run"],"constructor":{}}', /^constructor: no such member/],
      [
        '__proto__ among the quotas',
        '{"name":"n","scopes":["run"],"quotas":{"__proto__":1}}',
        /__proto__: no such member/,
      ],
      [
        'a path for a workspace',
        { name: 'n', scopes: ['run'], workspaces: ['../etc'] },
        /^workspaces\.0: "\.\.\/etc"/,
      ],
      ['a date that is none', { name: 'n', scopes: ['run'], expires: '2999-02-31T00:00:00Z' }, /^expires: /],
      ['a leap second', { name: 'n', scopes: ['run'], expires: '2998-12-31T23:59:60Z' }, /^expires: /],
      [
        'a day of the past',
        { name: 'n', scopes: ['run'], expires: '1970-01-01T00:00:00Z' },
        /^expires: .*in the future/,
      ],
      ['a number for a time', { name: 'n', scopes: ['run'], expires: 5 }, /^expires: 5/],
      [
        'an administrator who is bound',
        { name: 'n', scopes: ['admin'], workspaces: ['a'] },
        /^workspaces: .*cannot be bound/,
      ],
      ['a list', [], /^body: \[\] must be object/],
      ['null', 'null', /^body: null must be object/],
      ['no JSON', '{', /^body: not JSON/],
    ] as const) {
      test(`${what} is refused by name`, async () => {
        refused(await call('POST', '/v1/tokens', body), 422, 'invalid_request', detail);
      });
    }

    test('ids that are none, and that are nobody’s', async () => {
      for (const id of ["' OR 1=1 --", '%27', '__proto__', 'x'.repeat(90), 'tok_'])
        refused(await call('GET', `/v1/tokens/${encodeURIComponent(id)}`), 422, 'invalid_request', /^id: /);
      refused(await call('GET', '/v1/tokens/tok_0123456789abcdef'), 404, 'token_not_found');
      refused(await call('DELETE', '/v1/tokens/tok_0123456789abcdef'), 404, 'token_not_found');
      refused(await call('GET', '/v1/tokens?limit=0'), 422, 'invalid_request', /^limit: 0/);
      refused(await call('GET', '/v1/tokens?offset=1'), 422, 'invalid_request', /^offset: no such member/);
      assert.deepEqual((await call('GET', "/v1/tokens?after=' OR 1=1 --")).body, { tokens: [], next: null });
      const overlap = await call('POST', '/v1/tokens/tok_0123456789abcdef/rotate', { overlapSeconds: -1 });
      refused(overlap, 422, 'invalid_request', /^overlapSeconds: -1/);
    });

    test('tokens and what they used survive a gateway that is killed', async () => {
      const dir = await makeDirectory();
      const env = { NOX_STATE: join(dir, 'own-state') };
      let secret = '';
      await withServer({ split, env }, async (first) => {
        const response = await fetch(`${first.url}/v1/tokens`, {
          method: 'POST',
          headers: { authorization: `Bearer ${TOKEN}` },
          body: JSON.stringify({ name: 'n', scopes: ['run'] }),
        });
        ({ secret } = (await response.json()) as { secret: string });
        for (const each of first.processes) each.kill('SIGKILL');
      });
      await withServer({ split, env }, async (second) => {
        const headers = { authorization: `Bearer ${secret}` };
        assert.equal((await fetch(`${second.url}/v1/tokens/self`, { headers })).status, 200);
        if (process.getuid?.() !== 0) return;
        for (const name of readdirSync(env.NOX_STATE))
          assert.ok(!readFileSync(join(env.NOX_STATE, name)).includes(secret.slice(13)), name);
      });
    });
  });
}

test('10,000 tokens: each is listed once, and the last of them lets in', async () => {
  const dir = await makeDirectory();
  const state = join(dir, 'many');
  const store = Store.open(state, { runs: 1, days: 1 }, pino({ level: 'silent' }));
  const rights = {
    ...{ name: 'n', scopes: ['run'] as const, runtimes: null, workspaces: null, quotas: {}, expires: null },
  };
  const made = store.durably(() => Array.from({ length: 10_000 }, () => store.tokens.create(rights)));
  const got: string[] = [];
  let after: string | undefined;
  do {
    const page = store.tokens.page(1000, after);
    got.push(...page.tokens.map(({ id }) => id));
    after = page.next ?? undefined;
  } while (after !== undefined);
  assert.deepEqual(got, made.map(({ token }) => token.id).toReversed());
  store.close();
  const { secret } = made.at(-1) ?? { secret: '' };
  const reopened = Store.open(state, { runs: 1, days: 1 }, pino({ level: 'silent' }));
  const { Authenticator } = await import('../../src/gateway/tokens.ts');
  const { id } = new Authenticator('x', reopened.tokens).authenticate(`Bearer ${secret}`);
  assert.equal(id, made.at(-1)?.token.id);
  reopened.close();
});

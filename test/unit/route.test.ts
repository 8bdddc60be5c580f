import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import Fastify, { type FastifyInstance } from 'fastify';
import Type from 'typebox';
import { ADMIN } from '../../src/gateway/principal.ts';
import { addRoute, closed, keepRoutes, PageQuery, type RouteInfo } from '../../src/gateway/route.ts';
import { ERRORS, NoxError } from '../../src/protocol/errors.ts';

interface Seen {
  params: unknown;
  query: unknown;
  body: unknown;
}

/** Fastify's own objects have no prototype. */
const plain = (value: unknown): unknown => JSON.parse(JSON.stringify(value));

describe('addRoute', () => {
  let app: FastifyInstance;
  let seen: Seen | undefined;
  let scopes: readonly ('run' | 'files' | 'admin')[] = ['run'];
  before(async () => {
    app = Fastify();
    keepRoutes(app);
    app.addHook('onRequest', (request, _reply, done) => {
      request.principal = { ...ADMIN, id: 'tok_1', scopes: new Set(scopes) };
      done();
    });
    app.setErrorHandler((error, _request, reply) => {
      const { code, message } =
        error instanceof NoxError ? error : new NoxError('bad_request', (error as Error).message);
      return reply.code(ERRORS[code].status).send({ code, detail: message });
    });
    addRoute(app, {
      method: 'POST',
      url: '/things/:id',
      summary: 'A thing',
      scope: 'run',
      params: closed({ id: Type.String({ pattern: '^[a-z]+$' }) }),
      query: closed({
        ...PageQuery,
        deep: Type.Optional(Type.Boolean()),
        tag: Type.Optional(Type.Array(Type.String())),
      }),
      body: closed({ name: Type.Optional(Type.String()) }),
      answers: { 201: closed({ name: Type.String() }) },
      errors: ['already_exists'],
      handler: ({ params, query, body }) => {
        seen = { params, query, body };
        return Promise.resolve({ name: body.name ?? params.id });
      },
    });
    addRoute(app, {
      method: 'DELETE',
      url: '/things',
      summary: 'None',
      scope: 'any',
      answers: { 204: Type.Null() },
      errors: [],
      handler: () => undefined,
    });
    await app.ready();
  });
  after(() => app.close());

  const call = async (url: string, payload?: unknown) => {
    seen = undefined;
    const answer = await app.inject({
      method: 'POST',
      url,
      ...(payload === undefined
        ? {}
        : { payload: JSON.stringify(payload), headers: { 'content-type': 'application/json' } }),
    });
    return { status: answer.statusCode, body: answer.json<{ code: string; detail: string }>() };
  };

  test('hands over what it has checked, and answers with the first status', async () => {
    const answer = await call('/things/abc?limit=5&deep=true&tag=x', { name: 'n' });
    assert.deepEqual(answer, { status: 201, body: { name: 'n' } });
    assert.deepEqual(plain(seen), {
      params: { id: 'abc' },
      query: { limit: 5, deep: true, tag: ['x'] },
      body: { name: 'n' },
    });
    assert.equal((await call('/things/abc?tag=x&tag=y')).status, 201);
    assert.deepEqual(plain(seen?.query), { tag: ['x', 'y'] });
    assert.deepEqual(seen?.body, {});
  });

  for (const [what, url, body, detail] of [
    ['a bad path', '/things/ABC', {}, /^id: "ABC" must match/],
    ['a word for a number', '/things/a?limit=ten', {}, /^limit: "ten" must be integer/],
    ['nothing for a number', '/things/a?limit=', {}, /^limit: "" must be integer/],
    ['a number in another notation', '/things/a?limit=0x10', {}, /^limit: "0x10" must be integer/],
    ['a number out of range', '/things/a?limit=1001', {}, /^limit: 1001 must be <= 1000/],
    ['a name twice', '/things/a?limit=1&limit=2', {}, /^limit: \["1","2"\] must be integer/],
    ['a word for a switch', '/things/a?deep=yes', {}, /^deep: "yes" must be boolean/],
    ['an unknown name', '/things/a?dep=true', {}, /^dep: no such member/],
    ['a name of the prototype', '/things/a?__proto__=1&constructor=2', {}, /constructor: no such member/],
    ['an unknown member', '/things/a', { nam: '' }, /^nam: no such member/],
    ['a list for an object', '/things/a', [], /^body: \[\] must be object/],
    ['null for an object', '/things/a', null, /^body: null must be object/],
  ] as const) {
    test(`${what} is refused by name`, async () => {
      const { status, body: answer } = await call(url, body);
      assert.equal(status, 422);
      assert.equal(answer.code, 'invalid_request');
      assert.match(answer.detail, detail);
      assert.equal(seen, undefined);
    });
  }

  test('without the scope it is refused before the body is looked at', async () => {
    scopes = ['files', 'admin'];
    const answer = await app.inject({
      method: 'POST',
      url: '/things/a',
      payload: '{',
      headers: { 'content-type': 'application/json' },
    });
    scopes = ['run'];
    assert.equal(answer.statusCode, 403);
    assert.match(answer.json<{ detail: string }>().detail, /lacks the scope `run` for POST \/things\/a$/);
  });

  test('no body is no body, and `any` is any token', async () => {
    scopes = [];
    const answer = await app.inject({ method: 'DELETE', url: '/things' });
    scopes = ['run'];
    assert.deepEqual([answer.statusCode, answer.body], [204, '']);
  });

  test('a schema that would take members that nobody looks at is refused at the start', () => {
    const Open = Type.Object({});
    for (const body of [
      Open,
      closed({ a: Open }),
      closed({ a: Type.Array(Type.Union([Open, Type.Null()])) }),
    ]) {
      assert.throws(() => {
        addRoute(Fastify(), {
          ...{ method: 'POST', url: '/x', summary: '', scope: 'any', answers: {}, errors: [] },
          body,
          handler: () => undefined,
        });
      }, /POST \/x: its schema has an object that is not closed/);
    }
  });

  test('the descriptions are kept, with the errors that their members imply', () => {
    const [first, second]: readonly RouteInfo[] = app.routes;
    assert.deepEqual(
      app.routes.map(({ method, url }) => `${method} ${url}`),
      ['POST /things/:id', 'DELETE /things'],
    );
    for (const code of [
      'unauthorized',
      'forbidden',
      'invalid_request',
      'payload_too_large',
      'already_exists',
    ] as const)
      assert.ok(first?.errors.includes(code), code);
    assert.ok(second?.errors.includes('forbidden') === false);
    assert.ok(first !== undefined && !('handler' in first));
  });
});

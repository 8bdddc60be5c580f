import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, before, describe, test } from 'node:test';
import { Validator } from '@seriousme/openapi-schema-validator';
import Type from 'typebox';
import { buildOpenApi, type OpenApi } from '../../src/gateway/openapi.ts';
import { referencePage } from '../../src/gateway/reference.ts';
import { closed, type RouteInfo } from '../../src/gateway/route.ts';
import { ERRORS } from '../../src/protocol/errors.ts';
import { bareGateway, type BareGateway } from '../support/gateway.ts';

const THING: RouteInfo = {
  method: 'POST',
  url: '/v1/things/:id',
  summary: 'A thing',
  scope: 'run',
  params: closed({ id: Type.String({ pattern: '^t_', examples: ['t_1'] }) }),
  query: closed({ deep: Type.Optional(Type.Boolean({ description: 'All of it' })) }),
  headers: Type.Object({ 'if-match': Type.Optional(Type.String()) }),
  body: closed({ part: closed({ x: Type.Number() }, { title: 'Part' }) }),
  answers: { 201: closed({ part: closed({ x: Type.Number() }, { title: 'Part' }) }), 204: Type.Null() },
  errors: ['already_exists', 'workspace_conflict', 'queue_full'],
  answerHeaders: ['etag'],
  examples: { one: { part: { x: 1 } } },
};
const only = (...routes: RouteInfo[]) => buildOpenApi(routes, '1.2.3');

describe('the document of a route', () => {
  const document = only(THING);
  const operation = document.paths['/v1/things/{id}']?.post;
  assert(operation !== undefined);

  test('its name, its tag, who may call it', () => {
    assert.equal(operation.operationId, 'postThingsId');
    assert.deepEqual(operation.tags, ['things']);
    assert.deepEqual(operation.security, [{ bearerAuth: [] }]);
    assert.equal(operation['x-nox-scope'], 'run');
    assert.equal(document.info.version, '1.2.3');
  });

  test('parameters, with their examples', () => {
    assert.deepEqual(operation.parameters, [
      { name: 'id', in: 'path', required: true, schema: { type: 'string', pattern: '^t_' }, example: 't_1' },
      {
        ...{ name: 'deep', in: 'query', required: false, schema: { type: 'boolean' } },
        description: 'All of it',
      },
      { name: 'if-match', in: 'header', required: false, schema: { type: 'string' } },
    ]);
  });

  test('bodies are components, and titled schemas, once', () => {
    const { schemas } = document.components;
    assert.deepEqual(Object.keys(schemas), ['Error', 'PostThingsIdRequest', 'Part']);
    const part = { $ref: '#/components/schemas/Part' };
    const body = { $ref: '#/components/schemas/PostThingsIdRequest' };
    assert.deepEqual(schemas['PostThingsIdRequest']?.['properties'], { part });
    assert.deepEqual(operation.requestBody?.content['application/json']?.schema, body);
    assert.deepEqual(operation.responses['201']?.content?.['application/json']?.schema, body);
    assert.deepEqual(operation.requestBody.content['application/json'].examples, {
      one: { value: { part: { x: 1 } } },
    });
  });

  test('answers: headers, none where there is no body, errors by status', () => {
    assert(operation.responses['201']?.headers['etag'] !== undefined);
    assert.equal(operation.responses['204']?.content, undefined);
    const conflict = operation.responses['409'];
    assert.deepEqual(conflict?.content?.['application/json']?.schema['properties'], {
      code: { enum: ['already_exists', 'workspace_conflict'] },
    });
    assert(conflict.description.includes(ERRORS.already_exists.hint));
    assert(operation.responses['429']?.headers['retry-after'] !== undefined);
  });

  test('streams and other media types', () => {
    const events = closed({ id: Type.Integer() }, { title: 'Tick' });
    const streamed = only({ ...THING, answers: { 200: closed({}) }, events }).paths['/v1/things/{id}']?.post;
    const content = streamed?.responses['200']?.content;
    assert.deepEqual(Object.keys(content ?? {}), [
      'application/json',
      'text/event-stream',
      'application/x-ndjson',
    ]);
    assert.deepEqual(content?.['text/event-stream']?.['x-nox-event'], { $ref: '#/components/schemas/Tick' });
    const own = { answers: { 200: Type.String({ contentMediaType: 'text/event-stream' }) }, events };
    const alone = only({ ...THING, ...own, streams: ['text/event-stream'] }).paths['/v1/things/{id}']?.post;
    const [[media, told] = []] = Object.entries(alone?.responses['200']?.content ?? {});
    assert.deepEqual(
      [media, told?.['x-nox-event']],
      ['text/event-stream', { $ref: '#/components/schemas/Tick' }],
    );
    const zip = Type.String({ contentMediaType: 'application/zip' });
    const { body, ...rest } = THING;
    assert(body !== undefined);
    const both = Type.Union([Type.String({ contentMediaType: 'application/gzip' }), zip]);
    const binary = only({ ...rest, answers: { 200: both }, upload: { 'application/gzip': zip } });
    const moved = binary.paths['/v1/things/{id}']?.post;
    assert.deepEqual(Object.keys(moved?.responses['200']?.content ?? {}), [
      'application/gzip',
      'application/zip',
    ]);
    assert.deepEqual(Object.keys(moved?.requestBody?.content ?? {}), ['application/gzip']);
  });

  test('HEAD: as GET, without a body, and without what is about parts of one', () => {
    const { body, ...rest } = THING;
    assert(body !== undefined);
    const methods = only({
      ...rest,
      ...{ method: 'GET', head: true },
      headers: Type.Object({ range: Type.Optional(Type.String()), 'if-match': Type.Optional(Type.String()) }),
      answers: { 200: Type.String({ contentMediaType: 'x/y' }), 206: Type.Null() },
      answerHeaders: ['etag', 'content-range'],
      errors: ['range_not_satisfiable', 'run_not_found'],
    }).paths['/v1/things/{id}'];
    const { get, head } = methods ?? {};
    assert.deepEqual(Object.keys(get?.responses ?? {}), ['200', '206', '404', '416']);
    assert(get?.responses['416']?.headers['content-range'] !== undefined);
    assert.equal(get.responses['200']?.headers['content-range'], undefined);
    assert.deepEqual([head?.operationId, head?.['x-nox-errors']], ['headThingsId', ['run_not_found']]);
    assert.deepEqual(
      head?.parameters?.map(({ name }) => name),
      ['id', 'deep', 'if-match'],
    );
    assert.deepEqual(Object.keys(head.responses), ['200', '404']);
    for (const { content } of Object.values(head.responses)) assert.equal(content, undefined);
    assert(head.responses['200']?.headers['etag'] !== undefined);
  });

  test('two different schemas of one name are refused', () => {
    const other = closed({ y: Type.Number() }, { title: 'Part' });
    assert.throws(() => only(THING, { ...THING, url: '/v1/others', body: other }), /named Part/);
  });
});

describe('the page', () => {
  test('what comes from the document cannot become markup', () => {
    const evil = "\"><script>alert(1)</script><img src=x onerror='a'>";
    const page = referencePage(
      only({
        ...THING,
        summary: evil,
        query: closed({ [evil]: Type.String({ description: evil }) }),
        body: closed({ part: Type.String({ description: evil }) }, { title: evil }),
        examples: { [evil]: { part: evil } },
      }),
    );
    assert(!/<(script|img)/i.test(page));
    // Outside of quotes no tag has an attribute but the page's own.
    for (const [tag] of page.replaceAll(/"[^"]*"/g, '').matchAll(/<[^>]*>/g))
      assert(!/\son\w+/i.test(tag), tag);
  });
});

describe('of the gateway', () => {
  let gateway: BareGateway;
  let document: OpenApi;
  before(async () => {
    gateway = await bareGateway();
    document = (await gateway.app.inject({ url: '/openapi.json' })).json<OpenApi>();
  });
  after(async () => {
    await gateway.app.close();
    gateway.store.close();
  });

  test('is OpenAPI 3.1, by its official schema', async () => {
    const validator = new Validator();
    const result = await validator.validate({ ...structuredClone(document) });
    assert.deepEqual(result.errors ?? [], []);
    assert.equal(result.valid, true);
    assert.equal(validator.version, '3.1');
    const broken = { ...structuredClone(document), paths: { x: { get: { responses: 1 } } } };
    assert.equal((await new Validator().validate(broken)).valid, false);
  });

  test('has every route, each reference leads somewhere, ids are unique', () => {
    const text = JSON.stringify(document);
    for (const [, name = ''] of text.matchAll(/#\/components\/schemas\/([^"]+)"/g))
      assert(Object.hasOwn(document.components.schemas, name), name);
    const operations = Object.values(document.paths).flatMap((methods) => Object.values(methods));
    const { routes } = gateway.app;
    assert.equal(operations.length, routes.length + routes.filter(({ head }) => head).length);
    assert.equal(new Set(operations.map(({ operationId }) => operationId)).size, operations.length);
    assert(operations.length > 15);
  });

  test('the page: small, its own policy, every operation and error, links within', async () => {
    const { headers, body } = await gateway.app.inject({ url: '/docs' });
    assert(body.length < 200_000, `${body.length} bytes`);
    const policy = String(headers['content-security-policy']);
    const [, style = ''] = /<style>([^]*?)<\/style>/.exec(body) ?? [];
    const hash = createHash('sha256').update(style).digest('base64');
    assert(policy.startsWith(`default-src 'none'; style-src 'sha256-${hash}';`), policy);
    assert(!policy.includes('unsafe'));
    assert(!/<script|\ssrc=|url\(|@import|https?:/i.test(body));
    const ids = new Set([...body.matchAll(/ id="([^"]+)"/g)].map(([, id]) => id));
    for (const [, target] of body.matchAll(/href="#([^"]+)"/g)) assert(ids.has(target), String(target));
    for (const code of Object.keys(ERRORS)) assert(ids.has(`error-${code}`), code);
    for (const methods of Object.values(document.paths))
      for (const { operationId } of Object.values(methods)) assert(ids.has(operationId), operationId);
  });

  test('neither needs a token; a copy that is still right is not sent again', async () => {
    for (const url of ['/openapi.json', '/docs']) {
      const first = await gateway.app.inject({ url });
      assert.equal(first.statusCode, 200);
      const again = await gateway.app.inject({
        url,
        headers: { 'if-none-match': String(first.headers.etag) },
      });
      assert.deepEqual([again.statusCode, again.body], [304, '']);
    }
  });
});

/** `GET /openapi.json` and `GET /docs`: what this server can do, told to programs and to people. Without a token. */
import { hash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import Type from 'typebox';
import { buildOpenApi } from '../openapi.ts';
import { referencePage, REFERENCE_POLICY } from '../reference.ts';
import { addRoute } from '../route.ts';

// Read here: a server that gives up root may not reach it later.
const { version } = JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8')) as {
  version: string;
};

interface Document {
  readonly bytes: Buffer;
  readonly etag: string;
}

export function documentRoutes(app: FastifyInstance): void {
  let json: Document;
  let page: Document;
  // When all routes are there; once, so that a request costs no more than its bytes.
  app.addHook('onReady', (done) => {
    const openapi = buildOpenApi(app.routes, version);
    json = documentOf(JSON.stringify(openapi));
    page = documentOf(referencePage(openapi));
    done();
  });
  const common = {
    method: 'GET',
    scope: 'none',
    errors: [],
    headers: Type.Object({ 'if-none-match': Type.Optional(Type.String()) }),
    answerHeaders: ['etag', 'cache-control'],
  } as const;

  addRoute(app, {
    ...common,
    url: '/openapi.json',
    summary: 'This document: OpenAPI 3.1',
    answers: {
      200: Type.Object({ openapi: Type.Literal('3.1.0') }, { additionalProperties: true, title: 'OpenApi' }),
      304: Type.Null(),
    },
    handler: ({ request, reply }) => send(request, reply.type('application/json; charset=utf-8'), json),
  });

  addRoute(app, {
    ...common,
    url: '/docs',
    summary: 'The same as a page for people; loads nothing from anywhere',
    answers: { 200: Type.String({ contentMediaType: 'text/html' }), 304: Type.Null() },
    handler: ({ request, reply }) =>
      send(
        request,
        reply.type('text/html; charset=utf-8').headers({
          'content-security-policy': REFERENCE_POLICY,
          'referrer-policy': 'no-referrer',
          'x-content-type-options': 'nosniff',
        }),
        page,
      ),
  });
}

function documentOf(text: string): Document {
  const bytes = Buffer.from(text);
  return { bytes, etag: `"${hash('sha256', bytes, 'base64url')}"` };
}

function send(request: FastifyRequest, reply: FastifyReply, { bytes, etag }: Document): FastifyReply {
  // Another version of the server has another text: asked for each time, sent if it is new.
  void reply.headers({ etag, 'cache-control': 'no-cache' });
  if (request.headers['if-none-match'] === etag) return reply.code(304).send();
  return reply.send(bytes);
}

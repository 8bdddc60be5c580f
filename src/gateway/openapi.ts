/**
 * The OpenAPI 3.1 document of a gateway, made of the descriptions of its routes. A pure function.
 *
 * A schema with a `title` becomes a component of that name; the bodies of requests and answers become components in
 * any case, since generators of clients give their types these names.
 */
import type { TObject, TSchema } from 'typebox';
import { ERRORS, type ErrorCode, type ErrorRow } from '../protocol/errors.ts';
import type { AnswerHeader, RouteInfo, StreamMedia } from './route.ts';

type Json = Readonly<Record<string, unknown>>;

export interface Operation {
  readonly operationId: string;
  readonly summary: string;
  readonly tags: readonly string[];
  readonly security: readonly Json[];
  /** The scope that a token needs; `any`, `none`. */
  readonly 'x-nox-scope': string;
  /** All that it answers in the place of a success. */
  readonly 'x-nox-errors': readonly ErrorCode[];
  readonly parameters?: readonly Parameter[];
  readonly requestBody?: { readonly required: boolean; readonly content: Content };
  readonly responses: Readonly<Record<string, Answer>>;
}
export interface Parameter {
  readonly name: string;
  readonly in: 'path' | 'query' | 'header';
  readonly required: boolean;
  readonly schema: Json;
  readonly description?: string;
  readonly example?: unknown;
}
export interface Answer {
  readonly description: string;
  readonly headers: Readonly<Record<string, Json>>;
  readonly content?: Content;
}
export type Content = Readonly<Record<string, MediaType>>;
interface MediaType {
  readonly schema: Json;
  /** Of a stream: what each of its events is. */
  readonly 'x-nox-event'?: Json;
  readonly examples?: Readonly<Record<string, { readonly value: unknown }>>;
}
export type Method = Lowercase<RouteInfo['method']> | 'head';
export interface OpenApi {
  readonly openapi: '3.1.0';
  readonly info: { readonly title: string; readonly version: string; readonly description: string };
  readonly tags: readonly { readonly name: string }[];
  readonly paths: Readonly<Record<string, Partial<Readonly<Record<Method, Operation>>>>>;
  readonly components: {
    readonly schemas: Readonly<Record<string, Json>>;
    readonly headers: Readonly<Record<string, Json>>;
    readonly securitySchemes: Json;
  };
  /** Every error of the server; those of no route at all can come from each. */
  readonly 'x-nox-errors': Readonly<Record<string, ErrorRow>>;
}

/** Come before a route is found, or from no route: any request can get them. */
export const ERRORS_OF_NO_ROUTE: readonly ErrorCode[] = [
  'not_found',
  'method_not_allowed',
  'headers_too_large',
  'request_timeout',
];

const DESCRIPTION = `Runs other people’s code on one Linux machine. Bodies are JSON, whatever their \`Content-Type\` says, where an operation names no other. Each error has a stable \`code\`; the codes of an operation are in its \`x-nox-errors\`, and any request can get ${ERRORS_OF_NO_ROUTE.map((code) => `\`${code}\``).join(', ')} besides. \`HEAD\` is answered wherever \`GET\` is: its status and headers, no body. What a path does not take is \`method_not_allowed\`, and \`Allow\` names what it takes.`;

const text = { type: 'string' };
const count = { type: 'integer', minimum: 0 };
const EVERY_ANSWER = ['x-request-id', 'ratelimit-limit', 'ratelimit-remaining', 'ratelimit-reset'] as const;
type HeaderName = AnswerHeader | (typeof EVERY_ANSWER)[number] | 'retry-after' | 'www-authenticate';
const HEADERS: Readonly<Record<HeaderName, Json>> = {
  'x-request-id': {
    description: 'Yours, if you send one of `[A-Za-z0-9._:-]{1,128}`; the server’s log has it too',
    schema: { type: 'string', pattern: '^[A-Za-z0-9._:-]{1,128}$' },
  },
  'ratelimit-limit': { description: 'Runs a minute of the token, if it has a rate', schema: count },
  'ratelimit-remaining': { description: 'Runs that may start now', schema: count },
  'ratelimit-reset': { description: 'Seconds until all of the rate is there again', schema: count },
  'retry-after': { description: 'Seconds after which to try again, where that can be said', schema: count },
  'www-authenticate': { description: 'The scheme to use', schema: { const: 'Bearer' } },
  'nox-outcome': { description: 'How the run ended, in one word', schema: text },
  'nox-run-id': { description: 'The run', schema: text },
  location: { description: 'Where to ask about it', schema: text },
  etag: { description: 'Of this state; for `If-Match` and `If-None-Match`', schema: text },
  'last-modified': { description: 'When it was changed last', schema: text },
  'accept-ranges': { description: '`bytes`: parts can be asked for', schema: text },
  'content-range': { description: 'Which part this is; with 416 how much there is', schema: text },
  'cache-control': { description: 'Whether it may be kept', schema: text },
  'content-disposition': { description: 'The name of a file to save it as', schema: text },
};

const ERROR: Json = {
  title: 'Error',
  type: 'object',
  required: ['detail', 'code', 'hint'],
  properties: {
    detail: { type: 'string', description: 'What, and which value' },
    code: { type: 'string', enum: Object.keys(ERRORS) },
    hint: { type: 'string', description: 'The remedy' },
    requestId: { type: 'string', description: 'Missing where it was no HTTP request yet' },
  },
  additionalProperties: false,
};

export function buildOpenApi(routes: readonly RouteInfo[], version: string): OpenApi {
  const components = new Components();
  components.add(ERROR, 'Error');
  const paths: Record<string, Partial<Record<Method, Operation>>> = {};
  for (const route of routes) {
    const methods = (paths[pathOf(route.url)] ??= {});
    const own = operation(route, components);
    methods[route.method.toLowerCase() as Method] = own;
    if (route.head === true) methods.head = headOf(own);
  }
  return {
    openapi: '3.1.0',
    info: { title: 'Nox', version, description: DESCRIPTION },
    tags: [...new Set(routes.map(tagOf))].map((name) => ({ name })),
    paths,
    components: {
      schemas: components.schemas,
      headers: HEADERS,
      securitySchemes: { bearerAuth: { type: 'http', scheme: 'bearer' } },
    },
    'x-nox-errors': ERRORS,
  };
}

function operation(route: RouteInfo, components: Components): Operation {
  const { summary, scope, errors } = route;
  const operationId = idOf(route);
  const parameters = [
    ...parametersOf('path', route.params, components),
    ...parametersOf('query', route.query, components),
    ...parametersOf('header', route.headers, components),
  ];
  const requestBody = bodyOf(route, operationId, components);
  return {
    operationId,
    summary,
    tags: [tagOf(route)],
    security: scope === 'none' ? [] : [{ bearerAuth: [] }],
    'x-nox-scope': scope,
    'x-nox-errors': errors,
    ...(parameters.length === 0 ? {} : { parameters }),
    ...(requestBody === undefined ? {} : { requestBody }),
    responses: answersOf(route, operationId, components),
  };
}

/** Nothing of a GET that is about parts of its body (RFC 9110, section 14.2), and no body. */
function headOf(get: Operation): Operation {
  const { parameters = [], responses, operationId } = get;
  const kept = Object.entries(responses).filter(([status]) => !PARTS.statuses.includes(Number(status)));
  return {
    ...get,
    operationId: operationId.replace(/^get/, 'head'),
    summary: 'The headers of the same, without the body',
    'x-nox-errors': get['x-nox-errors'].filter((code) => !PARTS.statuses.includes(ERRORS[code].status)),
    ...(parameters.length === 0
      ? {}
      : { parameters: parameters.filter(({ name }) => !PARTS.headers.includes(name)) }),
    responses: Object.fromEntries(
      kept.map(([status, { description, headers }]) => [status, { description, headers }]),
    ),
  };
}

const PARTS: { readonly statuses: readonly number[]; readonly headers: readonly string[] } = {
  statuses: [206, 416],
  headers: ['range', 'if-range'],
};

function bodyOf(
  { body, upload, examples }: RouteInfo,
  operationId: string,
  components: Components,
): Operation['requestBody'] {
  if (body !== undefined) {
    const named = Object.entries(examples ?? {}).map(([name, value]) => [name, { value }] as const);
    const schema = components.add(plain(body), `${capital(operationId)}Request`);
    const { required = [] } = plain(body) as { required?: readonly string[] };
    return {
      // A missing one is taken as `{}`.
      required: required.length > 0,
      content: {
        'application/json': {
          schema,
          ...(named.length === 0 ? {} : { examples: Object.fromEntries(named) }),
        },
      },
    };
  }
  if (upload === undefined) return undefined;
  const content = Object.entries(upload).map(([media, schema]) => [
    media,
    { schema: components.inside(plain(schema)) },
  ]);
  return { required: true, content: Object.fromEntries(content) as Content };
}

function parametersOf(
  place: Parameter['in'],
  schema: TObject | undefined,
  components: Components,
): Parameter[] {
  const { properties = {}, required = [] } = (schema === undefined ? {} : plain(schema)) as {
    properties?: Readonly<Record<string, Json>>;
    required?: readonly string[];
  };
  return Object.entries(properties).map(([name, property]) => {
    const { description, examples, ...rest } = property as { description?: string; examples?: unknown[] };
    const [example] = examples ?? [];
    return {
      // What Fastify writes `*` is the rest of the path.
      name: name === '*' ? 'path' : name,
      in: place,
      required: required.includes(name),
      schema: components.inside(rest),
      ...(description === undefined ? {} : { description }),
      ...(example === undefined ? {} : { example }),
    };
  });
}

function answersOf(route: RouteInfo, operationId: string, components: Components): Operation['responses'] {
  const answers: Record<string, Answer> = {};
  const statuses = Object.keys(route.answers).map(Number);
  for (const status of statuses) {
    const own = status < 400 ? successHeaders(route, status) : outcomeHeader(route);
    const content = contentOf(route, status, `${capital(operationId)}Answer`, components, statuses);
    answers[status] = {
      description: REASONS[status] ?? 'Success',
      headers: headersOf([...EVERY_ANSWER, ...own]),
      ...(content === undefined ? {} : { content }),
    };
  }
  for (const [status, codes] of byStatus(route.errors)) {
    const schema = { $ref: '#/components/schemas/Error', properties: { code: { enum: codes } } };
    const retry = codes.some((code) => ERRORS[code].retry) ? (['retry-after'] as const) : [];
    const asks = status === 401 ? (['www-authenticate'] as const) : [];
    const size =
      status === 416 && route.answerHeaders?.includes('content-range') === true
        ? (['content-range'] as const)
        : [];
    const usual = answers[status]?.content?.['application/json']?.schema;
    answers[status] = {
      description: codes.map((code) => `\`${code}\`: ${ERRORS[code].hint}.`).join('\n\n'),
      headers: headersOf([...EVERY_ANSWER, ...retry, ...asks, ...size, ...outcomeHeader(route)]),
      content: {
        'application/json': { schema: usual === undefined ? schema : { anyOf: [usual, schema] } },
      },
    };
  }
  return answers;
}

function successHeaders({ answerHeaders = [] }: RouteInfo, status: number): readonly AnswerHeader[] {
  const whole = status === 206 ? [] : ['content-range'];
  // What the client has already is not described again.
  const known = status === 304 ? ['content-disposition', 'last-modified', 'accept-ranges'] : [];
  return answerHeaders.filter((name) => ![...whole, ...known].includes(name));
}

/** A run that broke is named in a header too. */
const outcomeHeader = ({ answerHeaders = [] }: RouteInfo) =>
  answerHeaders.filter((name) => name === 'nox-outcome' || name === 'nox-run-id');

const REASONS: Readonly<Record<number, string>> = {
  200: 'Done',
  201: 'Made',
  202: 'Accepted: it goes on without its client',
  204: 'Done; no body',
  206: 'The part that was asked for',
  304: 'Not changed since',
  408: 'Timeout, with what was printed until then',
  503: 'Not now',
};

function contentOf(
  { answers, events, streams = STREAM_MEDIA, bytes }: RouteInfo,
  status: number,
  name: string,
  components: Components,
  [first]: readonly number[],
): Content | undefined {
  const schema = plain(answers[status] ?? {});
  const media = mediaTypesOf(schema);
  const content: Record<string, MediaType> = {};
  for (const each of media) content[each] = { schema: { type: 'string' } };
  if (media.length === 0 && schema['type'] !== 'null')
    content['application/json'] = {
      schema: components.add(schema, status === first ? name : `${name}${status}`),
    };
  if (events !== undefined && status === first) {
    const event = components.add(plain(events), `${name}Event`);
    for (const each of streams)
      content[each] = { schema: { type: 'string', description: STREAMS[each] }, 'x-nox-event': event };
  }
  if (bytes !== undefined && status === first)
    content['application/octet-stream'] = { schema: { type: 'string', description: bytes } };
  return Object.keys(content).length === 0 ? undefined : content;
}

/** Of what is no JSON; one, or a union. */
function mediaTypesOf(schema: Json): string[] {
  const { anyOf, contentMediaType } = schema as { anyOf?: readonly Json[]; contentMediaType?: string };
  return contentMediaType === undefined ? (anyOf ?? []).flatMap(mediaTypesOf) : [contentMediaType];
}

const STREAM_MEDIA: readonly StreamMedia[] = ['text/event-stream', 'application/x-ndjson'];
const STREAMS: Readonly<Record<StreamMedia, string>> = {
  'text/event-stream': 'Events; the `data` of each is JSON. Comments keep the connection alive',
  'application/x-ndjson': 'A line of JSON for each event',
};

/** Schemas by name; a repeated one is there once. */
class Components {
  readonly schemas: Record<string, Json> = {};
  readonly #names = new Map<string, string>();

  /** @param schema plain JSON; its `title` is its name, before the one given */
  add(schema: Json, name: string): Json {
    const { title } = schema as { title?: string };
    const key = JSON.stringify(schema);
    const known = this.#names.get(key);
    if (known !== undefined) return reference(known);
    const own = title ?? name;
    if (Object.hasOwn(this.schemas, own)) throw new Error(`two different schemas are named ${own}`);
    this.#names.set(key, own);
    // Its place among the others, before those that are in it.
    this.schemas[own] = {};
    this.schemas[own] = this.#members(schema);
    return reference(own);
  }

  /** The schema with its titled parts as references. */
  inside(schema: Json): Json {
    const { title } = schema as { title?: string };
    return title === undefined ? this.#members(schema) : this.add(schema, title);
  }

  #members(schema: Json): Json {
    const entries = Object.entries(schema).map(([name, value]) => [name, this.#value(name, value)]);
    return Object.fromEntries(entries) as Json;
  }

  #value(name: string, value: unknown): unknown {
    if (!MEMBERS.has(name)) return value;
    if (Array.isArray(value)) return value.map((each) => this.inside(each as Json));
    if (typeof value !== 'object' || value === null) return value;
    if (!NAMED.has(name)) return this.inside(value as Json);
    const entries = Object.entries(value as Record<string, Json>);
    return Object.fromEntries(entries.map(([key, each]) => [key, this.inside(each)]));
  }
}

/** Keywords whose value is a schema, a list of schemas, or (`NAMED`) schemas by name. */
const NAMED = new Set(['properties', 'patternProperties']);
const MEMBERS = new Set([...NAMED, 'items', 'anyOf', 'allOf', 'oneOf', 'additionalProperties']);

const reference = (name: string): Json => ({ $ref: `#/components/schemas/${name}` });
const headersOf = (names: readonly HeaderName[]): Answer['headers'] =>
  Object.fromEntries(names.map((name) => [name, { $ref: `#/components/headers/${name}` }]));

/** Without what is TypeBox's own. */
const plain = (schema: TSchema): Json => JSON.parse(JSON.stringify(schema)) as Json;

function byStatus(codes: readonly ErrorCode[]): Map<number, ErrorCode[]> {
  const sorted = Object.groupBy(codes, (code) => ERRORS[code].status);
  return new Map(Object.entries(sorted).map(([status, group]) => [Number(status), group]));
}

/** `/v1/runs/:id` → `/v1/runs/{id}`. */
function pathOf(url: string): string {
  return url.replaceAll(/:(\w+)/g, '{$1}').replace('*', '{path}');
}

/** The first word of the path after the version; the four calls and the rest of the root are one. */
function tagOf({ url }: RouteInfo): string {
  return /^\/v1\/([a-z]+)/.exec(url)?.[1] ?? 'basic';
}

/** `POST /v1/runs/:id/stdin` → `postRunsIdStdin`. */
function idOf({ method, url }: RouteInfo): string {
  const words = pathOf(url)
    .replace(/^\/v1(?=\/)/, '')
    .split(/[^A-Za-z0-9]+/)
    .filter((word) => word !== '');
  return method.toLowerCase() + words.map(capital).join('');
}

const capital = (word: string): string => word.charAt(0).toUpperCase() + word.slice(1);

/**
 * A route of `/v1`: what it takes, what it answers and who may call it, as data beside its handler.
 *
 * `addRoute` holds the calls to it, and `app.routes` keeps the descriptions, from which the OpenAPI document is made:
 * what is documented is what is checked.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import Type, {
  type Static,
  type TObject,
  type TProperties,
  type TSchema,
  type TSchemaOptions,
} from 'typebox';
import type { ErrorCode } from '../protocol/errors.ts';
import { validator } from '../protocol/validate.ts';
import { requireScope, type Principal, type Scope } from './principal.ts';

declare module 'fastify' {
  interface FastifyInstance {
    /** Of all that were added, in this order. */
    routes: RouteInfo[];
  }
}

export interface RouteInfo {
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  /** As Fastify writes it: `/v1/tokens/:id`, and `*` at the end for the rest of the path. */
  readonly url: string;
  /** One line, as in a table of contents. */
  readonly summary: string;
  /** `any`: every token. `none`: no token is looked at. */
  readonly scope: Scope | 'any' | 'none';
  readonly params?: TObject;
  readonly query?: TObject;
  /** Of a JSON body. A missing one is taken as `{}`. */
  readonly body?: TSchema;
  /** In bytes, where NOX_MAX_BODY is not right. */
  readonly bodyLimit?: number;
  /**
   * Status → body; the lowest status is that of success. `Type.Null()`: no body. What is no JSON is a `Type.String`
   * with `contentMediaType`, or a union of them.
   */
  readonly answers: Readonly<Record<number, TSchema>>;
  /** Those of its own; `addRoute` adds what its other members imply. */
  readonly errors: readonly ErrorCode[];
  /** One event of the stream that the first answer can be. */
  readonly events?: TSchema;
  /** Media types of that stream; those that `Accept` may ask for (sse.ts), if it does not say. */
  readonly streams?: readonly StreamMedia[];
  /** What the first answer is where `Accept` asks for `application/octet-stream`. */
  readonly bytes?: string;
  /**
   * Instead of a JSON body, one that the handler takes from the request as it comes (rawBodies) and checks itself:
   * media type → schema, for the document.
   */
  readonly upload?: Readonly<Record<string, TSchema>>;
  /** Of a GET that clients ask for without its body: the document has its HEAD too. Fastify answers every HEAD. */
  readonly head?: true;
  /** Headers of the request that mean something to it; for the document too. */
  readonly headers?: TObject;
  /** Headers of its own that a success can have. */
  readonly answerHeaders?: readonly AnswerHeader[];
  /** Name → a JSON body that works as it stands; a test sends each. */
  readonly examples?: Readonly<Record<string, unknown>>;
}

export type StreamMedia = 'text/event-stream' | 'application/x-ndjson';

/** What answers say beside their bodies; what each means is in openapi.ts. */
export type AnswerHeader =
  | 'nox-outcome'
  | 'nox-run-id'
  | 'location'
  | 'etag'
  | 'last-modified'
  | 'accept-ranges'
  | 'content-range'
  | 'cache-control'
  | 'content-disposition';

/** A request whose token, path, query and body have been checked. */
export interface Call<P, Q, B> {
  readonly params: P;
  readonly query: Q;
  readonly body: B;
  readonly principal: Principal;
  readonly request: FastifyRequest;
  readonly reply: FastifyReply;
}

export interface Route<P extends TObject, Q extends TObject, B extends TSchema> extends RouteInfo {
  readonly params?: P;
  readonly query?: Q;
  readonly body?: B;
  /** @returns the body of the answer, or a promise of it; `reply` where it answers by itself */
  readonly handler: (call: Call<Static<P>, Static<Q>, Static<B>>) => unknown;
}

/** An object that refuses by name what it does not know: every object of a request is one. */
export function closed<T extends TProperties>(properties: T, options: TSchemaOptions = {}) {
  return Type.Object(properties, { ...options, additionalProperties: false });
}

/** The same, where no member must be there. */
export function closedPartial<T extends TProperties>(properties: T) {
  return Type.Partial(Type.Object(properties), { additionalProperties: false });
}

/** Query of every list. The answer has the `after` of the next page as `next`, `null` at the end. */
export const PageQuery = {
  limit: Type.Optional(Type.Integer({ minimum: 1, maximum: 1000, default: 100 })),
  after: Type.Optional(Type.String({ minLength: 1, maxLength: 256 })),
};
export const PAGE_DEFAULT = 100;

const NOTHING = closed({});
const EVERY_ROUTE: readonly ErrorCode[] = ['unauthorized', 'bad_request', 'shutting_down', 'internal'];

/** The methods that a path takes, as its routes have them; none: there is no such path. */
export function methodsAt({ routes }: Pick<FastifyInstance, 'routes'>, path: string): string[] {
  const names = path.split('/');
  const isThere = ({ url }: RouteInfo) => {
    const parts = url.split('/');
    return (
      parts.length === names.length &&
      parts.every((part, index) => part === names[index] || (part.startsWith(':') && names[index] !== ''))
    );
  };
  const methods = routes
    .filter(isThere)
    .flatMap(({ method }) => (method === 'GET' ? ['GET', 'HEAD'] : [method]));
  return [...new Set(methods)];
}

/** For routes with a raw body: whatever a client says that its body is, nobody reads it before the handler. */
export function rawBodies(scope: FastifyInstance): void {
  scope.removeAllContentTypeParsers();
  scope.addContentTypeParser('*', (_request, _payload, done) => {
    done(null);
  });
}

/** Before the first `addRoute`. */
export function keepRoutes(app: FastifyInstance): void {
  app.decorate('routes', []);
}

/** Keeps the description of a route that was not made by `addRoute`; its errors are all of its errors. */
export function describeRoute(app: FastifyInstance, route: RouteInfo): void {
  app.routes.push(route);
}

/**
 * The scope is checked before the body is read. Everything else that does not fit the schemas is `invalid_request`,
 * which names the member; in a query that is also one that the route does not know.
 */
export function addRoute<P extends TObject, Q extends TObject, B extends TSchema>(
  app: FastifyInstance,
  route: Route<P, Q, B>,
): void {
  const { method, url, scope, bodyLimit, handler, ...rest } = route;
  const query: TObject = route.query ?? NOTHING;
  for (const schema of [route.params, query, route.body]) mustBeClosed(schema, `${method} ${url}`);
  app.routes.push({
    ...rest,
    method,
    url,
    scope,
    errors: [...new Set([...implied(route), ...route.errors])],
  });
  const checkQuery = validator(query);
  const checkParams = route.params === undefined ? undefined : validator(route.params);
  const checkBody = route.body === undefined ? undefined : validator(route.body);
  const [success = 200] = Object.keys(route.answers).map(Number);
  app.route({
    method,
    url,
    ...(bodyLimit === undefined ? {} : { bodyLimit }),
    onRequest: (request, _reply, done) => {
      try {
        if (scope !== 'any' && scope !== 'none') requireScope(request, scope);
        done();
      } catch (error) {
        done(error as Error);
      }
    },
    // Asynchronous: for Fastify, to return nothing is an answer only then.
    handler: async (request, reply) => {
      void reply.code(success);
      const call = {
        params: checkParams?.(request.params),
        query: checkQuery(fromText(query, request.query as Texts)),
        body: checkBody?.(request.body === undefined ? {} : request.body),
        principal: request.principal,
        request,
        reply,
      };
      // Each was checked against the schema whose type this is.
      return handler(call as Call<Static<P>, Static<Q>, Static<B>>);
    },
  });
}

function implied({ scope, body }: RouteInfo): readonly ErrorCode[] {
  const open = scope === 'none';
  return [
    ...(open ? EVERY_ROUTE.filter((code) => code !== 'unauthorized') : EVERY_ROUTE),
    'invalid_request',
    ...(open || scope === 'any' ? [] : (['forbidden'] as const)),
    ...(body === undefined ? [] : (['payload_too_large'] as const)),
  ];
}

/** @throws Error at the start of the program, for an object that would take members that nobody looks at */
function mustBeClosed(schema: unknown, where: string): void {
  if (typeof schema !== 'object' || schema === null) return;
  const { type, additionalProperties } = schema as { type?: unknown; additionalProperties?: unknown };
  if (type === 'object' && additionalProperties !== false && !('patternProperties' in schema))
    throw new Error(`${where}: its schema has an object that is not closed`);
  for (const part of Object.values(schema)) mustBeClosed(part, where);
}

type Texts = Readonly<Record<string, string | readonly string[]>>;

/** A query has only texts: numbers, switches and lists of one are made of them where the schema has such. */
function fromText(schema: TObject, texts: Texts): Record<string, unknown> {
  const entries = Object.entries(texts).map(([name, text]): [string, unknown] => {
    const { type } = (Object.hasOwn(schema.properties, name) ? schema.properties[name] : {}) as {
      type?: string;
    };
    if (type === 'array') return [name, typeof text === 'string' ? [text] : text];
    if (typeof text !== 'string') return [name, text];
    if ((type === 'integer' || type === 'number') && /^-?\d{1,15}(\.\d{1,15})?$/.test(text))
      return [name, Number(text)];
    if (type === 'boolean' && /^(true|false)$/.test(text)) return [name, text === 'true'];
    return [name, text];
  });
  // Own members, whatever their names are.
  return Object.fromEntries(entries);
}

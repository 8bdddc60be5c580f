/** `/v1/tokens`: the administrator makes, changes and ends tokens; each token sees what it may do itself. */
import type { FastifyInstance } from 'fastify';
import Type, { type Static } from 'typebox';
import { NoxError } from '../../protocol/errors.ts';
import { SCOPES, type Quotas } from '../principal.ts';
import type { Quota } from '../quota.ts';
import { addRoute, closed, closedPartial, PAGE_DEFAULT, PageQuery } from '../route.ts';
import type { Store } from '../store/store.ts';
import type { TokenRecord, TokenRights } from '../store/tokens.ts';

const NAMES_MAX = 100;
const OVERLAP_MAX_SECONDS = 30 * 86_400;

const Name = Type.String({ minLength: 1, maxLength: 100, pattern: /^[^\u0000-\u001f\u007f]*$/.source });
const Scopes = Type.Array(Type.Enum([...SCOPES]), { minItems: 1, uniqueItems: true });
const Names = Type.Array(Type.String({ pattern: '^[A-Za-z0-9][A-Za-z0-9+._-]{0,63}$' }), {
  maxItems: NAMES_MAX,
  uniqueItems: true,
});
const Time = Type.String({ format: 'date-time' });
const orNull = <T extends Type.TSchema>(schema: T) => Type.Union([schema, Type.Null()]);

const QUOTAS = {
  concurrentRuns: Type.Integer({ minimum: 1, maximum: 100_000 }),
  runsPerMinute: Type.Integer({ minimum: 1, maximum: 1_000_000 }),
  cpuSecondsPerDay: Type.Integer({ minimum: 1, maximum: 100_000_000 }),
  storageBytes: Type.Integer({ minimum: 0, maximum: 2 ** 53 - 1 }),
};
const QuotasAnswer = closedPartial(QUOTAS);
/** null takes one away. */
const QuotasChange = closedPartial({
  concurrentRuns: orNull(QUOTAS.concurrentRuns),
  runsPerMinute: orNull(QUOTAS.runsPerMinute),
  cpuSecondsPerDay: orNull(QUOTAS.cpuSecondsPerDay),
  storageBytes: orNull(QUOTAS.storageBytes),
});

const RIGHTS = {
  scopes: Scopes,
  /** null: all. */
  runtimes: orNull(Names),
  workspaces: orNull(Names),
  expires: orNull(Time),
  quotas: QuotasChange,
};
const TokenCreate = closed({
  name: Name,
  scopes: Scopes,
  runtimes: Type.Optional(RIGHTS.runtimes),
  workspaces: Type.Optional(RIGHTS.workspaces),
  expires: Type.Optional(RIGHTS.expires),
  quotas: Type.Optional(RIGHTS.quotas),
});
const TokenChange = closedPartial({ name: Name, ...RIGHTS });
const TokenRotation = closed({
  overlapSeconds: Type.Optional(Type.Integer({ minimum: 0, maximum: OVERLAP_MAX_SECONDS, default: 0 })),
});
const TokenParams = closed({
  id: Type.String({ pattern: '^tok_[0-9a-z]{16}$', examples: ['tok_0123456789abcdef'] }),
});

const TOKEN = {
  id: Type.String(),
  name: Type.String(),
  /** The visible beginning of the secret. */
  prefix: Type.String(),
  scopes: Scopes,
  runtimes: orNull(Names),
  workspaces: orNull(Names),
  quotas: QuotasAnswer,
  created: Time,
  expires: orNull(Time),
  revoked: orNull(Time),
  /** To the minute. */
  lastUsed: orNull(Time),
};
export const Token = closed(TOKEN, { title: 'Token' });
/** The only answers that have a secret. */
export const TokenWithSecret = closed({ ...TOKEN, secret: Type.String() }, { title: 'TokenWithSecret' });
export const TokenPage = closed({ tokens: Type.Array(Token), next: orNull(Type.String()) });
export const TokenSelf = closed({
  /** `admin` for NOX_API_TOKEN. */
  id: Type.String(),
  name: Type.String(),
  scopes: Scopes,
  runtimes: orNull(Names),
  workspaces: orNull(Names),
  expires: orNull(Time),
  quotas: QuotasAnswer,
  /** null: no bound. */
  left: closed({
    runsThisMinute: orNull(Type.Integer()),
    cpuSecondsToday: orNull(Type.Number()),
  }),
  used: closed({
    running: Type.Integer(),
    runsToday: Type.Integer(),
    cpuSecondsToday: Type.Number(),
  }),
});

export function tokenRoutes(app: FastifyInstance, store: Store, quota: Quota): void {
  const { tokens } = store;

  addRoute(app, {
    method: 'POST',
    url: '/v1/tokens',
    summary: 'Make a token; its secret is in this answer only',
    scope: 'admin',
    body: TokenCreate,
    answers: { 201: TokenWithSecret },
    answerHeaders: ['cache-control'],
    examples: {
      grader: {
        name: 'grader',
        scopes: ['run'],
        runtimes: ['python'],
        quotas: { concurrentRuns: 4, runsPerMinute: 120, cpuSecondsPerDay: 3600 },
      },
    },
    errors: [],
    handler: ({ body, request, reply }) => {
      const { name, scopes, runtimes = null, workspaces = null, expires = null, quotas = {} } = body;
      const rights: TokenRights = {
        ...{ name, scopes, runtimes, workspaces },
        expires: timeOf(expires),
        quotas: merge({}, quotas),
      };
      checkRights(rights);
      const { token, secret } = tokens.create(rights);
      request.ending.subject = () => ({ token: token.id });
      void reply.header('cache-control', 'no-store');
      return { ...answer(token), secret };
    },
  });

  addRoute(app, {
    method: 'GET',
    url: '/v1/tokens',
    summary: 'List the tokens, newest first, revoked ones too',
    scope: 'admin',
    query: closed(PageQuery),
    answers: { 200: TokenPage },
    errors: [],
    handler: ({ query: { limit = PAGE_DEFAULT, after } }) => {
      const page = tokens.page(limit, after);
      return { tokens: page.tokens.map(answer), next: page.next };
    },
  });

  addRoute(app, {
    method: 'GET',
    url: '/v1/tokens/self',
    summary: 'What the token of this request may do, and how much of its quotas is left',
    scope: 'any',
    answers: { 200: TokenSelf },
    errors: [],
    handler: ({ principal }): Static<typeof TokenSelf> => {
      const { id, name, scopes, runtimes, workspaces, expires, quotas } = principal;
      const { running, ...left } = quota.left(principal);
      const today = store.usage.of(id);
      return {
        ...{ id, name, scopes: [...scopes] },
        runtimes: runtimes === undefined ? null : [...runtimes],
        workspaces: workspaces === undefined ? null : [...workspaces],
        expires: textOf(expires),
        quotas,
        left,
        used: { running, runsToday: today.runs, cpuSecondsToday: today.cpuMs / 1000 },
      };
    },
  });

  addRoute(app, {
    method: 'GET',
    url: '/v1/tokens/:id',
    summary: 'Look at a token',
    scope: 'admin',
    params: TokenParams,
    answers: { 200: Token },
    errors: ['token_not_found'],
    handler: ({ params }) => answer(tokens.get(params.id)),
  });

  addRoute(app, {
    method: 'PATCH',
    url: '/v1/tokens/:id',
    summary: 'Change what a token may do; members that are not named stay, a quota of null goes',
    scope: 'admin',
    params: TokenParams,
    body: TokenChange,
    answers: { 200: Token },
    examples: { rate: { quotas: { runsPerMinute: 10, concurrentRuns: null } } },
    errors: ['token_not_found'],
    handler: ({ params: { id }, body, request }) => {
      request.ending.subject = () => ({ token: id });
      const { expires, quotas, ...rest } = body;
      const before = tokens.get(id);
      const change = {
        ...rest,
        ...(expires === undefined ? {} : { expires: timeOf(expires) }),
        ...(quotas === undefined ? {} : { quotas: merge(before.quotas, quotas) }),
      };
      checkRights({ ...before, ...change });
      return answer(tokens.update(id, change));
    },
  });

  addRoute(app, {
    method: 'POST',
    url: '/v1/tokens/:id/rotate',
    summary: 'Give a token a new secret; the old one stays valid for `overlapSeconds`',
    scope: 'admin',
    params: TokenParams,
    body: TokenRotation,
    answers: { 200: TokenWithSecret },
    answerHeaders: ['cache-control'],
    examples: { overlap: { overlapSeconds: 3600 } },
    errors: ['token_not_found'],
    handler: ({ params: { id }, body: { overlapSeconds = 0 }, request, reply }) => {
      request.ending.subject = () => ({ token: id });
      const { token, secret } = tokens.rotate(id, overlapSeconds * 1000);
      void reply.header('cache-control', 'no-store');
      return { ...answer(token), secret };
    },
  });

  addRoute(app, {
    method: 'DELETE',
    url: '/v1/tokens/:id',
    summary: 'Revoke a token, at once and for good; its connections are closed, its runs ended',
    scope: 'admin',
    params: TokenParams,
    answers: { 204: Type.Null() },
    errors: ['token_not_found'],
    handler: ({ params: { id }, request, reply }) => {
      request.ending.subject = () => ({ token: id });
      tokens.revoke(id);
      // First, so that it is the reason that is told.
      app.book.cancelAll(id);
      app.calls.drop(id, reply);
    },
  });
}

/** Who may make tokens could make one without a bound: to bind them would be a promise that does not hold. */
function checkRights({ scopes, runtimes, workspaces }: TokenRights): void {
  if (!scopes.includes('admin')) return;
  const bound = runtimes !== null ? 'runtimes' : workspaces !== null ? 'workspaces' : undefined;
  if (bound !== undefined)
    throw new NoxError(
      'invalid_request',
      `${bound}: a token with the scope \`admin\` cannot be bound, since it can make tokens that are not; leave out one of the two`,
    );
}

function merge(before: Quotas, change: Static<typeof QuotasChange>): Quotas {
  const entries = Object.entries({ ...before, ...change }).filter(([, value]) => value !== null);
  return Object.fromEntries(entries);
}

function timeOf(text: string | null): number | null {
  if (text === null) return null;
  const time = Date.parse(text);
  if (!(time > Date.now()))
    throw new NoxError('invalid_request', `expires: ${JSON.stringify(text)} must be a time in the future`);
  return time;
}

function textOf(time: number | null): string | null {
  return time === null ? null : new Date(time).toISOString();
}

function answer(token: TokenRecord): Static<typeof Token> {
  const { id, name, prefix, scopes, runtimes, workspaces, quotas, created, expires, revoked, used } = token;
  return {
    ...{ id, name, prefix: `nox_${prefix}` },
    scopes: [...scopes],
    runtimes: runtimes === null ? null : [...runtimes],
    workspaces: workspaces === null ? null : [...workspaces],
    quotas,
    created: new Date(created).toISOString(),
    expires: textOf(expires),
    revoked: textOf(revoked),
    lastUsed: textOf(used),
  };
}

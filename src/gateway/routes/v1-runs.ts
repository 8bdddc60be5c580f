/** `/v1/runs`: run something and wait, watch, or go away; look at runs, talk to them, end them. */
import { randomUUID } from 'node:crypto';
import { constants } from 'node:os';
import { Readable } from 'node:stream';
import type { FastifyInstance, FastifyReply } from 'fastify';
import Type, { type Static } from 'typebox';
import { NoxError } from '../../protocol/errors.ts';
import type { Executor } from '../../protocol/executor.ts';
import type { RunInput } from '../../protocol/messages.ts';
import { OUTCOMES } from '../../protocol/outcome.ts';
import { RuntimeInfo } from '../../protocol/runtimes.ts';
import { codeSubject, commandSubject } from '../audit.ts';
import type { Principal } from '../principal.ts';
import type { Quota } from '../quota.ts';
import { addRoute, closed, PAGE_DEFAULT, PageQuery, type Call } from '../route.ts';
import type { RunBook } from '../runs/book.ts';
import type { LiveRun } from '../runs/live.ts';
import { PlaceError } from '../runs/log.ts';
import { viewOf } from '../runs/record.ts';
import { orderOf } from '../runs/order.ts';
import { RunBody } from '../runs/request.ts';
import { Run, RunEvent, RunPage } from '../runs/schema.ts';
import { sendStdout } from '../runs/stdout.ts';
import { requireResult, sendRun } from '../runs/answer.ts';
import { accepts, formatWanted, sendEvents, streamHeaders, type StreamFormat } from '../sse.ts';
import type { Store } from '../store/store.ts';
import type { WebhookTargets } from '../webhooks/target.ts';

interface Parts {
  readonly executor: Executor;
  readonly book: RunBook;
  readonly store: Store;
  readonly quota: Quota;
  readonly cpuSeconds: number;
  /** undefined: they are off. */
  readonly targets: WebhookTargets | undefined;
}

const RunParams = closed({
  id: Type.String({ pattern: '^run_[0-9a-z]{24}$', examples: ['run_01k9ab3cde0123456789abcd'] }),
});
const LastEventId = Type.Object({
  'last-event-id': Type.Optional(
    Type.String({ pattern: '^[0-9]{1,15}$', description: 'The last event that was received' }),
  ),
});
const RunHeaders = Type.Object({
  'idempotency-key': Type.Optional(
    Type.String({
      pattern: '^[\\x21-\\x7e]{1,255}$',
      description: 'The same key with the same body never runs twice, and answers with the same run',
    }),
  ),
});
const RUN_HEADERS = ['nox-run-id', 'nox-outcome'] as const;
const ListQuery = closed({
  ...PageQuery,
  state: Type.Optional(Type.Enum(['queued', 'running', 'ended'])),
  outcome: Type.Optional(Type.Enum([...OUTCOMES])),
  runtime: Type.Optional(Type.String({ minLength: 1, maxLength: 32 })),
  workspace: Type.Optional(Type.String({ minLength: 1, maxLength: 64 })),
});
const StdinBody = closed({
  text: Type.Optional(Type.String()),
  base64: Type.Optional(Type.String({ pattern: '^[A-Za-z0-9+/]*={0,2}$' })),
  end: Type.Optional(Type.Boolean({ description: 'Nothing comes after it' })),
});
const SIGNALS = Object.keys(constants.signals) as NodeJS.Signals[];
const SignalBody = closed({ signal: Type.Enum(SIGNALS) });
const BYTES = 'application/octet-stream';
const EVENT_ID = /^\d{1,15}$/;
const IDEMPOTENCY_KEY = /^[\x21-\x7e]{1,255}$/;

export function v1RunRoutes(app: FastifyInstance, parts: Parts): void {
  const { book, executor } = parts;

  addRoute(app, {
    method: 'POST',
    url: '/v1/runs',
    summary: 'Run a program: wait for its result, stream its events, or let it run in the background',
    scope: 'run',
    body: RunBody,
    headers: RunHeaders,
    answers: { 200: Run, 202: Run },
    events: RunEvent,
    bytes:
      'The standard output as it comes, and nothing else; how the run ended is in the trailers `nox-outcome` and `nox-exit-code`. An answer that is broken off is of a run without a result',
    answerHeaders: [...RUN_HEADERS, 'location', 'cache-control'],
    examples: {
      python: { code: 'print(6 * 7)' },
      runtime: {
        runtime: 'bash',
        code: 'read line; echo "$GREETING $line"',
        stdin: 'you',
        env: { GREETING: 'hello' },
      },
      command: { command: ['python3', '-c', 'print(1)'], limits: { wallSeconds: 2 } },
      files: {
        entry: 'main.py',
        files: [
          { path: 'main.py', text: 'import lib' },
          { path: 'lib.py', text: 'print("lib")' },
        ],
      },
    },
    errors: [
      'invalid_path',
      'unknown_runtime',
      'workspace_not_found',
      'workspace_full',
      'workspace_conflict',
      'queue_full',
      'queue_timeout',
      'rate_limited',
      'quota_exceeded',
      'idempotency_conflict',
      'runner_unavailable',
      'sandbox_error',
    ],
    handler: (call) => run(parts, call),
  });

  addRoute(app, {
    method: 'GET',
    url: '/v1/runs',
    summary: 'The runs that are kept, newest first; those of all tokens with the scope `admin`',
    scope: 'run',
    query: ListQuery,
    answers: { 200: RunPage },
    errors: [],
    handler: ({ principal, query }) => {
      const { limit = PAGE_DEFAULT, after, ...filter } = query;
      const { runs, next } = book.page(principal, filter, limit, after);
      return { runs: runs.map(viewOf), next };
    },
  });

  addRoute(app, {
    method: 'GET',
    url: '/v1/runs/:id',
    summary: 'A run; its output too, where that is kept',
    scope: 'run',
    params: RunParams,
    answers: { 200: Run },
    answerHeaders: RUN_HEADERS,
    errors: ['run_not_found'],
    handler: async ({ params, principal, reply }) => {
      const record = book.record(params.id, principal);
      const output = record.state === 'ended' ? await outputIfKept(book, params.id, principal) : undefined;
      return sendRun(reply, record, output);
    },
  });

  addRoute(app, {
    method: 'GET',
    url: '/v1/runs/:id/events',
    summary: 'The events of a run as they come, from its start or after `Last-Event-ID`',
    scope: 'run',
    params: RunParams,
    headers: LastEventId,
    answers: { 200: Type.String({ contentMediaType: 'application/x-ndjson' }) },
    events: RunEvent,
    answerHeaders: ['nox-run-id', 'cache-control'],
    errors: ['run_not_found', 'range_not_satisfiable'],
    handler: async ({ params, principal, request, reply }) => {
      const after = lastEventId(request.headers['last-event-id']);
      const format = formatWanted(request) ?? 'ndjson';
      if (request.method !== 'HEAD') return stream(book, params.id, principal, reply, format, after);
      // Not a reader: its events may be long in coming.
      const { id } = book.record(params.id, principal);
      return reply.headers({ ...streamHeaders(format), 'nox-run-id': id }).send(Readable.from([]));
    },
  });

  addRoute(app, {
    method: 'POST',
    url: '/v1/runs/:id/stdin',
    summary: 'Send standard input to a run that was started with `interactive`',
    scope: 'run',
    params: RunParams,
    body: StdinBody,
    answers: { 204: Type.Null() },
    errors: ['run_not_found', 'run_ended', 'rate_limited'],
    handler: ({ params, principal, body }) => {
      const live = interactive(book, params.id, principal);
      const { text, base64, end } = body;
      const inputs: RunInput[] = [];
      if (text !== undefined) inputs.push({ type: 'stdin', data: Buffer.from(text) });
      if (base64 !== undefined) inputs.push({ type: 'stdin', data: Buffer.from(base64, 'base64') });
      if (end === true) inputs.push({ type: 'stdin_end' });
      live.tell(...inputs);
    },
  });

  addRoute(app, {
    method: 'POST',
    url: '/v1/runs/:id/signal',
    summary: 'Send a signal to the program of a run that was started with `interactive`',
    scope: 'run',
    params: RunParams,
    body: SignalBody,
    answers: { 204: Type.Null() },
    errors: ['run_not_found', 'run_ended', 'rate_limited'],
    handler: ({ params, principal, body }) => {
      interactive(book, params.id, principal).tell({
        type: 'signal',
        signal: constants.signals[body.signal],
      });
    },
  });

  addRoute(app, {
    method: 'POST',
    url: '/v1/runs/:id/cancel',
    summary: 'End a run; resolves when nothing of it is alive',
    scope: 'run',
    params: RunParams,
    answers: { 200: Run },
    answerHeaders: RUN_HEADERS,
    errors: ['run_not_found', 'run_ended'],
    handler: async ({ params, principal, reply }) => {
      const live = book.cancel(params.id, principal);
      await live.ended;
      return sendRun(reply, live.record, undefined);
    },
  });

  addRoute(app, {
    method: 'GET',
    url: '/v1/runtimes',
    summary: 'What this server can run, by having run it',
    scope: 'run',
    answers: { 200: closed({ runtimes: Type.Array(RuntimeInfo) }) },
    errors: ['runner_unavailable', 'queue_full', 'queue_timeout', 'sandbox_error'],
    handler: async ({ principal, reply }) => {
      const runtimes = await executor.ask('runtimes', {}, reply.server.calls.signal(reply));
      return { runtimes: runtimes.filter(({ name }) => principal.runtimes?.has(name) !== false) };
    },
  });
}

type RunCall = Call<unknown, unknown, Static<typeof RunBody>>;

async function run(parts: Parts, { body, principal, request, reply }: RunCall): Promise<FastifyReply> {
  request.ending.subject = () =>
    body.command === undefined ? codeSubject(body.code ?? '', body.entry) : commandSubject(body.command);
  checkWebhook(parts, body);
  const key = idempotencyKey(request.headers['idempotency-key']);
  const format = formatWanted(request);
  const kept = body.background === true || key !== undefined;
  const bytes = format === undefined && accepts(request, BYTES);
  if (kept && bytes)
    throw new NoxError(
      'invalid_request',
      `Accept: ${BYTES} is for a run that ends with its client; of one with \`background\` or an Idempotency-Key take the events`,
    );
  if (kept) return background(parts, { body, key, format, principal, reply });
  const order = orderOf(parts, {
    body,
    principal,
    requestId: request.id,
    whole: format !== undefined || bytes,
  });
  if (bytes) return sendStdout(reply, parts.book, order);
  const signal = reply.server.calls.signal(reply);
  if (format !== undefined) {
    const live = await parts.book.watch(order, signal);
    return stream(parts.book, live.record.id, principal, reply, format, undefined);
  }
  const { run: ended, output } = await parts.book.wait(order, signal);
  const { result } = ended.record;
  if (result !== undefined) request.ending.run = { limits: order.request.limits, result };
  requireResult(ended);
  return sendRun(reply, ended.record, output);
}

interface Kept {
  readonly body: RunBody;
  readonly key: string | undefined;
  readonly format: StreamFormat | undefined;
  readonly principal: Principal;
  readonly reply: FastifyReply;
}

/** A run that is kept whatever becomes of its client; under a key that has been used, the run of that key. */
async function background(
  parts: Parts,
  { body, key, format, principal, reply }: Kept,
): Promise<FastifyReply> {
  const { book, store } = parts;
  let id = '';
  book.background((fresh) => {
    id = fresh;
    if (key !== undefined) {
      const asked = `POST /v1/runs ${JSON.stringify(body)}`;
      const reserved = store.idempotency.reserve(principal.id, key, asked, fresh);
      if (reserved.kind === 'run') id = reserved.run;
      if (reserved.kind !== 'new') return undefined;
    }
    // What fails after the admission would have to give it back.
    keepWebhook(store, fresh, body);
    return orderOf(parts, { body, principal, requestId: reply.request.id, whole: true });
  });
  if (format !== undefined) return stream(book, id, principal, reply, format, undefined);
  const record = book.record(id, principal);
  if (body.background === true) {
    void reply.code(202).header('location', `/v1/runs/${id}`);
    return sendRun(reply, record, undefined);
  }
  if (record.state !== 'ended') await book.alive(id, principal).ended;
  const ended = book.record(id, principal);
  if (ended.error !== undefined) throw new NoxError(ended.error.code, ended.error.detail);
  return sendRun(reply, ended, await outputIfKept(book, id, principal));
}

function checkWebhook({ targets }: Parts, { webhook, background }: RunBody): void {
  if (webhook === undefined) return;
  if (background !== true) throw new NoxError('invalid_request', 'webhook: needs `background`');
  if (targets === undefined)
    throw new NoxError('invalid_request', 'webhook: the administrator has not turned them on (NOX_WEBHOOK)');
  targets.check(webhook.url);
}

function keepWebhook(store: Store, run: string, { webhook }: RunBody): void {
  if (webhook !== undefined) store.webhooks.add({ id: `whd_${randomUUID()}`, run, ...webhook });
}

async function stream(
  book: RunBook,
  id: string,
  principal: Principal,
  reply: FastifyReply,
  format: StreamFormat,
  after: number | undefined,
): Promise<FastifyReply> {
  const gone = new AbortController();
  const onClose = () => {
    gone.abort();
  };
  reply.raw.once('close', onClose);
  if (reply.raw.closed) onClose();
  let events: AsyncIterable<Buffer>;
  try {
    events = await book.events(id, principal, after, gone.signal);
  } catch (error) {
    if (!(error instanceof PlaceError)) throw error;
    throw new NoxError('range_not_satisfiable', `Last-Event-ID: ${error.message}`);
  }
  void reply.header('nox-run-id', id);
  await sendEvents(reply, format, events);
  return reply;
}

async function outputIfKept(book: RunBook, id: string, principal: Principal) {
  try {
    return await book.output(id, principal);
  } catch (error) {
    // Of a run that was watched, the beginning is not held for long.
    if (error instanceof PlaceError) return undefined;
    if (error instanceof NoxError && error.code === 'run_not_found') return undefined;
    throw error;
  }
}

function interactive(book: RunBook, id: string, principal: Principal): LiveRun {
  const live = book.alive(id, principal);
  if (live.request.interactive === true) return live;
  throw new NoxError('invalid_request', `The run ${id} takes no input: start it with \`interactive\``);
}

function lastEventId(header: string | string[] | undefined): number | undefined {
  if (header === undefined || header === '') return undefined;
  if (typeof header === 'string' && EVENT_ID.test(header)) return Number(header);
  throw new NoxError('invalid_request', 'Last-Event-ID: is not the id of an event');
}

function idempotencyKey(header: string | string[] | undefined): string | undefined {
  if (header === undefined) return undefined;
  if (typeof header === 'string' && IDEMPOTENCY_KEY.test(header)) return header;
  throw new NoxError(
    'invalid_request',
    'Idempotency-Key: is not 1 to 255 printable ASCII characters without spaces',
  );
}

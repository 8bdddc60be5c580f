/** `/v1/runs`: run something and wait, watch, or go away; look at runs, talk to them, end them. */
import { constants } from 'node:os';
import type { FastifyInstance, FastifyReply } from 'fastify';
import Type, { type Static } from 'typebox';
import { NoxError } from '../../protocol/errors.ts';
import type { Executor } from '../../protocol/executor.ts';
import { OUTCOMES } from '../../protocol/outcome.ts';
import { RuntimeInfo } from '../../protocol/runtimes.ts';
import { codeSubject, commandSubject } from '../audit.ts';
import { requireRuntime, requireWorkspace, type Principal } from '../principal.ts';
import type { Quota } from '../quota.ts';
import { addRoute, closed, PAGE_DEFAULT, PageQuery, type Call } from '../route.ts';
import type { RunBook } from '../runs/book.ts';
import type { RunOrder } from '../runs/keeper.ts';
import type { LiveRun } from '../runs/live.ts';
import { PlaceError } from '../runs/log.ts';
import { viewOf } from '../runs/record.ts';
import { RunBody, runtimeOf, toRunRequest } from '../runs/request.ts';
import { Run, RunEvent, RunPage } from '../runs/schema.ts';
import { sendRun } from '../runs/answer.ts';
import { formatWanted, sendEvents, type StreamFormat } from '../sse.ts';
import { recordOf } from '../runs/keeper.ts';
import type { Store } from '../store/store.ts';

interface Parts {
  readonly executor: Executor;
  readonly book: RunBook;
  readonly store: Store;
  readonly quota: Quota;
  readonly cpuSeconds: number;
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
const EVENT_ID = /^\d{1,15}$/;
const IDEMPOTENCY_KEY = /^[\x21-\x7e]{1,255}$/;

export function v1RunRoutes(app: FastifyInstance, parts: Parts): void {
  const { book, store, executor } = parts;

  addRoute(app, {
    method: 'POST',
    url: '/v1/runs',
    summary: 'Run a program: wait for its result, stream its events, or let it run in the background',
    scope: 'run',
    body: RunBody,
    headers: RunHeaders,
    answers: { 200: Run, 202: Run },
    events: RunEvent,
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
      const { runs, next } = store.runs.page(principal, filter, limit, after);
      return { runs: runs.map((row) => viewOf(recordOf(row, undefined))), next };
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
      return stream(book, params.id, principal, reply, formatWanted(request) ?? 'ndjson', after);
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
      if (body.text !== undefined) live.tell({ type: 'stdin', data: Buffer.from(body.text) });
      if (body.base64 !== undefined) live.tell({ type: 'stdin', data: Buffer.from(body.base64, 'base64') });
      if (body.end === true) live.tell({ type: 'stdin_end' });
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
  const runtime = runtimeOf(body);
  requireRuntime(principal, runtime);
  if (body.workspace !== undefined) requireWorkspace(principal, body.workspace);
  request.ending.subject = () =>
    body.command === undefined ? codeSubject(body.code ?? '', body.entry) : commandSubject(body.command);
  const key = idempotencyKey(request.headers['idempotency-key']);
  const format = formatWanted(request);
  const kept = body.background === true || key !== undefined;
  const order = orderOf(parts, {
    body,
    principal,
    requestId: request.id,
    whole: kept || format !== undefined,
  });
  const signal = reply.server.calls.signal(reply);
  if (kept) return background(parts, { order, key, body, format, reply });
  if (format !== undefined) {
    const live = await parts.book.watch(order, signal);
    return stream(parts.book, live.record.id, principal, reply, format, undefined);
  }
  const { run: ended, output } = await parts.book.wait(order, signal);
  return answer(ended, output, reply);
}

function orderOf(
  { quota, cpuSeconds }: Parts,
  {
    body,
    principal,
    requestId,
    whole,
  }: { body: RunBody; principal: Principal; requestId: string; whole: boolean },
): RunOrder {
  const request = toRunRequest(body, { id: requestId, principal, output: whole ? 'all' : 'bounded' });
  const admission = quota.admit(principal, body.limits?.cpuSeconds ?? cpuSeconds);
  const limits =
    admission.cpuSeconds < cpuSeconds ? { ...body.limits, cpuSeconds: admission.cpuSeconds } : body.limits;
  return {
    principal,
    requestId,
    runtime: runtimeOf(body),
    workspace: body.workspace,
    labels: body.labels ?? {},
    request: limits === undefined ? request : { ...request, limits },
    admission,
  };
}

interface Kept {
  readonly order: RunOrder;
  readonly key: string | undefined;
  readonly body: RunBody;
  readonly format: StreamFormat | undefined;
  readonly reply: FastifyReply;
}

/** A run that is kept whatever becomes of its client; under a key that has been used, the run of that key. */
async function background(
  { book, store }: Parts,
  { order, key, body, format, reply }: Kept,
): Promise<FastifyReply> {
  const { principal } = order;
  let id: string | undefined;
  const run = await book.background(order, (fresh) => {
    id = fresh;
    if (key === undefined) return true;
    const reserved = store.idempotency.reserve(
      principal.id,
      key,
      `POST /v1/runs ${JSON.stringify(body)}`,
      fresh,
    );
    if (reserved.kind === 'run') id = reserved.run;
    return reserved.kind === 'new';
  });
  if (run === undefined) order.admission?.release();
  if (id === undefined) throw new NoxError('internal', 'The server failed; its log has the reason');
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

/** Of a run that its client has waited for. */
function answer(run: LiveRun, output: Parameters<typeof sendRun>[2], reply: FastifyReply): FastifyReply {
  const { record, failure, cancelled } = run;
  if (cancelled === 'stopped' || record.result?.outcome === 'cancelled')
    throw new NoxError('shutting_down', 'The server stopped while the run was under way');
  if (failure !== undefined && record.startedAt === null) throw failure;
  return sendRun(reply, record, output);
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
  reply.raw.once('close', () => {
    gone.abort();
  });
  const events = await book.events(id, principal, after, gone.signal);
  void reply.header('nox-run-id', id);
  try {
    // A wrong place is told while there is no answer yet.
    await events.next();
    await sendEvents(reply, format, events);
  } catch (error) {
    if (error instanceof PlaceError)
      throw new NoxError('range_not_satisfiable', `Last-Event-ID: ${error.message}`);
    throw error;
  }
  return reply;
}

async function outputIfKept(book: RunBook, id: string, principal: Principal) {
  try {
    return await book.output(id, principal);
  } catch (error) {
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

/**
 * The gateway without its socket: HTTP in front of an Executor. Starts no process, writes no file but its own log.
 *
 * The order of a request: the token (before any byte of the body), the body within its bound, the schema, the
 * executor. Every error leaves through `sendError`, in the shape of the contract.
 */
import { randomUUID } from 'node:crypto';
import type { IncomingMessage, ServerResponse } from 'node:http';
import multipart from '@fastify/multipart';
import Fastify, {
  type FastifyError,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
} from 'fastify';
import type { Logger } from 'pino';
import { ERRORS, NoxError, type ErrorCode } from '../protocol/errors.ts';
import type { Executor } from '../protocol/executor.ts';
import type { Limits } from '../protocol/limits.ts';
import { auditEntry, outcomeOf, runEntry, type AuditSink } from './audit.ts';
import { watchCalls } from './calls.ts';
import { clientAddress, trustOf } from './client-address.ts';
import { onEnding, traffic } from './ending.ts';
import type { Metrics } from './metrics.ts';
import type { Principal } from './principal.ts';
import { Quota } from './quota.ts';
import { keepRoutes, methodsAt } from './route.ts';
import { documentRoutes } from './routes/documents.ts';
import { healthRoute } from './routes/health.ts';
import { metricsRoute } from './routes/metrics.ts';
import { putRoute } from './routes/put.ts';
import { runRoutes } from './routes/run.ts';
import { batchRoute } from './routes/v1-batch.ts';
import { contentRoutes } from './routes/v1-content.ts';
import { fileRoutes } from './routes/v1-files.ts';
import { terminalRoute } from './routes/v1-terminal.ts';
import { v1RunRoutes } from './routes/v1-runs.ts';
import { tokenRoutes } from './routes/v1-tokens.ts';
import { workspaceRoutes } from './routes/v1-workspaces.ts';
import { RunBook } from './runs/book.ts';
import { Spool, type SpoolLimits } from './runs/spool.ts';
import type { Store } from './store/store.ts';
import { Authenticator } from './tokens.ts';
import type { Tracer } from './trace.ts';
import { isTerminalUpgrade, routeUpgrades } from './upgrade.ts';
import { watchExecutor } from './watch.ts';
import { Webhooks } from './webhooks/deliver.ts';
import { WebhookTargets } from './webhooks/target.ts';

declare module 'fastify' {
  interface FastifyInstance {
    book: RunBook;
  }
}

export interface GatewayOptions {
  readonly executor: Executor;
  readonly token: string;
  readonly forbidden: readonly string[];
  readonly maxBodyBytes: number;
  readonly maxUploadBytes: number;
  /** Addresses and blocks whose X-Forwarded-For is believed; none without it. */
  readonly trustedProxy?: readonly string[];
  /** What a run may use at most. */
  readonly limits: Limits;
  readonly store: Store;
  /** Directory of the gateway's own files. */
  readonly state: string;
  readonly slots: number;
  readonly queueWaitSeconds: number;
  /** Blocks that webhooks may reach though they are not public; undefined: no webhooks. */
  readonly webhookAllow?: readonly string[] | undefined;
  readonly backgroundQueue: number;
  readonly keep: SpoolLimits;
  readonly audit?: AuditSink | undefined;
  /** Counts, and is served at /metrics. */
  readonly metrics?: Metrics | undefined;
  readonly tracer?: Tracer | undefined;
  readonly log: Logger;
}

/** Time in which a client must have sent its headers; a connection without a request is closed after it too. */
const HEADERS_TIMEOUT_MS = 20_000;
/** Time in which a whole request must have come: an hour for an upload over a slow line. */
const REQUEST_TIMEOUT_MS = 3_600_000;
const MAX_HEADER_BYTES = 16 * 1024;
/** A request id of the client's own is taken over if it is one that a log can hold. */
const REQUEST_ID = /^[A-Za-z0-9._:-]{1,128}$/;

/** Asked again and again, by machines. */
const QUIET: ReadonlySet<string> = new Set(['/health', '/metrics']);
/** Routes without a token: they tell nothing that the source does not. */
const OPEN = new Set<string | undefined>(['/health', '/openapi.json', '/docs']);

export async function buildGateway(options: GatewayOptions): Promise<FastifyInstance> {
  const { log, audit, store, metrics, tracer, limits } = options;
  const executor = watchExecutor(options.executor, metrics, tracer);
  const authenticator = new Authenticator(options.token, store.tokens);
  const quota = new Quota(store.usage);
  const app = Fastify({
    // A logger of its own for each request, which is what Fastify would make, costs more than the line.
    logger: false,
    bodyLimit: options.maxBodyBytes,
    requestTimeout: REQUEST_TIMEOUT_MS,
    forceCloseConnections: true,
    trustProxy: trustOf(options.trustedProxy ?? []),
    http: {
      ...{ headersTimeout: HEADERS_TIMEOUT_MS, maxHeaderSize: MAX_HEADER_BYTES },
      shouldUpgradeCallback: isTerminalUpgrade,
    },
    // What the router refuses by itself, such as `%` with no number after it: in the shape of every other error.
    frameworkErrors: (error, request, reply) => {
      void reply.header('x-request-id', request.id);
      void sendError(toNoxError(error, request, log), reply);
    },
    genReqId: (request) => {
      const given = request.headers['x-request-id'];
      return typeof given === 'string' && REQUEST_ID.test(given) ? given : randomUUID();
    },
    clientErrorHandler: (error, socket) => {
      if (socket.writable) socket.end(rawError(error.code));
      else socket.destroy();
    },
  });

  // Node answers `Expect: 100-continue` by itself, before anybody has seen the token: the body would come anyway.
  app.server.on('checkContinue', (request: IncomingMessage, response: ServerResponse) => {
    try {
      authenticator.authenticate(request.headers.authorization);
      response.writeContinue();
    } catch {
      // The request itself is refused below, in the shape of every other.
    }
    app.routing(request, response);
  });

  routeUpgrades(app);

  onEnding(app, (request, reply) => {
    const { method, routeOptions } = request;
    const route = routeOptions.url ?? 'none';
    const level = QUIET.has(route) ? 'debug' : 'info';
    const client = clientAddress(request);
    const ms = Math.round(reply.elapsedTime);
    const outcome = outcomeOf(reply);
    const status = reply.statusCode;
    log[level]({ requestId: request.id, client, method, route, status, ms, outcome }, 'request');
    metrics?.requestEnded({
      ...{ route: routeOptions.url, method, status, seconds: reply.elapsedTime / 1000 },
      ...{ ...traffic(request), failure: request.ending.failure },
    });
    const { span, failure } = request.ending;
    if (span !== undefined)
      tracer?.end(
        span,
        {
          'http.request.method': method,
          'http.route': route,
          'http.response.status_code': status,
          'nox.request_id': request.id,
        },
        failure,
      );
    const entry = audit === undefined ? undefined : auditEntry(request, reply, options.limits);
    if (entry !== undefined) audit?.write(entry);
  });
  if (metrics !== undefined)
    app.addHook('onRequest', (_request, _reply, done) => {
      metrics.requestBegan();
      done();
    });
  if (tracer !== undefined) traceRequests(app, tracer);
  app.addHook('onRequest', (request, reply, done) => {
    void reply.header('x-request-id', request.id);
    if (OPEN.has(request.routeOptions.url)) {
      done();
      return;
    }
    try {
      request.principal = authenticator.authenticate(request.headers.authorization);
      done();
    } catch (error) {
      done(error as Error);
    }
  });
  app.decorate('quotaHeaders', (request) => {
    // As typed there is always one; not so for what needs no token, and for what was refused.
    const principal = request.principal as Principal | undefined;
    return principal === undefined ? {} : quota.headers(principal);
  });
  app.addHook('onSend', (request, reply, _payload, done) => {
    void reply.headers(app.quotaHeaders(request));
    done();
  });
  watchCalls(app);
  keepRoutes(app);
  app.setErrorHandler<FastifyError | NoxError>((error, request, reply) =>
    sendError(app.calls.explain(toNoxError(error, request, log)), reply),
  );
  app.setNotFoundHandler((request, reply) => {
    const path = request.url.split('?')[0] ?? '';
    const allowed = methodsAt(app, path);
    if (allowed.length === 0)
      return sendError(new NoxError('not_found', `No call ${request.method} ${path}`), reply);
    void reply.header('allow', allowed.join(', '));
    return sendError(new NoxError('method_not_allowed', `${path} takes ${allowed.join(', ')}`), reply);
  });

  // curl's `-d` claims a form; the contract takes a JSON body whatever it claims to be.
  app.removeAllContentTypeParsers();
  app.addContentTypeParser('*', { parseAs: 'string' }, (_request, body, done) => {
    try {
      done(null, JSON.parse(String(body)));
    } catch (cause) {
      done(new NoxError('invalid_request', `body: not JSON (${(cause as Error).message})`));
    }
  });
  await app.register(multipart, { limits: { fileSize: Infinity, files: 1, fields: 1, parts: 1 } });

  healthRoute(app, executor);
  if (metrics !== undefined) metricsRoute(app, metrics);
  documentRoutes(app);
  await app.register((scope) => {
    putRoute(scope, executor, options.maxUploadBytes);
  });
  runRoutes(app, { ...options, executor }, quota);
  tokenRoutes(app, store, quota);
  const book = new RunBook({
    ...{ executor, store, log, slots: options.slots, queue: options.backgroundQueue },
    spool: new Spool(options.state, options.keep),
    outputBytes: limits.outputBytes,
    onEnd: (run) => audit?.write(runEntry(run, limits)),
  });
  app.decorate('book', book);
  const { slots, queueWaitSeconds } = options;
  batchRoute(app, { book, quota, cpuSeconds: limits.cpuSeconds, slots, queueWaitSeconds });
  terminalRoute(app, { book, quota, cpuSeconds: limits.cpuSeconds });
  const { webhookAllow } = options;
  const targets = webhookAllow === undefined ? undefined : new WebhookTargets(webhookAllow);
  if (targets !== undefined) {
    const webhooks = new Webhooks(store, targets, log);
    app.addHook('onClose', () => {
      webhooks.stop();
    });
  }
  v1RunRoutes(app, { executor, book, store, quota, cpuSeconds: limits.cpuSeconds, targets });
  workspaceRoutes(app, executor);
  fileRoutes(app, executor);
  contentRoutes(app, executor, options.maxUploadBytes);
  return app;
}

/** What runs through the executor for a request is a part of its trace. */
function traceRequests(app: FastifyInstance, tracer: Tracer): void {
  app.addHook('onRequest', (request, _reply, done) => {
    const { method, headers, routeOptions, ending } = request;
    const { url: route } = routeOptions;
    const parent = headers['traceparent'];
    if (route !== undefined && !QUIET.has(route)) {
      const span = tracer.accept(`${method} ${route}`, typeof parent === 'string' ? parent : undefined);
      if (span !== undefined) ending.span = span;
    }
    done();
  });
  // Not before: reading the body would lose it.
  app.addHook('preHandler', (request, _reply, done) => {
    const { span } = request.ending;
    if (span === undefined) done();
    else tracer.run(span, done);
  });
}

/** An error of a client is never an error of the server, whichever library found it. */
function toNoxError(error: FastifyError | NoxError, request: FastifyRequest, log: Logger): NoxError {
  if (error instanceof NoxError) return error;
  // The client has gone before the first byte of a streamed answer: nobody reads this one.
  if (error.code === 'ERR_STREAM_PREMATURE_CLOSE' && request.ending.closed)
    return new NoxError('cancelled', 'The client went away before the answer began', { cause: error });
  const status = error.statusCode ?? 500;
  if (status === 413) return new NoxError('payload_too_large', 'The body is too large', { cause: error });
  if (status >= 400 && status < 500) return new NoxError('bad_request', error.message, { cause: error });
  log.error({ requestId: request.id, err: error }, 'internal');
  return new NoxError('internal', 'The server failed; its log has the reason', { cause: error });
}

function sendError(error: NoxError, reply: FastifyReply): FastifyReply {
  const { status, hint } = ERRORS[error.code];
  // As typed there is always one; not so for what the router refuses, before any hook.
  const ending = reply.request.ending as FastifyRequest['ending'] | undefined;
  if (ending !== undefined) ending.failure = error.code;
  if (error.code === 'unauthorized') void reply.header('www-authenticate', 'Bearer');
  if (error.retryAfter !== undefined) void reply.header('retry-after', String(error.retryAfter));
  if (!reply.request.raw.complete) linger(reply);
  // What was to be sent when it failed.
  for (const name of ['content-length', 'content-disposition', 'etag', 'last-modified'])
    void reply.removeHeader(name);
  if (error.code !== 'range_not_satisfiable') void reply.removeHeader('content-range');
  void reply.type('application/json; charset=utf-8');
  return reply
    .code(status)
    .send({ detail: error.message, code: error.code, hint, requestId: reply.request.id });
}

/** A body that comes after its refusal: so much of it is read, and so long is waited for its end. */
const LINGER_BYTES = 64 * 1024;
const LINGER_MS = 1000;

/**
 * Lets a client that is still sending see its refusal. Closing at once would answer its next bytes with a reset,
 * which throws away what it has not read yet; reading on would cost the whole upload.
 */
function linger(reply: FastifyReply): void {
  const { raw } = reply.request;
  const { socket } = raw;
  void reply.header('connection', 'close');
  // What Node calls when the last answer of a connection has been written.
  socket.destroySoon = () => {
    socket.end();
    setTimeout(() => socket.destroy(), LINGER_MS).unref();
  };
  let bytes = 0;
  raw.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes > LINGER_BYTES) raw.pause();
  });
}

const RAW_ERRORS: Readonly<Record<string, [ErrorCode, string]>> = {
  HPE_HEADER_OVERFLOW: ['headers_too_large', 'Request Header Fields Too Large'],
  ERR_HTTP_REQUEST_TIMEOUT: ['request_timeout', 'Request Timeout'],
};

/** What is no HTTP never reaches a route; it is answered on the bare socket. */
function rawError(code: string | undefined): string {
  const [name, reason] = RAW_ERRORS[code ?? ''] ?? (['bad_request', 'Bad Request'] as const);
  const { status, hint } = ERRORS[name];
  const body = JSON.stringify({ detail: reason, code: name, hint });
  return [
    `HTTP/1.1 ${String(status)} ${reason}`,
    'Content-Type: application/json; charset=utf-8',
    `Content-Length: ${String(Buffer.byteLength(body))}`,
    'Connection: close',
    '',
    body,
  ].join('\r\n');
}

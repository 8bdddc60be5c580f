/** `/v1/workspaces/{id}/files`, `archive` and `watch`: the files of a workspace. */
import { Readable } from 'node:stream';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import Type, { type Static } from 'typebox';
import { NoxError, type ErrorCode } from '../../protocol/errors.ts';
import type { Executor } from '../../protocol/executor.ts';
import { FileInfo, FileList, type WatchEvent } from '../../protocol/files.ts';
import { PATH_MAX } from '../../protocol/messages.ts';
import { pathSubject } from '../audit.ts';
import { attachment, hasAlready, parseRange, parseTags } from '../conditions.ts';
import { requireWorkspace } from '../principal.ts';
import { queryPath } from '../query-path.ts';
import { rawBody } from '../raw-body.ts';
import { addRoute, closed, PageQuery, rawBodies, type Call } from '../route.ts';
import { WorkspaceParams } from './v1-workspaces.ts';

/** Bytes that are no UTF-8 come percent-encoded, as they are. */
const Path = Type.String({ maxLength: 3 * PATH_MAX });
const BodyPath = Type.String({ minLength: 1, maxLength: PATH_MAX });
const Switch = Type.Optional(Type.Boolean({ default: false }));
const Mode = Type.Optional(Type.String({ pattern: '^0?[0-7]{3}$' }));
const Format = Type.Optional(Type.Enum(['tar.gz', 'zip'], { default: 'tar.gz' }));
const Between = closed({ from: BodyPath, to: BodyPath, overwrite: Switch });
const Bytes = Type.String({ contentMediaType: 'application/octet-stream' });
const MEDIA_TYPES = { 'tar.gz': 'application/gzip', zip: 'application/zip' } as const;
const Archive = Type.Union(
  Object.values(MEDIA_TYPES).map((contentMediaType) => Type.String({ contentMediaType })),
);
const Events = Type.String({ contentMediaType: 'text/event-stream' });
const Unpacked = closed({ entries: Type.Integer(), bytes: Type.Integer() });

const HEARTBEAT_MS = 15_000;
const DOWNLOAD_HEADERS = ['content-disposition', 'cache-control'] as const;

const READ_ERRORS: readonly ErrorCode[] = [
  'workspace_not_found',
  'workspace_conflict',
  'invalid_path',
  'file_not_found',
  'runner_unavailable',
  'sandbox_error',
];
const WRITE_ERRORS: readonly ErrorCode[] = [...READ_ERRORS, 'workspace_full'];

type AnyCall = Pick<
  Call<Static<typeof WorkspaceParams>, unknown, unknown>,
  'params' | 'principal' | 'request' | 'reply'
>;

export function fileRoutes(app: FastifyInstance, executor: Executor, maxUploadBytes: number): void {
  const common = { scope: 'files', params: WorkspaceParams } as const;
  const base = '/v1/workspaces/:id';
  /** Who may, which file, and how the call ends. */
  const begin = ({ params: { id }, principal, request, reply }: AnyCall) => {
    requireWorkspace(principal, id);
    const path = queryPath(request);
    request.ending.subject = () => ({ workspace: id, ...pathSubject(path) });
    return { workspace: id, path, signal: app.calls.signal(reply) };
  };

  addRoute(app, {
    ...common,
    method: 'GET',
    url: `${base}/files`,
    summary: 'List a directory, or all below it, sorted by name',
    query: closed({
      path: Type.Optional(Path),
      recursive: Switch,
      limit: PageQuery.limit,
      after: Type.Optional(Type.String({ minLength: 1, maxLength: 6000 })),
    }),
    answers: { 200: FileList },
    errors: READ_ERRORS,
    handler: (call) => {
      const { signal, ...place } = begin(call);
      return executor.ask('list', { ...call.query, ...place }, signal);
    },
  });

  addRoute(app, {
    ...common,
    method: 'GET',
    url: `${base}/files/stat`,
    summary: 'Look at one file, directory or link',
    query: closed({ path: Type.Optional(Path) }),
    answers: { 200: FileInfo },
    errors: READ_ERRORS,
    handler: (call) => {
      const { signal, ...place } = begin(call);
      return executor.ask('stat', place, signal);
    },
  });

  addRoute(app, {
    ...common,
    method: 'GET',
    url: `${base}/files/content`,
    summary: 'Read a file; `Range`, `If-Range` and `If-None-Match` are heard',
    query: closed({ path: Path }),
    answers: { 200: Bytes, 206: Bytes, 304: Type.Null() },
    answerHeaders: [...DOWNLOAD_HEADERS, 'etag', 'last-modified', 'accept-ranges', 'content-range'],
    errors: [...READ_ERRORS, 'range_not_satisfiable'],
    handler: async (call) => {
      const { signal, ...place } = begin(call);
      const { request, reply } = call;
      const { headers } = request;
      const known = parseTags(headers['if-none-match'], 'If-None-Match');
      if (request.method === 'HEAD') {
        const file = await executor.ask('stat', place, signal);
        if (file.type !== 'file')
          throw new NoxError(
            'invalid_path',
            `path ${JSON.stringify(place.path.slice(0, 200))}: is no regular file`,
          );
        if (hasAlready(known, file.etag)) return notModified(reply, file);
        return sendContent(reply, file, 0, file.size, nothing());
      }
      const range = parseRange(headers.range);
      const ifRange = headers['if-range'];
      const { answer, body } = await executor.fetch(
        'read',
        {
          ...place,
          ...(range === undefined ? {} : { range }),
          ...(typeof ifRange === 'string' ? { ifRange: ifRange.slice(0, 200) } : {}),
        },
        signal,
      );
      if (hasAlready(known, answer.file.etag)) {
        await body[Symbol.asyncIterator]().return?.();
        return notModified(reply, answer.file);
      }
      return sendContent(reply, answer.file, answer.start, answer.end, body);
    },
  });

  addRoute(app, {
    ...common,
    method: 'DELETE',
    url: `${base}/files`,
    summary: 'Remove a file, a link or a directory; one that is not empty only with `recursive`',
    query: closed({ path: Path, recursive: Switch }),
    answers: { 204: Type.Null() },
    errors: [...READ_ERRORS, 'precondition_failed'],
    handler: async (call) => {
      const { signal, ...place } = begin(call);
      const { recursive = false } = call.query;
      await executor.ask('remove', { ...place, recursive, ...ifMatchOf(call.request) }, signal);
    },
  });

  for (const verb of ['move', 'copy'] as const)
    addRoute(app, {
      ...common,
      method: 'POST',
      url: `${base}/files/${verb}`,
      summary: `${verb === 'move' ? 'Move' : 'Copy'} a file or a directory within the workspace`,
      body: Between,
      answers: { 200: FileInfo },
      answerHeaders: ['etag'],
      errors: [...WRITE_ERRORS, 'already_exists'],
      handler: async ({ params: { id }, body, principal, request, reply }) => {
        requireWorkspace(principal, id);
        request.ending.subject = () => ({ workspace: id, ...pathSubject(body.to) });
        const file = await executor.ask(verb, { workspace: id, ...body }, app.calls.signal(reply));
        return withETag(reply, file);
      },
    });

  addRoute(app, {
    ...common,
    method: 'POST',
    url: `${base}/files/mkdir`,
    summary: 'Make a directory; with `parents` also those above it, and one that is there is no error',
    body: closed({ path: BodyPath, parents: Switch }),
    answers: { 201: FileInfo },
    errors: [...READ_ERRORS, 'already_exists'],
    handler: ({ params: { id }, body, principal, request, reply }) => {
      requireWorkspace(principal, id);
      request.ending.subject = () => ({ workspace: id, ...pathSubject(body.path) });
      return executor.ask('makeDirectory', { workspace: id, ...body }, app.calls.signal(reply));
    },
  });

  addRoute(app, {
    ...common,
    method: 'GET',
    url: `${base}/archive`,
    summary: 'Download a directory as an archive',
    query: closed({ path: Type.Optional(Path), format: Format }),
    answers: { 200: Archive },
    answerHeaders: DOWNLOAD_HEADERS,
    errors: READ_ERRORS,
    handler: async (call) => {
      const { signal, ...place } = begin(call);
      const { format = 'tar.gz' } = call.query;
      const headers = download(attachment(place.path, `.${format}`), MEDIA_TYPES[format]);
      if (call.request.method === 'HEAD') {
        await executor.ask('stat', place, signal);
        return call.reply.headers(headers).send(Readable.from([]));
      }
      const { body } = await executor.fetch('pack', { ...place, format }, signal);
      return call.reply.headers(headers).send(Readable.from(body, { objectMode: false }));
    },
  });

  addRoute(app, {
    ...common,
    method: 'GET',
    url: `${base}/watch`,
    summary: 'Be told what is created, changed and removed in a directory, as it happens',
    query: closed({ path: Type.Optional(Path), recursive: Switch }),
    answers: { 200: Events },
    answerHeaders: ['cache-control'],
    errors: [...READ_ERRORS, 'queue_full'],
    handler: async (call) => {
      const { signal, ...place } = begin(call);
      const { reply, request } = call;
      const headers = { 'content-type': 'text/event-stream', 'cache-control': 'no-store' };
      if (request.method === 'HEAD') {
        await executor.ask('stat', place, signal);
        return reply.headers(headers).send(Readable.from([]));
      }
      const { recursive = false } = call.query;
      const { body } = await executor.fetch('watch', { ...place, recursive }, signal);
      return reply.headers(headers).send(Readable.from(serverSentEvents(body), { objectMode: false }));
    },
  });

  void app.register((scope, _options, done) => {
    rawBodies(scope);
    const raw = { ...common, bodyLimit: Number.MAX_SAFE_INTEGER } as const;

    addRoute(scope, {
      ...raw,
      method: 'PUT',
      url: `${base}/files/content`,
      summary: 'Write a file: all of it, or the old one stays. `If-Match` and `If-None-Match: *` are heard',
      query: closed({ path: Path, mode: Mode }),
      rawBody: 'application/octet-stream',
      answers: { 200: FileInfo, 201: FileInfo },
      answerHeaders: ['etag'],
      errors: [...WRITE_ERRORS, 'payload_too_large', 'precondition_failed'],
      handler: async (call) => {
        const { signal, ...place } = begin(call);
        const { mode } = call.query;
        const how = {
          ...place,
          ...conditionsOf(call.request),
          ...(mode === undefined ? {} : { mode: Number.parseInt(mode, 8) }),
        };
        return write(call.request, call.reply, how, signal);
      },
    });

    addRoute(scope, {
      ...raw,
      method: 'POST',
      url: `${base}/files/append`,
      summary: 'Add to the end of a file: all of the body, or nothing',
      query: closed({ path: Path }),
      rawBody: 'application/octet-stream',
      answers: { 200: FileInfo, 201: FileInfo },
      answerHeaders: ['etag'],
      errors: [...WRITE_ERRORS, 'payload_too_large', 'precondition_failed'],
      handler: async (call) => {
        const { signal, ...place } = begin(call);
        return write(
          call.request,
          call.reply,
          { ...place, append: true, ...ifMatchOf(call.request) },
          signal,
        );
      },
    });

    addRoute(scope, {
      ...raw,
      method: 'PUT',
      url: `${base}/archive`,
      summary: 'Unpack an archive into a directory; a hostile one changes nothing',
      query: closed({ path: Type.Optional(Path), format: Format }),
      rawBody: 'application/gzip',
      answers: { 200: Unpacked },
      errors: [...WRITE_ERRORS, 'payload_too_large', 'already_exists', 'hostile_archive'],
      handler: async (call) => {
        const { signal, ...place } = begin(call);
        const { format = 'tar.gz' } = call.query;
        checkLength(call.request, maxUploadBytes);
        return executor.send('unpack', { ...place, format }, rawBody(call.request), signal);
      },
    });

    const write = async (
      request: FastifyRequest,
      reply: FastifyReply,
      how: Parameters<typeof executor.send<'write'>>[1],
      signal: AbortSignal,
    ) => {
      checkLength(request, maxUploadBytes);
      const { created, ...file } = await executor.send('write', how, rawBody(request), signal);
      return withETag(reply.code(created ? 201 : 200), file);
    };
    done();
  });
}

/** A rough bound that saves the sender an upload that cannot be taken. */
function checkLength({ headers }: FastifyRequest, maxUploadBytes: number): void {
  const announced = Number(headers['content-length'] ?? 0);
  if (announced > maxUploadBytes)
    throw new NoxError(
      'payload_too_large',
      `The body has ${String(announced)} bytes; it may have ${String(maxUploadBytes)}`,
    );
}

function ifMatchOf({ headers }: FastifyRequest) {
  const ifMatch = parseTags(headers['if-match'], 'If-Match');
  return ifMatch === undefined ? {} : { ifMatch };
}

function conditionsOf(request: FastifyRequest) {
  const none = request.headers['if-none-match'];
  if (none !== undefined && none !== '*')
    throw new NoxError(
      'invalid_request',
      'If-None-Match: a PUT takes only *, which asks that there is no file yet',
    );
  return { ...ifMatchOf(request), ...(none === undefined ? {} : { exclusive: true }) };
}

function withETag(reply: FastifyReply, file: FileInfo): FileInfo {
  if (file.etag !== undefined) void reply.header('etag', file.etag);
  return file;
}

/** What strangers have written is saved, never shown or executed by a browser. */
function download(disposition: string, type: string) {
  return {
    'content-type': type,
    'content-disposition': disposition,
    'x-content-type-options': 'nosniff',
    'content-security-policy': "default-src 'none'; sandbox",
    'cache-control': 'private, no-cache',
  };
}

function notModified(reply: FastifyReply, file: FileInfo): FastifyReply {
  withETag(reply, file);
  return reply.code(304).send();
}

function sendContent(
  reply: FastifyReply,
  file: FileInfo,
  start: number,
  end: number,
  body: AsyncIterable<Uint8Array>,
): FastifyReply {
  withETag(reply, file);
  void reply.headers({
    ...download(attachment(file.path), 'application/octet-stream'),
    'content-length': String(end - start),
    'accept-ranges': 'bytes',
    'last-modified': new Date(file.modified).toUTCString(),
  });
  if (end - start < file.size)
    void reply
      .code(206)
      .header('content-range', `bytes ${String(start)}-${String(end - 1)}/${String(file.size)}`);
  return reply.send(Readable.from(body, { objectMode: false }));
}

async function* nothing(): AsyncGenerator<Uint8Array> {
  // For HEAD.
}

/** A line of JSON each becomes an event; a comment now and then shows that both sides are there. */
async function* serverSentEvents(body: AsyncIterable<Uint8Array>): AsyncGenerator<string> {
  const source = body[Symbol.asyncIterator]();
  const ask = () => {
    const next = source.next();
    // Whoever leaves in between does not hear how it ends.
    next.catch(() => undefined);
    return next;
  };
  let rest = '';
  try {
    for (let next = ask(); ;) {
      const beat = Promise.withResolvers<undefined>();
      const timer = setTimeout(beat.resolve, HEARTBEAT_MS, undefined);
      const came = await Promise.race([next, beat.promise]);
      clearTimeout(timer);
      if (came === undefined) {
        yield ': still here\n\n';
        continue;
      }
      if (came.done === true) return;
      next = ask();
      const lines = (rest + Buffer.from(came.value).toString()).split('\n');
      rest = lines.pop() ?? '';
      for (const line of lines) {
        const { event } = JSON.parse(line) as WatchEvent;
        yield `event: ${event}\ndata: ${line}\n\n`;
      }
    }
  } finally {
    await source.return?.();
  }
}

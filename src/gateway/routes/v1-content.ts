/** `/v1/workspaces/{id}/files/content`, `append` and `archive`: the bytes of files, in and out. */
import { Readable } from 'node:stream';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import Type from 'typebox';
import { NoxError, type ErrorCode } from '../../protocol/errors.ts';
import type { Executor } from '../../protocol/executor.ts';
import { FileInfo } from '../../protocol/files.ts';
import { sendBytes } from '../answer-bytes.ts';
import { attachment, hasAlready, parseRange, parseTags } from '../conditions.ts';
import { rawBody } from '../raw-body.ts';
import { addRoute, closed, rawBodies } from '../route.ts';
import {
  begin,
  FILES,
  FILES_URL,
  ifMatchOf,
  IfMatch,
  leave,
  Path,
  READ_ERRORS,
  withETag,
} from './v1-files.ts';

const Mode = Type.Optional(Type.String({ pattern: '^0?[0-7]{3}$' }));
const Format = Type.Optional(
  Type.Enum(['tar.gz', 'zip'], {
    default: 'tar.gz',
    description: 'What it is, whatever its `Content-Type` says',
  }),
);
const bytesOf = (contentMediaType: string) => Type.String({ contentMediaType });
const MEDIA_TYPES = { 'tar.gz': 'application/gzip', zip: 'application/zip' } as const;
const ARCHIVES = Object.values(MEDIA_TYPES);
const BYTES = 'application/octet-stream';
const Unpacked = closed({ entries: Type.Integer(), bytes: Type.Integer() });
const ReadHeaders = Type.Object({
  range: Type.Optional(
    Type.String({
      description: 'One range of bytes: `bytes=0-99`, `bytes=100-`, `bytes=-100`. Else all is sent',
    }),
  ),
  'if-range': Type.Optional(Type.String({ description: 'ETag; the range holds for this state only' })),
  'if-none-match': Type.Optional(Type.String({ description: 'ETags of states that the client has' })),
});
const WriteHeaders = Type.Object({
  ...IfMatch.properties,
  'if-none-match': Type.Optional(Type.String({ description: '`*`: there must be no file yet' })),
});

const DOWNLOAD_HEADERS = ['content-disposition', 'cache-control'] as const;
/** Directories that are missing are made. */
const WRITE_ERRORS: readonly ErrorCode[] = [
  ...READ_ERRORS.filter((code) => code !== 'file_not_found'),
  'workspace_full',
  'payload_too_large',
];

export function contentRoutes(app: FastifyInstance, executor: Executor, maxUploadBytes: number): void {
  addRoute(app, {
    ...FILES,
    method: 'GET',
    url: `${FILES_URL}/files/content`,
    summary: 'Read a file; `Range`, `If-Range` and `If-None-Match` are heard',
    head: true,
    query: closed({ path: Path }),
    headers: ReadHeaders,
    answers: { 200: bytesOf(BYTES), 206: bytesOf(BYTES), 304: Type.Null() },
    answerHeaders: [...DOWNLOAD_HEADERS, 'etag', 'last-modified', 'accept-ranges', 'content-range'],
    errors: [...READ_ERRORS, 'range_not_satisfiable'],
    handler: async (call) => {
      const { signal, ...place } = begin(call);
      const { request, reply } = call;
      const { headers } = request;
      const head = request.method === 'HEAD';
      const known = parseTags(headers['if-none-match'], 'If-None-Match');
      // Of a HEAD it means nothing (RFC 9110, section 14.2).
      const range = head ? undefined : parseRange(headers.range);
      const ifRange = headers['if-range'];
      const wanted = {
        ...place,
        ...(range === undefined ? {} : { range }),
        ...(typeof ifRange === 'string' ? { ifRange: ifRange.slice(0, 200) } : {}),
      };
      const { answer, body } = await executor.fetch('read', wanted, signal).catch(async (error: unknown) => {
        if (error instanceof NoxError && error.code === 'range_not_satisfiable') {
          const all = await executor.fetch('read', place, signal);
          await leave(all.body);
          void reply.header('content-range', `bytes */${String(all.answer.file.size)}`);
        }
        throw error;
      });
      const { file, start, end } = answer;
      const same = hasAlready(known, file.etag);
      if (same || head) await leave(body);
      if (same) return notModified(reply, file);
      return sendContent(reply, file, start, end, head ? undefined : body);
    },
  });

  addRoute(app, {
    ...FILES,
    method: 'GET',
    url: `${FILES_URL}/archive`,
    summary: 'Download a directory as an archive',
    head: true,
    query: closed({ path: Type.Optional(Path), format: Format }),
    answers: { 200: Type.Union(ARCHIVES.map(bytesOf)) },
    answerHeaders: DOWNLOAD_HEADERS,
    errors: READ_ERRORS,
    handler: async (call) => {
      const { signal, ...place } = begin(call);
      const { format = 'tar.gz' } = call.query;
      const { body } = await executor.fetch('pack', { ...place, format }, signal);
      void call.reply.headers(download(attachment(place.path, `.${format}`), MEDIA_TYPES[format]));
      if (call.request.method !== 'HEAD') return sendBytes(call.reply, body);
      await leave(body);
      return call.reply.send(Readable.from([]));
    },
  });

  void app.register((scope, _options, done) => {
    rawBodies(scope);
    const raw = { ...FILES, bodyLimit: Number.MAX_SAFE_INTEGER } as const;
    const written = {
      ...raw,
      upload: { [BYTES]: bytesOf(BYTES) },
      answers: { 200: FileInfo, 201: FileInfo },
      answerHeaders: ['etag'],
      errors: [...WRITE_ERRORS, 'precondition_failed'],
    } as const;

    addRoute(scope, {
      ...written,
      method: 'PUT',
      url: `${FILES_URL}/files/content`,
      summary: 'Write a file: all of it, or the old one stays. `If-Match` and `If-None-Match: *` are heard',
      query: closed({ path: Path, mode: Mode }),
      headers: WriteHeaders,
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
      ...written,
      method: 'POST',
      url: `${FILES_URL}/files/append`,
      summary: 'Add to the end of a file: all of the body, or nothing',
      query: closed({ path: Path }),
      headers: IfMatch,
      handler: async (call) => {
        const { signal, ...place } = begin(call);
        const how = { ...place, append: true, ...ifMatchOf(call.request) };
        return write(call.request, call.reply, how, signal);
      },
    });

    addRoute(scope, {
      ...raw,
      method: 'PUT',
      url: `${FILES_URL}/archive`,
      summary: 'Unpack an archive into a directory; a hostile one changes nothing',
      query: closed({ path: Type.Optional(Path), format: Format }),
      upload: Object.fromEntries(ARCHIVES.map((media) => [media, bytesOf(media)])),
      answers: { 200: Unpacked },
      errors: [...WRITE_ERRORS, 'already_exists', 'hostile_archive'],
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

function conditionsOf(request: FastifyRequest) {
  const none = request.headers['if-none-match'];
  if (none !== undefined && none !== '*')
    throw new NoxError(
      'invalid_request',
      'If-None-Match: a PUT takes only *, which asks that there is no file yet',
    );
  return { ...ifMatchOf(request), ...(none === undefined ? {} : { exclusive: true }) };
}

const CACHING = 'private, no-cache';

/** What strangers have written is saved, never shown or executed by a browser. */
function download(disposition: string, type: string) {
  return {
    'content-type': type,
    'content-disposition': disposition,
    'x-content-type-options': 'nosniff',
    'content-security-policy': "default-src 'none'; sandbox",
    'cache-control': CACHING,
  };
}

function notModified(reply: FastifyReply, file: FileInfo): FastifyReply {
  withETag(reply, file);
  return reply.header('cache-control', CACHING).code(304).send();
}

function sendContent(
  reply: FastifyReply,
  file: FileInfo,
  start: number,
  end: number,
  /** undefined: for HEAD. */
  body: AsyncIterable<Uint8Array> | undefined,
): FastifyReply | Promise<FastifyReply> {
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
  return body === undefined ? reply.send(Readable.from([])) : sendBytes(reply, body);
}

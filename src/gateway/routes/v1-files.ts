/** `/v1/workspaces/{id}/files` and `watch`: the files of a workspace; their bytes are in v1-content.ts. */
import { Readable } from 'node:stream';
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import Type, { type Static } from 'typebox';
import type { ErrorCode } from '../../protocol/errors.ts';
import type { Executor } from '../../protocol/executor.ts';
import { FileInfo, FileList, WatchEvent } from '../../protocol/files.ts';
import { PATH_MAX } from '../../protocol/messages.ts';
import { pathSubject } from '../audit.ts';
import { parseTags } from '../conditions.ts';
import { requireWorkspace } from '../principal.ts';
import { queryPath } from '../query-path.ts';
import { addRoute, closed, PageQuery, type Call } from '../route.ts';
import { streamHeaders } from '../sse.ts';
import { WorkspaceParams } from './v1-workspaces.ts';

/** Bytes that are no UTF-8 come percent-encoded, as they are. */
export const Path = Type.String({ maxLength: 3 * PATH_MAX });
const BodyPath = Type.String({ minLength: 1, maxLength: PATH_MAX });
const Switch = Type.Optional(Type.Boolean({ default: false }));
const Between = closed({ from: BodyPath, to: BodyPath, overwrite: Switch });
const Events = Type.String({ contentMediaType: 'text/event-stream' });

const HEARTBEAT_MS = 15_000;

export const READ_ERRORS: readonly ErrorCode[] = [
  'workspace_not_found',
  'workspace_conflict',
  'invalid_path',
  'file_not_found',
  'runner_unavailable',
  'sandbox_error',
];
export const FILES = { scope: 'files', params: WorkspaceParams } as const;
export const FILES_URL = '/v1/workspaces/:id';
const Tags = Type.Optional(
  Type.String({ description: 'ETags, one of which the file must have; `*`: there must be a file' }),
);
export const IfMatch = Type.Object({ 'if-match': Tags });

type AnyCall = Pick<
  Call<Static<typeof WorkspaceParams>, unknown, unknown>,
  'params' | 'principal' | 'request' | 'reply'
>;

/** Who may, which file, and how the call ends. */
export function begin({ params: { id }, principal, request, reply }: AnyCall) {
  requireWorkspace(principal, id);
  const path = queryPath(request);
  request.ending.subject = () => ({ workspace: id, ...pathSubject(path) });
  return { workspace: id, path, signal: reply.server.calls.signal(reply) };
}

export function fileRoutes(app: FastifyInstance, executor: Executor): void {
  addRoute(app, {
    ...FILES,
    method: 'GET',
    url: `${FILES_URL}/files`,
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
    ...FILES,
    method: 'GET',
    url: `${FILES_URL}/files/stat`,
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
    ...FILES,
    method: 'DELETE',
    url: `${FILES_URL}/files`,
    summary: 'Remove a file, a link or a directory; one that is not empty only with `recursive`',
    query: closed({ path: Path, recursive: Switch }),
    headers: IfMatch,
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
      ...FILES,
      method: 'POST',
      url: `${FILES_URL}/files/${verb}`,
      summary: `${verb === 'move' ? 'Move' : 'Copy'} a file or a directory within the workspace`,
      body: Between,
      answers: { 200: FileInfo },
      answerHeaders: ['etag'],
      // Directories on the way need room too.
      errors: [...READ_ERRORS, 'already_exists', 'workspace_full'],
      handler: async ({ params: { id }, body, principal, request, reply }) => {
        requireWorkspace(principal, id);
        request.ending.subject = () => ({ workspace: id, ...pathSubject(body.to) });
        const file = await executor.ask(verb, { workspace: id, ...body }, app.calls.signal(reply));
        return withETag(reply, file);
      },
    });

  addRoute(app, {
    ...FILES,
    method: 'POST',
    url: `${FILES_URL}/files/mkdir`,
    summary: 'Make a directory; with `parents` also those above it, and one that is there is no error',
    body: closed({ path: BodyPath, parents: Switch }),
    answers: { 201: FileInfo },
    errors: [...READ_ERRORS, 'already_exists', 'workspace_full'],
    handler: ({ params: { id }, body, principal, request, reply }) => {
      requireWorkspace(principal, id);
      request.ending.subject = () => ({ workspace: id, ...pathSubject(body.path) });
      return executor.ask('makeDirectory', { workspace: id, ...body }, app.calls.signal(reply));
    },
  });

  addRoute(app, {
    ...FILES,
    method: 'GET',
    url: `${FILES_URL}/watch`,
    summary: 'Be told what is created, changed and removed in a directory, as it happens',
    query: closed({ path: Type.Optional(Path), recursive: Switch }),
    answers: { 200: Events },
    events: WatchEvent,
    streams: ['text/event-stream'],
    answerHeaders: ['cache-control'],
    errors: [...READ_ERRORS, 'queue_full'],
    handler: async (call) => {
      const { signal, ...place } = begin(call);
      const { reply, request } = call;
      const headers = streamHeaders('sse');
      const { recursive = false } = call.query;
      const { body } = await executor.fetch('watch', { ...place, recursive }, signal);
      if (request.method === 'HEAD') {
        await leave(body);
        return reply.headers(headers).send(Readable.from([]));
      }
      return reply.headers(headers).send(Readable.from(serverSentEvents(body), { objectMode: false }));
    },
  });
}

export function ifMatchOf({ headers }: FastifyRequest) {
  const ifMatch = parseTags(headers['if-match'], 'If-Match');
  return ifMatch === undefined ? {} : { ifMatch };
}

export function withETag(reply: FastifyReply, file: FileInfo): FileInfo {
  if (file.etag !== undefined) void reply.header('etag', file.etag);
  return file;
}

/** Ends a download whose bytes nobody wants. */
export async function leave(body: AsyncIterable<Uint8Array>): Promise<void> {
  await body[Symbol.asyncIterator]().return?.();
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
      const lines = (rest + Buffer.from(came.value).toString()).split('\n');
      rest = lines.pop() ?? '';
      next = ask();
      for (const line of lines) {
        const { event } = JSON.parse(line) as WatchEvent;
        yield `event: ${event}\ndata: ${line}\n\n`;
      }
    }
  } finally {
    await source.return?.();
  }
}

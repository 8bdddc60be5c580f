import type { FastifyError, FastifyInstance } from 'fastify';
import Type from 'typebox';
import { NoxError } from '../../protocol/errors.ts';
import type { Executor } from '../../protocol/executor.ts';
import { validator } from '../../protocol/validate.ts';
import { pathSubject } from '../audit.ts';
import { mayUseDefault } from '../principal.ts';
import { closed, describeRoute } from '../route.ts';

const Query = Type.Object({
  path: Type.String({
    description: 'Where to, in the workspace of the four calls',
    examples: ['data/in.csv'],
  }),
});
const checkQuery = validator(Query);

/** `POST /put?path=P` with the multipart field `f`: streams the file into the workspace, answers where it is. */
export function putRoute(app: FastifyInstance, executor: Executor, maxUploadBytes: number): void {
  describeRoute(app, {
    method: 'POST',
    url: '/put',
    summary: 'Save a file: streamed, directories made, an older file replaced in one step',
    scope: 'files',
    query: Query,
    upload: {
      'multipart/form-data': Type.Object({
        f: Type.String({ contentMediaType: 'application/octet-stream', description: 'The file' }),
      }),
    },
    answers: {
      200: closed({ saved: Type.String({ description: 'Its path, as a run sees it' }) }, { title: 'Saved' }),
    },
    errors: [
      'unauthorized',
      'forbidden',
      'bad_request',
      'invalid_path',
      'workspace_conflict',
      'payload_too_large',
      'workspace_full',
      'invalid_request',
      'internal',
      'sandbox_error',
      'runner_unavailable',
      'shutting_down',
    ],
  });
  const route = { bodyLimit: Number.MAX_SAFE_INTEGER, onRequest: mayUseDefault('files') };
  app.post('/put', route, async (request, reply) => {
    const { path } = checkQuery(request.query);
    request.ending.subject = () => pathSubject(path);
    if (!request.isMultipart()) {
      throw new NoxError('invalid_request', 'body: not multipart/form-data; send the file as field `f`');
    }
    // A rough bound that saves the sender an upload that cannot be taken; the exact one counts the file's bytes.
    const announced = Number(request.headers['content-length'] ?? 0);
    if (announced > maxUploadBytes + MULTIPART_OVERHEAD) {
      throw new NoxError(
        'payload_too_large',
        `The body has ${String(announced)} bytes; a file may have ${String(maxUploadBytes)}`,
      );
    }
    const part = await request.file().catch((error: unknown) => {
      throw asFaultOfBody(error);
    });
    if (part?.fieldname !== 'f') {
      throw new NoxError(
        'invalid_request',
        `f: missing; the file must be the multipart field \`f\`${part === undefined ? '' : `, not \`${part.fieldname.slice(0, 100)}\``}`,
      );
    }
    const signal = reply.server.calls.signal(reply);
    const { saved } = await executor.put({ id: request.id, path }, contentOf(part.file, signal), signal);
    return reply.send({ saved });
  });
}

/** What the parser says of a body that is cut off or has no boundary is its sender's fault. */
async function* contentOf(file: AsyncIterable<Uint8Array>, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  try {
    yield* file;
  } catch (error) {
    throw signal.aborted ? error : asFaultOfBody(error);
  }
}

function asFaultOfBody(error: unknown): unknown {
  const known = error instanceof NoxError || typeof (error as FastifyError).statusCode === 'number';
  return known
    ? error
    : new NoxError('invalid_request', `body: ${(error as Error).message}`, { cause: error });
}

/** Boundaries and headers of one part: far below this. */
const MULTIPART_OVERHEAD = 64 * 1024;

import type { FastifyInstance } from 'fastify';
import Type from 'typebox';
import { NoxError } from '../../protocol/errors.ts';
import type { Executor } from '../../protocol/executor.ts';
import { validator } from '../../protocol/validate.ts';
import { pathSubject } from '../audit.ts';
import { mayUseDefault } from '../principal.ts';

const checkQuery = validator(Type.Object({ path: Type.String() }));

/** `POST /put?path=P` with the multipart field `f`: streams the file into the workspace, answers where it is. */
export function putRoute(app: FastifyInstance, executor: Executor, maxUploadBytes: number): void {
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
    const part = await request.file();
    if (part?.fieldname !== 'f') {
      throw new NoxError(
        'invalid_request',
        `f: missing; the file must be the multipart field \`f\`${part === undefined ? '' : `, not \`${part.fieldname.slice(0, 100)}\``}`,
      );
    }
    const signal = reply.server.calls.signal(reply);
    const { saved } = await executor.put({ id: request.id, path }, part.file, signal);
    return reply.send({ saved });
  });
}

/** Boundaries and headers of one part: far below this. */
const MULTIPART_OVERHEAD = 64 * 1024;

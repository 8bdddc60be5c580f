/** What the audit file says of a request: who did what, and what came of it. Never a secret, never code. */
import { createHash } from 'node:crypto';
import type { FastifyReply, FastifyRequest } from 'fastify';
import { clientAddress } from './client-address.ts';

/** Names are a client's own text: of a long one the head is kept. */
const NAME_MAX = 512;
const READS = new Set(['GET', 'HEAD', 'OPTIONS']);

/** Where the entries go: src/gateway/audit-file.ts, or a test's list. */
export interface AuditSink {
  write(entry: object): void;
}

/** @returns undefined for what neither ran nor changed anything, and was not refused for its token */
export function auditEntry(request: FastifyRequest, reply: FastifyReply): object | undefined {
  const { ending, method, raw } = request;
  const refused = ending.failure === 'unauthorized';
  const route = request.routeOptions.url;
  const read = READS.has(method) && ending.subject === undefined;
  if (!refused && (route === undefined || read)) return undefined;
  const announced = Number(raw.headers['content-length']);
  return {
    time: new Date().toISOString(),
    requestId: request.id,
    client: clientAddress(request),
    method,
    route: route ?? 'none',
    who: refused ? 'nobody' : 'token',
    what: ending.subject?.(),
    outcome: outcomeOf(reply),
    status: reply.statusCode,
    ms: Math.round(reply.elapsedTime),
    // A refused body is announced, but not taken.
    bytesIn: raw.complete && announced >= 0 ? announced : raw.socket.bytesRead - ending.read,
    bytesOut: raw.socket.bytesWritten - ending.written,
    ...(reply.raw.writableFinished || ending.delivered === true ? {} : { delivered: false }),
  };
}

/** How the run ended, else why the request failed, else `ok`. */
export function outcomeOf(reply: FastifyReply): string {
  const outcome = reply.getHeader('nox-outcome');
  return typeof outcome === 'string' ? outcome : (reply.request.ending.failure ?? 'ok');
}

export function codeSubject(code: string, filename: string | undefined): Record<string, string> {
  const hash = createHash('sha256').update(code).digest('hex');
  return { code: `sha256:${hash}`, ...(filename === undefined ? {} : { filename: cut(filename) }) };
}

export function commandSubject(argv: readonly string[]): Record<string, string> {
  return { command: cut(argv[0] ?? '') };
}

export function pathSubject(path: string): Record<string, string> {
  return { path: cut(path) };
}

function cut(name: string): string {
  return name.length > NAME_MAX ? `${name.slice(0, NAME_MAX)}…` : name;
}

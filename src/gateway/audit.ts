/** What the audit file says of a request: who did what, and what came of it. Never a secret, never code. */
import { hash } from 'node:crypto';
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { Limits } from '../protocol/limits.ts';
import type { Head } from './audit-chain.ts';
import { clientAddress } from './client-address.ts';
import type { LiveRun } from './runs/live.ts';
import { outcomeOfRecord } from './runs/record.ts';
import { traffic } from './ending.ts';

/** Names are a client's own text: of a long one the head is kept. */
const NAME_MAX = 512;
const READS = new Set(['GET', 'HEAD', 'OPTIONS']);

/** Where the entries go: src/gateway/audit-file.ts, or a test's list. */
export interface AuditSink {
  write(entry: object): void;
  readonly state?: AuditState;
}

export interface AuditState {
  /** Of the chain, as it is in the file. */
  readonly head: Head;
  /** Lines that were lost since the start, because the disk took none. */
  readonly lost: number;
  readonly waiting: number;
}

/** @returns undefined for what neither ran nor changed anything, and was not refused for its token */
export function auditEntry(
  request: FastifyRequest,
  reply: FastifyReply,
  limits?: Limits,
): object | undefined {
  const { ending, method } = request;
  const refused = ending.failure === 'unauthorized';
  const route = request.routeOptions.url;
  const read = READS.has(method) && ending.subject === undefined;
  if (!refused && (route === undefined || read)) return undefined;
  return {
    time: new Date().toISOString(),
    requestId: request.id,
    client: clientAddress(request),
    method,
    route: route ?? 'none',
    who: refused ? 'nobody' : request.principal.id,
    what: ending.subject?.(),
    outcome: outcomeOf(reply),
    status: reply.statusCode,
    ms: Math.round(reply.elapsedTime),
    ...runOf(ending.run, limits),
    ...traffic(request),
    ...(reply.raw.writableFinished || ending.delivered === true ? {} : { delivered: false }),
  };
}

/** Of a run that ended when its client was not waiting for it: the request that asked for it has an entry of its own. */
export function runEntry({ record, request }: LiveRun, limits: Limits): object {
  const { id, owner, requestId, runtime, workspace, createdAt, endedAt, result, reason, error } = record;
  return {
    time: new Date().toISOString(),
    ...{ requestId, run: id, who: owner, runtime, workspace },
    outcome: outcomeOfRecord(record) ?? error?.code,
    ...(reason === undefined ? {} : { reason }),
    ms: (endedAt ?? createdAt) - createdAt,
    ...(result === undefined ? {} : runOf({ limits: request.limits, result }, limits)),
  };
}

/** @param limits of every run, which a request may have lowered */
function runOf(run: FastifyRequest['ending']['run'], limits: Limits | undefined): object {
  if (run === undefined) return {};
  const { usage, limit } = run.result;
  return { limits: { ...limits, ...run.limits }, ...(limit === undefined ? {} : { limit }), usage };
}

/** How the run ended, else why the request failed, else `ok`. */
export function outcomeOf(reply: FastifyReply): string {
  const outcome = reply.getHeader('nox-outcome');
  return typeof outcome === 'string' ? outcome : (reply.request.ending.failure ?? 'ok');
}

export function codeSubject(code: string, filename: string | undefined): Record<string, string> {
  return {
    code: `sha256:${hash('sha256', code)}`,
    ...(filename === undefined ? {} : { filename: cut(filename) }),
  };
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

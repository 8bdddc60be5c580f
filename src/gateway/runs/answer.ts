/** Answers with a run and its output, which may be large. */
import type { FastifyReply } from 'fastify';
import { NoxError } from '../../protocol/errors.ts';
import { asText, jsonBody } from '../json-stream.ts';
import type { Output } from './book.ts';
import type { LiveRun } from './live.ts';
import { outcomeOfRecord, viewOf, type RunRecord } from './record.ts';

/** @param output undefined: it is not known */
export function sendRun(reply: FastifyReply, record: RunRecord, output: Output | undefined): FastifyReply {
  const outcome = outcomeOfRecord(record);
  if (outcome !== undefined) void reply.header('nox-outcome', outcome);
  void reply.header('nox-run-id', record.id).type('application/json; charset=utf-8');
  return reply.send(jsonBody(membersOf(record, output)));
}

/** For json-stream.ts. */
export function membersOf(record: RunRecord, output: Output | undefined): [string, unknown][] {
  const members: [string, unknown][] = Object.entries(viewOf(record));
  if (output !== undefined) {
    members.push(['stdout', asText(output.stdout)], ['stderr', asText(output.stderr)]);
    if (record.result?.stage !== undefined) members.push(['compileOutput', asText(output.compile)]);
  }
  return members;
}

/** @throws NoxError where a run that its client has waited for has no result */
export function requireResult({ record, request, failure, cancelled }: LiveRun): void {
  if (cancelled === 'stopped' || record.result?.outcome === 'cancelled')
    throw new NoxError('shutting_down', 'The server stopped while the run was under way');
  const told = request.output === 'all' && record.startedAt !== null;
  if (failure !== undefined && !told) throw failure;
}

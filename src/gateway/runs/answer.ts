/** Answers with a run and its output, which may be large. */
import type { FastifyReply } from 'fastify';
import { asText, jsonBody } from '../json-stream.ts';
import type { Output } from './book.ts';
import { outcomeOfRecord, viewOf, type RunRecord } from './record.ts';

/** @param output undefined: it is not known */
export function sendRun(reply: FastifyReply, record: RunRecord, output: Output | undefined): FastifyReply {
  const outcome = outcomeOfRecord(record);
  if (outcome !== undefined) void reply.header('nox-outcome', outcome);
  void reply.header('nox-run-id', record.id).type('application/json; charset=utf-8');
  const members: [string, unknown][] = Object.entries(viewOf(record));
  if (output !== undefined) {
    members.push(['stdout', asText(output.stdout)], ['stderr', asText(output.stderr)]);
    if (record.result?.stage !== undefined) members.push(['compileOutput', asText(output.compile)]);
  }
  return reply.send(jsonBody(members));
}

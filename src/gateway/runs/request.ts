/** `POST /v1/runs` as a client writes it, and what becomes of it: a request to the runner. A pure translation. */
import { hash } from 'node:crypto';
import Type, { type Static } from 'typebox';
import { NoxError } from '../../protocol/errors.ts';
import { LimitsRequest } from '../../protocol/limits.ts';
import { ENV_NAME, WORKSPACE_ID, type RunFile, type RunRequest } from '../../protocol/messages.ts';
import type { Principal } from '../principal.ts';

const BASE64 = '^[A-Za-z0-9+/]*={0,2}$';
const strict = { additionalProperties: false } as const;

const FileBody = Type.Union([
  Type.Object({ path: Type.String({ minLength: 1 }), text: Type.String() }, strict),
  Type.Object({ path: Type.String({ minLength: 1 }), base64: Type.String({ pattern: BASE64 }) }, strict),
]);

const COMMON = {
  runtime: Type.Optional(
    Type.String({
      minLength: 1,
      maxLength: 32,
      description: 'A name or an alias of `GET /v1/runtimes`; default `python`',
    }),
  ),
  code: Type.Optional(
    Type.String({
      description: 'The program. Without it `entry` names one of `files` or of the workspace',
    }),
  ),
  entry: Type.Optional(
    Type.String({
      minLength: 1,
      description: 'Path of the program in the workspace; `code` is saved there',
    }),
  ),
  command: Type.Optional(
    Type.Array(Type.String(), {
      minItems: 1,
      description: 'A program and its arguments, run without a shell, in the place of `runtime`',
    }),
  ),
  args: Type.Optional(Type.Array(Type.String())),
  stdin: Type.Optional(Type.String()),
  env: Type.Optional(
    Type.Record(Type.String({ pattern: ENV_NAME }), Type.String(), {
      additionalProperties: false,
      description: 'Variables of the environment, on top of those that every run has',
    }),
  ),
  files: Type.Optional(
    Type.Array(FileBody, { maxItems: 1000, description: 'Written to the workspace before the run' }),
  ),
  workspace: Type.Optional(
    Type.String({
      pattern: WORKSPACE_ID,
      description:
        'Default: an empty one of its own, which vanishes with the run. `default` is the one of the four calls',
    }),
  ),
  limits: Type.Optional(LimitsRequest),
  fresh: Type.Optional(Type.Boolean({ description: 'A new interpreter, not a copy of a warm one' })),
  changes: Type.Optional(
    Type.Boolean({
      description: 'The result names the files that were created, changed and removed; needs `workspace`',
    }),
  ),
  labels: Type.Optional(
    Type.Record(Type.String({ pattern: '^[A-Za-z0-9_.-]{1,64}$' }), Type.String({ maxLength: 256 }), {
      maxProperties: 16,
      additionalProperties: false,
      description: 'Words of the client’s own, given back with the run',
    }),
  ),
};

/** One of a batch. */
export const ItemBody = Type.Object(COMMON, strict);
export type ItemBody = Static<typeof ItemBody>;

export const RunBody = Type.Object(
  {
    ...COMMON,
    interactive: Type.Optional(
      Type.Boolean({ description: 'Standard input stays open, for `POST /v1/runs/{id}/stdin`' }),
    ),
    webhook: Type.Optional(
      Type.Object(
        {
          url: Type.String({
            minLength: 1,
            maxLength: 2048,
            description: 'http or https, in the public network',
          }),
          secret: Type.String({ minLength: 16, maxLength: 256, description: 'Key of `Nox-Signature`' }),
        },
        { ...strict, description: 'Told of the end of a run in the background' },
      ),
    ),
    background: Type.Optional(
      Type.Boolean({ description: 'Answer 202 at once; the run goes on without its client' }),
    ),
  },
  strict,
);
export type RunBody = Static<typeof RunBody>;

/** The name under which a run is kept and counted that names no runtime. */
const COMMAND = 'command';

export function runtimeOf(body: RunBody): string {
  return body.command === undefined ? (body.runtime ?? 'python') : COMMAND;
}

/**
 * @param id of the request, for the logs
 * @throws NoxError `invalid_request` for members that exclude or need each other
 */
export function toRunRequest(
  body: RunBody,
  { id, principal, output }: { id: string; principal: Principal; output: 'bounded' | 'all' },
): RunRequest {
  if (body.command !== undefined) {
    for (const name of ['runtime', 'code', 'entry', 'args', 'fresh'] as const)
      if (body[name] !== undefined) throw new NoxError('invalid_request', `${name}: not with \`command\``);
  } else if (body.code === undefined && body.entry === undefined)
    throw new NoxError('invalid_request', 'code: missing; send `code`, or `entry` with a file, or `command`');
  if (body.changes === true && body.workspace === undefined)
    throw new NoxError('invalid_request', 'changes: needs `workspace`; a scratch one vanishes with the run');
  const { stdin, limits, env, interactive, changes } = body;
  const files = body.files?.map(toFile);
  return {
    id,
    program: programOf(body),
    workspace: body.workspace === undefined ? { scratch: groupOf(principal) } : { id: body.workspace },
    output,
    ...(stdin === undefined ? {} : { stdin }),
    ...(limits === undefined ? {} : { limits }),
    ...(env === undefined ? {} : { env }),
    ...(files === undefined ? {} : { files }),
    ...(interactive === undefined ? {} : { interactive }),
    ...(changes === undefined ? {} : { changes }),
  };
}

function programOf(body: RunBody): RunRequest['program'] {
  const { command, code, entry, args = [], fresh } = body;
  if (command !== undefined) return { kind: 'command', argv: command };
  const runtime = runtimeOf(body);
  return {
    kind: 'runtime',
    runtime,
    args,
    ...(code === undefined ? {} : { code }),
    ...(entry === undefined ? {} : { entry }),
    ...(fresh === undefined ? {} : { fresh }),
  };
}

function toFile(file: Static<typeof FileBody>): RunFile {
  const data = 'text' in file ? Buffer.from(file.text).toString('base64') : file.base64;
  return { path: file.path, data };
}

/** Scratch runs of one token may share a warm interpreter. */
function groupOf({ id }: Principal): string {
  return hash('sha256', id).slice(0, 32);
}

/** `POST /run_py` and `POST /run_sh`: two ways to say what to run, one way to run it and to answer. */
import type { FastifyInstance, FastifyReply } from 'fastify';
import Type from 'typebox';
import { ERRORS, NoxError, type ErrorCode } from '../../protocol/errors.ts';
import type { Executor } from '../../protocol/executor.ts';
import { LIMITS, type LimitName } from '../../protocol/limits.ts';
import type { RunRequest, RunResult } from '../../protocol/messages.ts';
import { validator } from '../../protocol/validate.ts';
import { codeSubject, commandSubject } from '../audit.ts';
import { asText, jsonBody } from '../json-stream.ts';
import { mayUseDefault } from '../principal.ts';
import type { Quota } from '../quota.ts';
import { closed, describeRoute } from '../route.ts';
import { splitWords } from '../words.ts';

const RunPyBody = Type.Object({
  code: Type.String(),
  filename: Type.Optional(
    Type.String({ description: 'Path under which it runs, and is saved; without it `run.py`, not saved' }),
  ),
  args: Type.Optional(Type.Array(Type.String())),
  stdin: Type.Optional(Type.String()),
  fresh: Type.Optional(Type.Boolean({ description: 'A new interpreter, not a copy of a warm one' })),
});
const RunShBody = Type.Object({
  cmd: Type.Union([Type.String(), Type.Array(Type.String())], {
    description: 'A string is split as a shell splits words; a list is run as it is',
  }),
  stdin: Type.Optional(Type.String()),
});
const OUTPUT = { stdout: Type.String(), stderr: Type.String() };
const Completed = closed(
  {
    returncode: Type.Integer({ minimum: -64, maximum: 255, description: 'Negative: the signal' }),
    ...OUTPUT,
  },
  { title: 'Completed' },
);
const TimedOut = closed(
  {
    detail: Type.Literal('Timeout'),
    code: Type.Literal('timeout'),
    hint: Type.String(),
    ...OUTPUT,
  },
  { title: 'TimedOut' },
);
/** Of both calls. */
const RUN_ERRORS: readonly ErrorCode[] = [
  'unauthorized',
  'forbidden',
  'bad_request',
  'payload_too_large',
  'invalid_request',
  'workspace_conflict',
  'rate_limited',
  'quota_exceeded',
  'queue_full',
  'queue_timeout',
  'runner_unavailable',
  'shutting_down',
  'sandbox_error',
  'internal',
];
const checkPy = validator(RunPyBody);
const checkSh = validator(RunShBody);

interface RunOptions {
  readonly executor: Executor;
  readonly forbidden: readonly string[];
  readonly limits: { readonly cpuSeconds: number };
}

export function runRoutes(app: FastifyInstance, options: RunOptions, quota: Quota): void {
  const { executor, forbidden, limits } = options;
  const answer = async (request: RunRequest, reply: FastifyReply): Promise<FastifyReply> => {
    const admission = quota.admit(reply.request.principal, limits.cpuSeconds);
    const { cpuSeconds } = admission;
    const lower = cpuSeconds < limits.cpuSeconds ? { limits: { cpuSeconds } } : {};
    try {
      const collected = await collect(executor, { ...request, ...lower }, reply);
      const { userSeconds, systemSeconds } = collected.result.usage;
      admission.charge(userSeconds + systemSeconds);
      send(reply, collected);
    } catch (error) {
      if (error instanceof NoxError && error.code === 'cancelled') admission.charge(undefined);
      throw error;
    } finally {
      admission.release();
    }
    return reply;
  };
  const described = {
    method: 'POST',
    scope: 'run',
    answers: { 200: Completed, 408: TimedOut },
    answerHeaders: ['nox-outcome'],
  } as const;
  describeRoute(app, {
    ...described,
    url: '/run_py',
    summary: 'Run a Python program in the default workspace',
    body: RunPyBody,
    errors: [...RUN_ERRORS, 'invalid_path', 'workspace_full'],
    examples: {
      simple: { code: 'print(6 * 7)' },
      arguments: {
        code: 'import sys\nprint(sys.argv, sys.stdin.read())',
        filename: 'example/hello.py',
        args: ['a'],
        stdin: 'b',
      },
    },
  });
  app.post('/run_py', { onRequest: mayUseDefault('run', 'python') }, async (request, reply) => {
    const { code, filename, args, stdin, fresh } = checkPy(request.body);
    request.ending.subject = () => codeSubject(code, filename);
    if (filename === '') throw new NoxError('invalid_path', 'filename: is empty');
    const program = {
      kind: 'python' as const,
      code,
      args: args ?? [],
      ...(filename === undefined ? {} : { filename }),
      ...(fresh === undefined ? {} : { fresh }),
    };
    return answer({ id: request.id, program, ...(stdin === undefined ? {} : { stdin }) }, reply);
  });
  describeRoute(app, {
    ...described,
    url: '/run_sh',
    summary: 'Run a command in the default workspace',
    body: RunShBody,
    errors: [...RUN_ERRORS, 'empty_command', 'forbidden_command', 'unbalanced_quote'],
    examples: {
      words: { cmd: 'echo "two words"' },
      list: { cmd: ['bash', '-c', 'wc -c | tr -d " "'], stdin: 'abc' },
    },
  });
  // Any program, as a shell would run it.
  app.post('/run_sh', { onRequest: mayUseDefault('run', 'bash') }, async (request, reply) => {
    const { cmd, stdin } = checkSh(request.body);
    const argv = typeof cmd === 'string' ? wordsOf(cmd) : cmd;
    request.ending.subject = () => commandSubject(argv);
    const [first = ''] = argv;
    if (first.trim() === '') throw new NoxError('empty_command', 'Empty command');
    if (forbidden.includes(first)) throw new NoxError('forbidden_command', 'Forbidden command');
    const program = { kind: 'command' as const, argv };
    return answer({ id: request.id, program, ...(stdin === undefined ? {} : { stdin }) }, reply);
  });
}

function wordsOf(cmd: string): string[] {
  try {
    return splitWords(cmd);
  } catch (cause) {
    throw new NoxError('unbalanced_quote', `cmd: ${(cause as Error).message}`, { cause });
  }
}

interface Collected {
  readonly result: RunResult;
  readonly stdout: Uint8Array[];
  readonly stderr: Uint8Array[];
}

async function collect(executor: Executor, request: RunRequest, reply: FastifyReply): Promise<Collected> {
  const stdout: Uint8Array[] = [];
  const stderr: Uint8Array[] = [];
  for await (const event of executor.run(request, reply.server.calls.signal(reply))) {
    if (event.type === 'output') (event.stream === 'stdout' ? stdout : stderr).push(Buffer.from(event.data));
    else if (event.type === 'end') {
      reply.request.ending.run = { limits: request.limits, result: event.result };
      return { result: event.result, stdout, stderr };
    }
  }
  throw new NoxError('runner_unavailable', 'The runner gave no result');
}

function send(reply: FastifyReply, { result, stdout, stderr }: Collected): FastifyReply {
  const { outcome } = result;
  void reply.header('nox-outcome', outcome).type('application/json; charset=utf-8');
  // The client is still there: it was the server that ended the run.
  if (outcome === 'cancelled')
    throw new NoxError('shutting_down', 'The server stopped while the run was under way');
  if (outcome === 'sandbox_error') {
    throw new NoxError(
      'sandbox_error',
      'The sandbox failed, not the program; the server’s log has the reason',
    );
  }
  if (outcome === 'timeout') {
    const members = [
      ['detail', 'Timeout'],
      ['code', 'timeout'],
      ['hint', ERRORS.timeout.hint],
      ['stdout', asText(stdout)],
      ['stderr', asText(stderr)],
    ] as const;
    return reply.code(ERRORS.timeout.status).send(jsonBody(members));
  }
  const note = limitNote(result);
  if (note !== undefined) stderr.push(Buffer.from(note));
  const members = [
    ['returncode', result.exitCode ?? -(result.signal ?? 0)],
    ['stdout', asText(stdout)],
    ['stderr', asText(stderr)],
  ] as const;
  return reply.send(jsonBody(members));
}

/** A program that a limit ended could not say so itself. */
function limitNote({ outcome, limit }: RunResult): string | undefined {
  if (limit === undefined) return undefined;
  const { setting } = LIMITS[limit.name as LimitName];
  return `nox: ${outcome}: the run reached its limit of ${String(limit.value)} ${limit.unit} (${setting})\n`;
}

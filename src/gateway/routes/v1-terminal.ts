/**
 * `/v1/terminal`: a program on a terminal, over a WebSocket. Binary messages are the bytes of the terminal, both ways;
 * text messages are JSON: `resize` and `signal` from the client, `started`, `end` and `error` from here.
 */
import { constants } from 'node:os';
import type { FastifyInstance, FastifyReply } from 'fastify';
import Type, { type Static } from 'typebox';
import type { RawData, WebSocket } from 'ws';
import { ERRORS, NoxError } from '../../protocol/errors.ts';
import { ENV_NAME, TerminalSize, WORKSPACE_ID, type StreamName } from '../../protocol/messages.ts';
import { validator } from '../../protocol/validate.ts';
import { codeSubject, commandSubject } from '../audit.ts';
import type { Principal } from '../principal.ts';
import type { Quota } from '../quota.ts';
import { addRoute, closed } from '../route.ts';
import type { RunBook } from '../runs/book.ts';
import type { LiveRun } from '../runs/live.ts';
import { orderOf } from '../runs/order.ts';
import { viewOf, type RunRecord } from '../runs/record.ts';
import type { RunBody } from '../runs/request.ts';
import type { OutputSink } from '../runs/sink.ts';
import { TERMINAL_PATH, toWebSocket } from '../upgrade.ts';

const Texts = Type.Array(Type.String(), { minItems: 1, maxItems: 1000 });
const TerminalQuery = closed({
  command: Type.Optional(
    Type.Array(Type.String(), {
      minItems: 1,
      maxItems: 1000,
      description: 'One for each word; default `bash`',
    }),
  ),
  runtime: Type.Optional(Type.String({ minLength: 1, maxLength: 32 })),
  code: Type.Optional(Type.String()),
  entry: Type.Optional(Type.String({ minLength: 1 })),
  args: Type.Optional(Texts),
  env: Type.Optional(
    Type.Array(Type.String({ pattern: `${ENV_NAME.slice(0, -1)}=` }), { description: '`NAME=value`, each' }),
  ),
  workspace: Type.Optional(Type.String({ pattern: WORKSPACE_ID })),
  rows: Type.Optional(TerminalSize),
  columns: Type.Optional(TerminalSize),
});
const Control = Type.Union([
  closed({ type: Type.Literal('resize'), rows: TerminalSize, columns: TerminalSize }),
  closed({
    type: Type.Literal('signal'),
    signal: Type.Enum(Object.keys(constants.signals) as NodeJS.Signals[]),
  }),
]);
const checkControl = validator(Control);

const DEFAULT_COMMAND = ['bash'];
const DEFAULT_SIZE = { rows: 24, columns: 80 };
/** Output that waits for the client; beyond it the run is held up. */
const AHEAD_BYTES = 256 * 1024;
const PING_MS = 5000;
/** A client that has not answered so many is gone. */
const PINGS_UNANSWERED = 6;
/** Close codes (RFC 6455, section 7.4.1). */
const CLOSE = { normal: 1000, policy: 1008, internal: 1011 } as const;

interface Parts {
  readonly book: RunBook;
  readonly quota: Quota;
  readonly cpuSeconds: number;
}

export function terminalRoute(app: FastifyInstance, parts: Parts): void {
  addRoute(app, {
    method: 'GET',
    url: TERMINAL_PATH,
    summary: 'Run a program on a terminal, over a WebSocket',
    scope: 'run',
    query: TerminalQuery,
    answers: { 101: Type.Null() },
    errors: ['rate_limited', 'quota_exceeded'],
    handler: async ({ query, principal, request, reply }) => {
      const body = toBody(query);
      request.ending.subject = () =>
        body.command === undefined ? codeSubject(body.code ?? '', body.entry) : commandSubject(body.command);
      await serve(parts, { body, query, principal, reply });
      return reply;
    },
  });
}

function toBody({
  command,
  runtime,
  code,
  entry,
  args,
  env,
  workspace,
}: Static<typeof TerminalQuery>): RunBody {
  const program = { runtime, code, entry, args };
  const named = Object.entries(program).filter(([, value]) => value !== undefined);
  const variables = env?.map((each) => {
    const at = each.indexOf('=');
    return [each.slice(0, at), each.slice(at + 1)] as const;
  });
  return {
    ...Object.fromEntries(named),
    ...(named.length > 0 && command === undefined ? {} : { command: command ?? DEFAULT_COMMAND }),
    ...(variables === undefined ? {} : { env: Object.fromEntries(variables) }),
    ...(workspace === undefined ? {} : { workspace }),
    interactive: true,
  };
}

interface Session {
  readonly body: RunBody;
  readonly query: Static<typeof TerminalQuery>;
  readonly principal: Principal;
  readonly reply: FastifyReply;
}

async function serve(
  { book, quota, cpuSeconds }: Parts,
  { body, query, principal, reply }: Session,
): Promise<void> {
  const { id, ending } = reply.request;
  const order = orderOf({ quota, cpuSeconds }, { body, principal, requestId: id, whole: true });
  let socket: WebSocket;
  try {
    socket = await toWebSocket(reply);
  } catch (error) {
    order.admission?.release();
    throw error;
  }
  const { rows = DEFAULT_SIZE.rows, columns = DEFAULT_SIZE.columns } = query;
  const sink = new SocketSink(socket);
  const request = { ...order.request, terminal: { rows, columns } };
  const run = book.attend({ ...order, request }, sink, reply.server.calls.signal(reply));
  sink.run = run;
  hear(socket, run);
  const pinging = ping(socket);
  socket.on('error', () => undefined);
  socket.on('close', () => {
    clearInterval(pinging);
  });
  await run.ended;
  const outcome = run.record.result?.outcome ?? run.record.outcome;
  if (outcome !== undefined) void reply.header('nox-outcome', outcome);
  else if (run.failure !== undefined) ending.failure = run.failure.code;
  ending.delivered = socket.readyState === socket.OPEN;
  if (run.failure === undefined) socket.close(CLOSE.normal);
  else socket.close(CLOSE.internal, run.failure.code);
}

class SocketSink implements OutputSink {
  readonly truncated = false;
  run: LiveRun | undefined;
  readonly #socket: WebSocket;

  constructor(socket: WebSocket) {
    this.#socket = socket;
  }

  started(): void {
    this.#tell({ type: 'started', run: this.run?.record.id });
  }

  output(_stream: StreamName, data: Uint8Array): Promise<void> | undefined {
    const socket = this.#socket;
    if (socket.readyState !== socket.OPEN) return undefined;
    return new Promise((resolve) => {
      // A copy: what waits in the socket outlives this promise.
      socket.send(Buffer.from(data), () => {
        resolve();
      });
      if (socket.bufferedAmount < AHEAD_BYTES) resolve();
    });
  }

  end(record: RunRecord): void {
    this.#tell({ type: 'end', run: viewOf(record) });
  }

  #tell(message: object): void {
    const socket = this.#socket;
    if (socket.readyState === socket.OPEN) socket.send(JSON.stringify(message));
  }
}

/** What a client sends goes to the run, no faster than the run takes it. */
function hear(socket: WebSocket, run: LiveRun): void {
  socket.on('message', (data: RawData, binary: boolean) => {
    try {
      // As `binaryType` is nodebuffer, which it is by default, it is one.
      const bytes = data as Buffer;
      if (binary) run.tell({ type: 'stdin', data: bytes });
      else tell(run, bytes.toString('utf8'));
    } catch (error) {
      const known = error instanceof NoxError ? error : new NoxError('internal', 'The server failed');
      if (known.code !== 'run_ended') refuse(socket, known);
      return;
    }
    socket.pause();
    void run.room().then(() => {
      socket.resume();
    });
  });
}

function tell(run: LiveRun, text: string): void {
  let message: unknown;
  try {
    message = JSON.parse(text);
  } catch (cause) {
    throw new NoxError('invalid_request', 'a text message is not JSON', { cause });
  }
  const control = checkControl(message);
  if (control.type === 'resize') run.tell(control);
  else run.tell({ type: 'signal', signal: constants.signals[control.signal] });
}

/** To go on would let a client that does not read fill the memory with what it is told. */
function refuse(socket: WebSocket, { code, message }: NoxError): void {
  if (socket.readyState !== socket.OPEN) return;
  socket.send(JSON.stringify({ type: 'error', code, detail: message, hint: ERRORS[code].hint }));
  socket.close(CLOSE.policy, code);
}

function ping(socket: WebSocket): NodeJS.Timeout {
  let unanswered = 0;
  socket.on('pong', () => {
    unanswered = 0;
  });
  return setInterval(() => {
    // What is paused does not hear a pong, nor that the client has gone: but to write to who has gone fails.
    if (socket.isPaused) unanswered = 0;
    if (unanswered >= PINGS_UNANSWERED) socket.terminate();
    else socket.ping();
    unanswered += 1;
  }, PING_MS);
}

/**
 * The transport of the installed service: one call at a time on a connection, so that closing it is the cancellation,
 * and the socket's own flow control is the backpressure. A connection whose call has been answered is used again.
 *
 *   client: call {op, request} · for a put: data… dataEnd
 *   server: for a run: stdout|stderr… answer (the result) · else: answer · at any time instead: error
 *
 * After a put and after an error the server closes: what a client may still be sending belongs to no call.
 */
import { once } from 'node:events';
import { chmod, rm } from 'node:fs/promises';
import { connect as connectSocket, createServer, type Socket } from 'node:net';
import { isErrorCode, NoxError } from '../protocol/errors.ts';
import type { Executor } from '../protocol/executor.ts';
import type { Health, PutRequest, PutResult, RunEvent, RunRequest, RunResult } from '../protocol/messages.ts';
import { FrameReader } from './frame-reader.ts';
import { encodeFrame, FRAME, FrameError, type Frame } from './frames.ts';

/** Output is sent in pieces of at most this size, and no other frame of the server is as large. */
const PIECE = 1024 * 1024;
const HEALTH_TIMEOUT_MS = 1000;
/** How long a refused client may go on before it is cut off. */
const LINGER_MS = 5000;
/** How long a client may take for an answer when the server closes. */
const LAST_ANSWER_MS = 1000;
/** Connections that a client keeps for its next calls. */
const KEPT_MAX = 64;
const OPS = ['run', 'put', 'health'] as const;
type Op = (typeof OPS)[number];

export interface SocketServer {
  /** Takes no more calls and ends those that are under way; answers that are on their way arrive. */
  close(): Promise<void>;
}

/** @param maxRequestBytes the longest request that is taken from a gateway */
export async function serve(
  executor: Executor,
  path: string,
  maxRequestBytes: number,
): Promise<SocketServer> {
  await rm(path, { force: true });
  const sockets = new Set<Socket>();
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    void answer(executor, socket, maxRequestBytes);
  });
  server.listen(path);
  await once(server, 'listening');
  // The gateway's user reaches it by its group, nobody else.
  await chmod(path, 0o660);
  return {
    close: async () => {
      server.close();
      const closed = Promise.all(
        [...sockets].map((socket) => new Promise((resolve) => socket.once('close', resolve))),
      );
      for (const socket of sockets) socket.destroySoon();
      const late = setTimeout(() => {
        for (const socket of sockets) socket.destroy();
      }, LAST_ANSWER_MS);
      await closed;
      clearTimeout(late);
      if (server.listening) await once(server, 'close');
    },
  };
}

async function answer(executor: Executor, socket: Socket, maxRequestBytes: number): Promise<void> {
  const gone = new AbortController();
  socket.once('close', () => {
    gone.abort('closed');
  });
  // A peer that vanished shows as 'close'; its error says no more.
  socket.on('error', () => undefined);
  const frames = new FrameReader(socket, maxRequestBytes);
  try {
    let next = frames.next();
    for (let first = await next; first !== undefined; first = await next) {
      const { op, request } = parseCall(first);
      if (op === 'put') {
        const result = await executor.put(request as PutRequest, dataOf(frames), gone.signal);
        socket.end(encodeFrame(FRAME.answer, JSON.stringify(result)));
        break;
      }
      // Reading on is how the end of the client is noticed; a frame before the answer is no gateway's of ours.
      let answered = false;
      next = frames.next();
      next.then(
        () => {
          if (!answered) socket.destroy();
        },
        () => socket.destroy(),
      );
      if (op === 'run') await sendRun(executor.run(request as RunRequest, gone.signal), socket, gone.signal);
      else socket.write(encodeFrame(FRAME.answer, JSON.stringify(await executor.health())));
      answered = true;
    }
  } catch (error) {
    if (!socket.destroyed) socket.end(encodeFrame(FRAME.error, encodeError(error)));
  }
  letGo(socket);
}

/**
 * Ends a connection when its answer has been read. A client may still be sending a body that has been refused:
 * closing at once would break its connection before it has read why.
 */
function letGo(socket: Socket): void {
  if (socket.destroyed) return;
  if (socket.readableEnded) {
    socket.end(() => socket.destroy());
    return;
  }
  const timer = setTimeout(() => socket.destroy(), LINGER_MS);
  socket.once('end', () => socket.destroy()).once('close', () => clearTimeout(timer));
  socket.removeAllListeners('data').resume();
}

/** What comes together is sent together: for a short run that is all of it. */
async function sendRun(events: AsyncIterable<RunEvent>, socket: Socket, gone: AbortSignal): Promise<void> {
  let frames: Buffer[] = [];
  let timer: NodeJS.Immediate | undefined;
  const flush = () => {
    clearImmediate(timer);
    timer = undefined;
    const data = frames.length === 1 && frames[0] !== undefined ? frames[0] : Buffer.concat(frames);
    frames = [];
    return data.length === 0 || socket.destroyed || socket.write(data);
  };
  try {
    for await (const event of events) {
      if (event.type === 'end') {
        frames.push(encodeFrame(FRAME.answer, JSON.stringify(event.result)));
        flush();
        continue;
      }
      for (let at = 0; at < event.data.length; at += PIECE)
        frames.push(encodeFrame(FRAME[event.stream], event.data.subarray(at, at + PIECE)));
      if (frames.reduce((sum, frame) => sum + frame.length, 0) < PIECE) timer ??= setImmediate(flush);
      else if (!flush()) await once(socket, 'drain', { signal: gone });
      if (socket.writableNeedDrain) await once(socket, 'drain', { signal: gone });
    }
  } finally {
    clearImmediate(timer);
  }
}

function parseCall(frame: Frame): { op: Op; request: unknown } {
  if (frame.type !== FRAME.call) throw new FrameError('a connection begins with a call');
  const call = JSON.parse(frame.payload.toString()) as { op?: unknown; request?: unknown } | null;
  const op = OPS.find((each) => each === call?.op);
  if (op === undefined) throw new FrameError('no such call');
  return { op, request: call?.request };
}

async function* dataOf(frames: FrameReader): AsyncGenerator<Buffer> {
  for (;;) {
    const frame = await frames.next();
    // Without its last frame a body is not whole: the client broke off.
    if (frame === undefined) throw new NoxError('cancelled', 'The upload broke off');
    if (frame.type === FRAME.dataEnd) return;
    if (frame.type !== FRAME.data) throw new FrameError('data was to come');
    yield frame.payload;
  }
}

function encodeError(error: unknown): string {
  if (error instanceof NoxError) {
    return JSON.stringify({ code: error.code, message: error.message, retryAfter: error.retryAfter });
  }
  return JSON.stringify({ code: 'internal', message: 'The runner could not read the request' });
}

export function connect(path: string): Executor {
  const pool = new Pool(path);
  return {
    run: (request, signal) => run(pool, request, signal),
    put: (request, body, signal) => put(pool, request, body, signal),
    health: () => health(pool),
    // The runner is not the gateway's to stop; calls end with their own signals.
    close: () => {
      pool.close();
      return Promise.resolve();
    },
  };
}

interface Connection {
  readonly socket: Socket;
  readonly frames: FrameReader;
}

/** Connections whose last call was answered. One that the runner closes is taken out at once. */
class Pool {
  readonly #path: string;
  readonly #kept: Connection[] = [];

  constructor(path: string) {
    this.#path = path;
  }

  /** @throws NoxError `cancelled` or `runner_unavailable` */
  async take(signal: AbortSignal): Promise<Connection> {
    if (signal.aborted) throw broken(signal);
    for (let kept = this.#kept.pop(); kept !== undefined; kept = this.#kept.pop())
      if (kept.socket.readyState === 'open') return kept;
    const socket = connectSocket({ path: this.#path });
    try {
      await once(socket, 'connect', { signal });
    } catch (cause) {
      socket.destroy();
      throw broken(signal, 'The gateway cannot reach the runner', cause);
    }
    socket.on('error', () => undefined);
    socket.once('close', () => {
      const at = this.#kept.findIndex((each) => each.socket === socket);
      if (at >= 0) this.#kept.splice(at, 1);
    });
    return { socket, frames: new FrameReader(socket, PIECE) };
  }

  giveBack(connection: Connection): void {
    if (this.#kept.length < KEPT_MAX) this.#kept.push(connection);
    else connection.socket.destroy();
  }

  close(): void {
    for (const { socket } of this.#kept) socket.destroy();
  }
}

async function* run(pool: Pool, request: RunRequest, signal: AbortSignal): AsyncGenerator<RunEvent> {
  const connection = await pool.take(signal);
  const { socket, frames } = connection;
  const onAbort = () => {
    socket.destroy();
  };
  signal.addEventListener('abort', onAbort);
  let answered = false;
  try {
    socket.write(encodeFrame(FRAME.call, JSON.stringify({ op: 'run', request })));
    for (let frame = await frames.next(); frame !== undefined; frame = await frames.next()) {
      if (frame.type === FRAME.stdout) yield { type: 'output', stream: 'stdout', data: frame.payload };
      else if (frame.type === FRAME.stderr) yield { type: 'output', stream: 'stderr', data: frame.payload };
      else {
        const result = parseAnswer(frame) as RunResult;
        answered = true;
        yield { type: 'end', result };
        return;
      }
    }
    throw broken(signal);
  } finally {
    signal.removeEventListener('abort', onAbort);
    if (answered && !signal.aborted) pool.giveBack(connection);
    else socket.destroy();
  }
}

async function put(
  pool: Pool,
  request: PutRequest,
  body: AsyncIterable<Uint8Array>,
  signal: AbortSignal,
): Promise<PutResult> {
  const { socket, frames } = await pool.take(signal);
  const onAbort = () => {
    socket.destroy();
  };
  signal.addEventListener('abort', onAbort);
  try {
    // The answer may come before the body has been sent: a refusal must not wait for it.
    const answered = firstAnswer(frames, signal);
    answered.catch(() => undefined);
    const sent = sendBody(socket, request, body, signal);
    await Promise.race([answered, sent]);
    return (await answered) as PutResult;
  } finally {
    signal.removeEventListener('abort', onAbort);
    socket.destroy();
  }
}

async function sendBody(
  socket: Socket,
  request: PutRequest,
  body: AsyncIterable<Uint8Array>,
  signal: AbortSignal,
): Promise<void> {
  socket.write(encodeFrame(FRAME.call, JSON.stringify({ op: 'put', request })));
  for await (const chunk of body) {
    if (socket.destroyed || signal.aborted) return;
    if (!socket.write(encodeFrame(FRAME.data, chunk))) await drained(socket);
  }
  socket.write(encodeFrame(FRAME.dataEnd, ''));
}

function drained(socket: Socket): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      socket.off('drain', done).off('close', done);
      resolve();
    };
    socket.on('drain', done).on('close', done);
  });
}

async function health(pool: Pool): Promise<Health> {
  const signal = AbortSignal.timeout(HEALTH_TIMEOUT_MS);
  try {
    const connection = await pool.take(signal);
    const onAbort = () => {
      connection.socket.destroy();
    };
    signal.addEventListener('abort', onAbort);
    connection.socket.write(encodeFrame(FRAME.call, JSON.stringify({ op: 'health' })));
    const answer = (await firstAnswer(connection.frames, signal)) as Health;
    signal.removeEventListener('abort', onAbort);
    pool.giveBack(connection);
    return answer;
  } catch {
    return { ok: false, status: 'the runner does not answer' };
  }
}

async function firstAnswer(frames: FrameReader, signal: AbortSignal): Promise<unknown> {
  const frame = await frames.next();
  if (frame === undefined) throw broken(signal);
  return parseAnswer(frame);
}

function parseAnswer(frame: Frame): unknown {
  const value = JSON.parse(frame.payload.toString()) as unknown;
  if (frame.type === FRAME.answer) return value;
  const { code, message, retryAfter } = value as { code?: unknown; message?: unknown; retryAfter?: number };
  throw new NoxError(
    isErrorCode(code) ? code : 'internal',
    String(message),
    retryAfter === undefined ? {} : { retryAfter },
  );
}

function broken(
  signal: AbortSignal,
  message = 'The runner ended the connection without an answer',
  cause?: unknown,
): NoxError {
  return signal.aborted
    ? new NoxError('cancelled', 'The call was cancelled')
    : new NoxError('runner_unavailable', message, { cause });
}

/**
 * The transport of the installed service: one connection a call, so that closing it is the cancellation, and the
 * socket's own flow control is the backpressure.
 *
 *   client: call {op, request} · for a put: data… dataEnd
 *   server: for a run: stdout|stderr… answer (the result) · else: answer · at any time instead: error
 */
import { chmod, rm } from 'node:fs/promises';
import { connect as connectSocket, createServer, type Socket } from 'node:net';
import { once } from 'node:events';
import { isErrorCode, NoxError } from '../protocol/errors.ts';
import type { Executor } from '../protocol/executor.ts';
import type { Health, PutRequest, PutResult, RunEvent, RunRequest, RunResult } from '../protocol/messages.ts';
import { encodeFrame, FRAME, FrameDecoder, FrameError, type Frame } from './frames.ts';

/** Output is sent in pieces of at most this size, and no other frame of the server is as large. */
const PIECE = 1024 * 1024;
const HEALTH_TIMEOUT_MS = 1000;
/** How long a refused client may go on before it is cut off. */
const LINGER_MS = 5000;
const OPS = ['run', 'put', 'health'] as const;
type Op = (typeof OPS)[number];

export interface SocketServer {
  /** Takes no more calls and ends those that are under way. */
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
      for (const socket of sockets) socket.destroy();
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
  const frames = readFrames(socket, maxRequestBytes);
  try {
    const first = await frames.next();
    if (first.done === true) return;
    const { op, request } = parseCall(first.value);
    if (op === 'put') {
      const result = await executor.put(request as PutRequest, dataOf(frames), gone.signal);
      socket.end(encodeFrame(FRAME.answer, JSON.stringify(result)));
    } else if (op === 'health') {
      socket.end(encodeFrame(FRAME.answer, JSON.stringify(await executor.health())));
    } else {
      // Nothing more is to come; reading on is how the end of the client is noticed.
      void drain(frames, socket);
      await sendRun(executor.run(request as RunRequest, gone.signal), socket, gone.signal);
    }
  } catch (error) {
    if (!socket.destroyed) socket.end(encodeFrame(FRAME.error, encodeError(error)));
  } finally {
    await letGo(frames, socket);
  }
}

/**
 * Ends a connection when its answer has been read. A client may still be sending a body that has been refused:
 * closing at once would break its connection before it has read why.
 */
async function letGo(frames: AsyncGenerator<Frame>, socket: Socket): Promise<void> {
  if (socket.destroyed) return;
  const timer = setTimeout(() => socket.destroy(), LINGER_MS);
  socket.once('end', () => socket.destroy()).once('close', () => clearTimeout(timer));
  await frames.return(undefined);
  if (socket.readableEnded) socket.destroy();
  else socket.resume();
}

async function sendRun(events: AsyncIterable<RunEvent>, socket: Socket, gone: AbortSignal): Promise<void> {
  for await (const event of events) {
    if (event.type === 'end') {
      socket.end(encodeFrame(FRAME.answer, JSON.stringify(event.result)));
      continue;
    }
    for (let at = 0; at < event.data.length; at += PIECE) {
      const piece = event.data.subarray(at, at + PIECE);
      if (!socket.write(encodeFrame(FRAME[event.stream], piece)))
        await once(socket, 'drain', { signal: gone });
    }
  }
}

async function drain(frames: AsyncIterator<Frame>, socket: Socket): Promise<void> {
  try {
    while ((await frames.next()).done !== true);
  } catch {
    // Not a gateway of ours.
  }
  socket.destroy();
}

function parseCall(frame: Frame): { op: Op; request: unknown } {
  if (frame.type !== FRAME.call) throw new FrameError('a connection begins with a call');
  const call = JSON.parse(frame.payload.toString()) as { op?: unknown; request?: unknown } | null;
  const op = OPS.find((each) => each === call?.op);
  if (op === undefined) throw new FrameError('no such call');
  return { op, request: call?.request };
}

async function* dataOf(frames: AsyncGenerator<Frame>): AsyncGenerator<Buffer> {
  for (;;) {
    const next = await frames.next();
    // Without its last frame a body is not whole: the client broke off.
    if (next.done === true) throw new NoxError('cancelled', 'The upload broke off');
    if (next.value.type === FRAME.dataEnd) return;
    if (next.value.type !== FRAME.data) throw new FrameError('data was to come');
    yield next.value.payload;
  }
}

async function* readFrames(socket: Socket, maxPayload: number): AsyncGenerator<Frame> {
  const decoder = new FrameDecoder(maxPayload);
  try {
    for await (const chunk of socket.iterator({ destroyOnReturn: false }))
      yield* decoder.push(chunk as Buffer);
  } catch (error) {
    // A connection that breaks is an end like any other: what is missing is noticed by whoever waits for it.
    if (error instanceof FrameError) throw error;
  }
}

function encodeError(error: unknown): string {
  if (error instanceof NoxError) {
    return JSON.stringify({ code: error.code, message: error.message, retryAfter: error.retryAfter });
  }
  return JSON.stringify({ code: 'internal', message: 'The runner could not read the request' });
}

export function connect(path: string): Executor {
  return {
    run: (request, signal) => run(path, request, signal),
    put: (request, body, signal) => put(path, request, body, signal),
    health: () => health(path),
    // The runner is not the gateway's to stop; calls end with their own signals.
    close: () => Promise.resolve(),
  };
}

async function* run(path: string, request: RunRequest, signal: AbortSignal): AsyncGenerator<RunEvent> {
  const socket = await open(path, signal);
  try {
    socket.write(encodeFrame(FRAME.call, JSON.stringify({ op: 'run', request })));
    for await (const frame of readFrames(socket, PIECE)) {
      if (frame.type === FRAME.stdout) yield { type: 'output', stream: 'stdout', data: frame.payload };
      else if (frame.type === FRAME.stderr) yield { type: 'output', stream: 'stderr', data: frame.payload };
      else {
        yield { type: 'end', result: parseAnswer(frame) as RunResult };
        return;
      }
    }
    throw broken(signal);
  } finally {
    socket.destroy();
  }
}

async function put(
  path: string,
  request: PutRequest,
  body: AsyncIterable<Uint8Array>,
  signal: AbortSignal,
): Promise<PutResult> {
  const socket = await open(path, signal);
  try {
    // The answer may come before the body has been sent: a refusal must not wait for it.
    const answered = firstAnswer(socket, signal);
    answered.catch(() => undefined);
    const sent = sendBody(socket, request, body, signal);
    await Promise.race([answered, sent]);
    return (await answered) as PutResult;
  } finally {
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

async function health(path: string): Promise<Health> {
  const signal = AbortSignal.timeout(HEALTH_TIMEOUT_MS);
  try {
    const socket = await open(path, signal);
    try {
      socket.write(encodeFrame(FRAME.call, JSON.stringify({ op: 'health' })));
      return (await firstAnswer(socket, signal)) as Health;
    } finally {
      socket.destroy();
    }
  } catch {
    return { ok: false, status: 'the runner does not answer' };
  }
}

async function open(path: string, signal: AbortSignal): Promise<Socket> {
  if (signal.aborted) throw broken(signal);
  const socket = connectSocket({ path });
  const onAbort = () => {
    socket.destroy();
  };
  signal.addEventListener('abort', onAbort, { once: true });
  socket.once('close', () => {
    signal.removeEventListener('abort', onAbort);
  });
  try {
    await once(socket, 'connect', { signal });
  } catch (cause) {
    throw broken(signal, 'The gateway cannot reach the runner', cause);
  }
  socket.on('error', () => undefined);
  return socket;
}

async function firstAnswer(socket: Socket, signal: AbortSignal): Promise<unknown> {
  for await (const frame of readFrames(socket, PIECE)) return parseAnswer(frame);
  throw broken(signal);
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

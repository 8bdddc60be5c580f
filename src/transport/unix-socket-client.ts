/** The gateway's side of the unix socket: unix-socket.ts has what is said on it. */
import { once } from 'node:events';
import type { Socket } from 'node:net';
import { isErrorCode, NoxError } from '../protocol/errors.ts';
import type { Executor } from '../protocol/executor.ts';
import {
  STREAMS,
  type Health,
  type PutResult,
  type RunEvent,
  type RunInput,
  type RunRequest,
  type RunResult,
} from '../protocol/messages.ts';
import type { Fetched } from '../protocol/operations.ts';
import { FrameReader } from './frame-reader.ts';
import { encodeFrame, FRAME, PIECE, sendData, type Frame, type Op } from './frames.ts';

const HEALTH_TIMEOUT_MS = 1000;
/** In this time a runner that was told to end a run has ended it. */
const CANCEL_MS = 5000;
/** Together less than a server reads ahead (AHEAD_BYTES of frame-reader.ts). */
const INPUT_PIECE = 64 * 1024;
const INPUT_FRAMES = 8;
/** Connections that a client keeps for its next calls. */
const KEPT_MAX = 64;
/** What is read at a time, to begin with: as much as a program's pipe holds. */
const READ_BYTES = 64 * 1024;
/** Of a download: the buffer of who sends it is twice as large as others (send_file.py). */
const DOWNLOAD_BYTES = 512 * 1024;

export function connect(path: string): Executor {
  const pool = new Pool(path);
  return {
    run: (request, signal, input) => run(pool, request, signal, input),
    put: async (request, body, signal) =>
      (await upload(pool, { op: 'put', request }, body, signal)) as PutResult,
    ask: async (name, request, signal) => (await ask(pool, { op: 'ask', name, request }, signal)) as never,
    send: async (name, request, body, signal) =>
      (await upload(pool, { op: 'send', name, request }, body, signal)) as never,
    fetch: async (name, request, signal) =>
      (await download(pool, { op: 'fetch', name, request }, signal)) as Fetched<never>,
    health: () => health(pool),
    // The runner is not the gateway's to stop; calls end with their own signals.
    close: () => {
      pool.close();
      return Promise.resolve();
    },
  };
}

/** Connections whose last call was answered. One that the runner closes is taken out at once. */
class Pool {
  readonly #path: string;
  readonly #kept: FrameReader[] = [];

  constructor(path: string) {
    this.#path = path;
  }

  /**
   * Not a promise where one is kept: what is written to it then leaves before the caller does anything else.
   *
   * @throws NoxError `cancelled` or `runner_unavailable`
   */
  take(signal: AbortSignal): FrameReader | Promise<FrameReader> {
    if (signal.aborted) throw broken(signal);
    for (let kept = this.#kept.pop(); kept !== undefined; kept = this.#kept.pop())
      if (kept.socket.readyState === 'open') return kept;
    return this.open(READ_BYTES, signal);
  }

  /** @throws NoxError `cancelled` or `runner_unavailable` */
  async open(bytes: number, signal: AbortSignal): Promise<FrameReader> {
    if (signal.aborted) throw broken(signal);
    const frames = FrameReader.connect(this.#path, PIECE, bytes);
    const { socket } = frames;
    try {
      await once(socket, 'connect', { signal });
    } catch (cause) {
      socket.destroy();
      throw broken(signal, 'The gateway cannot reach the runner', { cause, unsent: true });
    }
    socket.on('error', () => undefined);
    socket.once('close', () => {
      const at = this.#kept.indexOf(frames);
      if (at >= 0) this.#kept.splice(at, 1);
    });
    return frames;
  }

  giveBack(frames: FrameReader): void {
    frames.readOn();
    if (this.#kept.length < KEPT_MAX && !frames.large) this.#kept.push(frames);
    else frames.socket.destroy();
  }

  close(): void {
    for (const { socket } of this.#kept) socket.destroy();
  }
}

async function* run(
  pool: Pool,
  request: RunRequest,
  signal: AbortSignal,
  input?: AsyncIterable<RunInput>,
): AsyncGenerator<RunEvent> {
  const taken = pool.take(signal);
  const frames = taken instanceof FrameReader ? taken : await taken;
  const { socket } = frames;
  let late: NodeJS.Timeout | undefined;
  // Half a close: the runner says when nothing of the run is alive.
  const onAbort = () => {
    socket.end();
    late = setTimeout(() => socket.destroy(), CANCEL_MS);
  };
  signal.addEventListener('abort', onAbort);
  const interactive = request.interactive === true;
  const window = new Window();
  let answered = false;
  try {
    socket.write(encodeCall({ op: 'run', request }));
    if (interactive && input !== undefined) void sendInput(socket, input, window);
    for (let frame = await frames.next(); frame !== undefined; frame = await frames.next()) {
      const { type } = frame;
      if (signal.aborted) {
        if (type === FRAME.answer || type === FRAME.error) break;
        continue;
      }
      const stream = STREAMS.find((each) => FRAME[each] === type);
      if (stream !== undefined) yield { type: 'output', stream, data: frame.payload };
      else if (type === FRAME.started) yield { type: 'started' };
      else if (type === FRAME.taken) window.taken();
      else {
        const result = parseAnswer(frame) as RunResult;
        answered = true;
        yield { type: 'end', result };
        return;
      }
    }
    throw broken(signal, undefined, { unsent: !interactive && unread(socket) });
  } finally {
    window.close();
    signal.removeEventListener('abort', onAbort);
    clearTimeout(late);
    if (answered && !signal.aborted && !interactive) pool.giveBack(frames);
    else socket.destroy();
  }
}

/**
 * Whether the other side ended without having read all that was written to it: ECONNRESET where it left bytes in the
 * socket or had not accepted it yet, EPIPE where it was gone before (Linux, net/unix/af_unix.c: unix_release_sock,
 * unix_stream_sendmsg). A call that was not read to its end was not begun.
 */
function unread({ errored }: Socket): boolean {
  return errored !== null && 'code' in errored && (errored.code === 'ECONNRESET' || errored.code === 'EPIPE');
}

/** Ends with the connection, whatever comes then. */
async function sendInput(socket: Socket, input: AsyncIterable<RunInput>, window: Window): Promise<void> {
  try {
    for await (const each of input)
      for (const frame of inputFrames(each)) {
        await window.room();
        if (!socket.writable) return;
        socket.write(frame);
      }
  } catch {
    socket.destroy();
  }
}

function* inputFrames(input: RunInput): Generator<Buffer> {
  if (input.type === 'stdin')
    for (let at = 0; at < input.data.length; at += INPUT_PIECE)
      yield encodeFrame(FRAME.data, input.data.subarray(at, at + INPUT_PIECE));
  else if (input.type === 'stdin_end') yield encodeFrame(FRAME.dataEnd, '');
  else yield encodeFrame(FRAME.input, JSON.stringify(input));
}

/** How many frames of input may be on their way. */
class Window {
  #free = INPUT_FRAMES;
  #wake: (() => void) | undefined;

  async room(): Promise<void> {
    if (this.#free === 0)
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    this.#free -= 1;
  }

  taken(): void {
    this.#free += 1;
    this.#wake?.();
    this.#wake = undefined;
  }

  /** Nobody waits any more. */
  close(): void {
    this.#free = Infinity;
    this.#wake?.();
  }
}

const encodeCall = (call: { op: Op; name?: string; request?: unknown }): Buffer =>
  encodeFrame(FRAME.call, JSON.stringify(call));

async function upload(
  pool: Pool,
  call: { op: Op; name?: string; request: unknown },
  body: AsyncIterable<Uint8Array>,
  signal: AbortSignal,
): Promise<unknown> {
  const frames = await pool.take(signal);
  const { socket } = frames;
  const onAbort = () => {
    socket.destroy();
  };
  signal.addEventListener('abort', onAbort);
  try {
    // The answer may come before the body has been sent: a refusal must not wait for it.
    const answered = firstAnswer(frames, signal);
    answered.catch(() => undefined);
    const sent = sendBody(socket, encodeCall(call), body, signal);
    await Promise.race([answered, sent]);
    return await answered;
  } finally {
    signal.removeEventListener('abort', onAbort);
    socket.destroy();
  }
}

async function sendBody(
  socket: Socket,
  call: Buffer,
  body: AsyncIterable<Uint8Array>,
  signal: AbortSignal,
): Promise<void> {
  socket.write(call);
  for await (const chunk of body) {
    if (socket.destroyed || signal.aborted) return;
    await sendData(socket, FRAME.data, chunk);
  }
  socket.write(encodeFrame(FRAME.dataEnd, ''));
}

async function download(
  pool: Pool,
  call: { op: Op; name: string; request: unknown },
  signal: AbortSignal,
): Promise<Fetched<unknown>> {
  const frames = await pool.open(DOWNLOAD_BYTES, signal);
  const { socket } = frames;
  const onAbort = () => {
    socket.destroy();
  };
  const end = () => {
    signal.removeEventListener('abort', onAbort);
    socket.destroy();
  };
  signal.addEventListener('abort', onAbort);
  try {
    socket.write(encodeCall(call));
    const answer = await firstAnswer(frames, signal);
    return { answer, body: bodyOf(frames, signal, end) };
  } catch (error) {
    end();
    throw error;
  }
}

/** Not a generator: whoever leaves one that has not begun is not heard. @param end of the connection */
function bodyOf(frames: FrameReader, signal: AbortSignal, end: () => void): AsyncIterable<Buffer> {
  const next = async (): Promise<IteratorResult<Buffer, undefined>> => {
    try {
      const frame = await frames.next();
      if (frame === undefined) throw broken(signal);
      if (frame.type === FRAME.data) return { done: false, value: frame.payload };
      if (frame.type !== FRAME.dataEnd) throw parseError(frame);
    } catch (error) {
      end();
      throw error;
    }
    return leave();
  };
  const leave = (): Promise<IteratorResult<Buffer, undefined>> => {
    end();
    return Promise.resolve({ done: true, value: undefined });
  };
  return { [Symbol.asyncIterator]: () => ({ next, return: leave }) };
}

async function ask(
  pool: Pool,
  call: { op: Op; name?: string; request?: unknown },
  signal: AbortSignal,
): Promise<unknown> {
  const frames = await pool.take(signal);
  const { socket } = frames;
  const onAbort = () => {
    socket.destroy();
  };
  signal.addEventListener('abort', onAbort);
  let answered = false;
  try {
    socket.write(encodeCall(call));
    const answer = await firstAnswer(frames, signal);
    answered = true;
    return answer;
  } finally {
    signal.removeEventListener('abort', onAbort);
    if (answered && !signal.aborted) pool.giveBack(frames);
    else socket.destroy();
  }
}

async function health(pool: Pool): Promise<Health> {
  try {
    return (await ask(pool, { op: 'health' }, AbortSignal.timeout(HEALTH_TIMEOUT_MS))) as Health;
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
  if (frame.type === FRAME.answer) return JSON.parse(frame.payload.toString());
  throw parseError(frame);
}

function parseError(frame: Frame): NoxError {
  const { code, message, retryAfter } = JSON.parse(frame.payload.toString()) as {
    code?: unknown;
    message?: unknown;
    retryAfter?: number;
  };
  return new NoxError(
    isErrorCode(code) ? code : 'internal',
    String(message),
    retryAfter === undefined ? {} : { retryAfter },
  );
}

function broken(
  signal: AbortSignal,
  message = 'The runner ended the connection without an answer',
  options: { readonly cause?: unknown; readonly unsent?: boolean } = {},
): NoxError {
  return signal.aborted
    ? new NoxError('cancelled', 'The call was cancelled')
    : new NoxError('runner_unavailable', message, options);
}

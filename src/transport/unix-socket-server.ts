/** The runner's side of the unix socket: unix-socket.ts has what is said on it. */
import { once } from 'node:events';
import { chmod, rm } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { NoxError } from '../protocol/errors.ts';
import type { Executor } from '../protocol/executor.ts';
import type { PutRequest, RunEvent, RunInput, RunRequest } from '../protocol/messages.ts';
import type { Asks, Fetches, Sends } from '../protocol/operations.ts';
import { FrameReader } from './frame-reader.ts';
import { encodeFrame, FRAME, FrameError, OPS, PIECE, sendData, type Frame, type Op } from './frames.ts';

/** How long a refused client may go on before it is cut off. */
const LINGER_MS = 5000;
/** How long a client may take for an answer when the server closes. */
const LAST_ANSWER_MS = 1000;

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
  const end = () => {
    gone.abort('closed');
  };
  socket.once('close', end);
  // A peer that vanished shows as 'close'; its error says no more.
  socket.on('error', () => undefined);
  const frames = FrameReader.accept(socket, maxRequestBytes);
  try {
    let next = frames.next();
    for (let first = await next; first !== undefined; first = await next) {
      const call = parseCall(first);
      if (takesFrames(call)) {
        await converse(executor, call, frames, socket, gone);
        socket.end();
        break;
      }
      // Reading on is how the end of the client is noticed; a frame before the answer is no gateway's of ours. It is
      // told when its call has come to an end.
      let answered = false;
      next = frames.next();
      next.then(() => {
        if (!answered) end();
      }, end);
      if (call.op === 'run')
        await sendRun(executor.run(call.request as RunRequest, gone.signal), socket, gone.signal);
      else {
        const answer =
          call.op === 'health'
            ? await executor.health()
            : await executor.ask(call.name as keyof Asks, call.request as never, gone.signal);
        socket.write(encodeFrame(FRAME.answer, JSON.stringify(answer)));
      }
      answered = true;
    }
  } catch (error) {
    if (!socket.destroyed) socket.end(encodeFrame(FRAME.error, encodeError(error)));
  }
  letGo(socket);
}

/** Calls in which more than one frame goes each way, or the client's go on after its request. */
function takesFrames({ op, request }: Call): boolean {
  if (op === 'run') return (request as { interactive?: unknown } | null)?.interactive === true;
  return op === 'put' || op === 'send' || op === 'fetch';
}

async function converse(
  executor: Executor,
  { op, name, request }: Call,
  frames: FrameReader,
  socket: Socket,
  end: AbortController,
): Promise<void> {
  const gone = end.signal;
  if (op === 'run') {
    socket.once('end', () => {
      end.abort('closed');
    });
    await sendRun(executor.run(request as RunRequest, gone, inputOf(frames, socket, end)), socket, gone);
  } else if (op === 'fetch') {
    // A client that says something more, or goes, wants no more.
    frames.next().then(
      () => socket.destroy(),
      () => socket.destroy(),
    );
    const { answer, body } = await executor.fetch(name as keyof Fetches, request as never, gone);
    await written(socket, encodeFrame(FRAME.answer, JSON.stringify(answer)));
    const poured = await body.pour?.(socket, { type: FRAME.data, piece: PIECE });
    if (poured !== true)
      for await (const data of body) {
        if (socket.destroyed) return;
        await sendData(socket, FRAME.data, data);
      }
    socket.write(encodeFrame(FRAME.dataEnd, ''));
  } else {
    const body = dataOf(frames);
    const answer =
      op === 'put'
        ? await executor.put(request as PutRequest, body, gone)
        : await executor.send(name as keyof Sends, request as never, body, gone);
    socket.write(encodeFrame(FRAME.answer, JSON.stringify(answer)));
  }
}

/** Resolves when it has left, or the connection has ended. */
function written(socket: Socket, frame: Buffer): Promise<void> {
  return new Promise((resolve) => {
    socket.write(frame, () => {
      resolve();
    });
  });
}

/** What a client says to its run. Its end is the client's: without it nobody would read the result. */
async function* inputOf(frames: FrameReader, socket: Socket, end: AbortController): AsyncGenerator<RunInput> {
  try {
    for (let frame = await frames.next(); frame !== undefined; frame = await frames.next()) {
      if (frame.type === FRAME.data) yield { type: 'stdin', data: frame.payload };
      else if (frame.type === FRAME.dataEnd) yield { type: 'stdin_end' };
      else if (frame.type === FRAME.input) yield JSON.parse(frame.payload.toString()) as RunInput;
      else throw new FrameError('input was to come');
      if (socket.writable) socket.write(encodeFrame(FRAME.taken, ''));
    }
  } catch {
    // As if it had gone.
  }
  end.abort('closed');
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

/** Output of this size is sent by itself: to copy it together with other frames would cost more than to send it. */
const LARGE = 16 * 1024;

/** What comes together is sent together: for a short run that is all of it. */
async function sendRun(events: AsyncIterable<RunEvent>, socket: Socket, gone: AbortSignal): Promise<void> {
  let frames: Buffer[] = [];
  let bytes = 0;
  let timer: NodeJS.Immediate | undefined;
  const flush = () => {
    clearImmediate(timer);
    timer = undefined;
    const data = frames.length === 1 && frames[0] !== undefined ? frames[0] : Buffer.concat(frames);
    frames = [];
    bytes = 0;
    if (data.length > 0 && !socket.destroyed) socket.write(data);
  };
  try {
    for await (const event of events) {
      if (event.type === 'end') {
        frames.push(encodeFrame(FRAME.answer, JSON.stringify(event.result)));
        flush();
        continue;
      }
      if (event.type === 'started') {
        frames.push(encodeFrame(FRAME.started, ''));
        flush();
        continue;
      }
      if (event.data.length >= LARGE) {
        flush();
        await sendData(socket, FRAME[event.stream], event.data);
        free(event.data);
      } else {
        frames.push(encodeFrame(FRAME[event.stream], event.data));
        bytes += event.data.length;
        if (bytes >= LARGE) flush();
        else timer ??= setImmediate(flush);
      }
      if (socket.writableNeedDrain) await once(socket, 'drain', { signal: gone });
    }
  } finally {
    clearImmediate(timer);
  }
}

/**
 * Gives the memory of output that has been sent back at once: left to the garbage collector, it would cost collections of
 * the whole heap. What shares its memory with others is left alone.
 */
function free({ buffer, byteLength }: Uint8Array): void {
  if (buffer instanceof ArrayBuffer && byteLength === buffer.byteLength) buffer.transfer(0);
}

interface Call {
  readonly op: Op;
  /** Of an operation (protocol/operations.ts); one that does not exist is refused by the executor. */
  readonly name: string;
  readonly request: unknown;
}

function parseCall(frame: Frame): Call {
  if (frame.type !== FRAME.call) throw new FrameError('a connection begins with a call');
  const call = JSON.parse(frame.payload.toString()) as Partial<Record<keyof Call, unknown>> | null;
  const op = OPS.find((each) => each === call?.op);
  if (op === undefined) throw new FrameError('no such call');
  return { op, name: String(call?.name), request: call?.request };
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

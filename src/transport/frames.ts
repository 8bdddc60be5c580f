/**
 * Frames of the unix socket: a 32-bit big-endian length of the payload, one byte of type, the payload.
 *
 * Frames of data are a stream: where one begins and ends means nothing, and they are handed on as they come.
 */
import type { Writable } from 'node:stream';

/** Data is sent in pieces of at most this size, and no other frame of the server is as large. */
export const PIECE = 1024 * 1024;

export const OPS = ['run', 'put', 'ask', 'send', 'fetch', 'health'] as const;
export type Op = (typeof OPS)[number];

/** @see unix-socket.ts for who sends what */
export const FRAME = {
  call: 1,
  data: 2,
  dataEnd: 3,
  stdout: 4,
  stderr: 5,
  answer: 6,
  error: 7,
  compile: 8,
  started: 9,
  input: 10,
} as const;
export type FrameType = (typeof FRAME)[keyof typeof FRAME];

export interface Frame {
  readonly type: FrameType;
  readonly payload: Buffer;
}

const HEADER = 5;
const TYPES = new Set<number>(Object.values(FRAME));
const DATA = new Set<number>([FRAME.data, FRAME.stdout, FRAME.stderr, FRAME.compile]);

export class FrameError extends Error {
  override readonly name = 'FrameError';
}

export function encodeFrame(type: FrameType, payload: Uint8Array | string): Buffer {
  const data = typeof payload === 'string' ? Buffer.from(payload) : payload;
  const frame = Buffer.allocUnsafe(HEADER + data.length);
  writeHeader(frame, type, data.length);
  frame.set(data, HEADER);
  return frame;
}

/**
 * Writes frames of data, without a copy: the bytes must not change until they have been sent.
 *
 * @returns false when the socket wants to be waited for
 */
export function writeData(socket: Writable, type: FrameType, data: Uint8Array): boolean {
  let more = true;
  socket.cork();
  for (let at = 0; at < data.length; at += PIECE) {
    const piece = data.subarray(at, at + PIECE);
    const header = Buffer.allocUnsafe(HEADER);
    writeHeader(header, type, piece.length);
    socket.write(header);
    more = socket.write(piece);
  }
  socket.uncork();
  return more;
}

function writeHeader(frame: Buffer, type: FrameType, length: number): void {
  frame.writeUInt32BE(length, 0);
  frame[4] = type;
}

/** Cuts a stream of bytes into frames. Holds at most one that is unfinished; those of data it hands on as they come. */
export class FrameDecoder {
  readonly #maxPayload: number;
  #chunks: Buffer[] = [];
  #buffered = 0;
  /** The frame of data that has begun, and how much of it is still to come. */
  #data: FrameType = FRAME.data;
  #left = 0;

  /** @param maxPayload the largest payload that is taken; a longer one is refused when its header is seen */
  constructor(maxPayload: number) {
    this.#maxPayload = maxPayload;
  }

  /** @throws FrameError for an unknown type or a payload that is too long; the connection is then of no use */
  *push(chunk: Buffer): Generator<Frame> {
    if (chunk.length > 0) this.#chunks.push(chunk);
    this.#buffered += chunk.length;
    for (;;) {
      const [first] = this.#chunks;
      if (this.#left > 0 && first !== undefined) {
        const payload = first.subarray(0, this.#left);
        this.#drop(payload.length);
        this.#left -= payload.length;
        yield { type: this.#data, payload };
        continue;
      }
      if (this.#buffered < HEADER) return;
      const header = this.#peek(HEADER);
      const length = header.readUInt32BE(0);
      const type = header[4] ?? 0;
      if (!TYPES.has(type)) throw new FrameError(`unknown frame type ${String(type)}`);
      if (length > this.#maxPayload) throw new FrameError(`a frame of ${String(length)} bytes is too long`);
      if (DATA.has(type) && length > 0) {
        this.#drop(HEADER);
        this.#data = type as FrameType;
        this.#left = length;
        continue;
      }
      if (this.#buffered < HEADER + length) return;
      const whole = this.#peek(HEADER + length);
      this.#drop(HEADER + length);
      yield { type: type as FrameType, payload: whole.subarray(HEADER) };
    }
  }

  /** Whether the stream may end here. */
  get empty(): boolean {
    return this.#buffered === 0 && this.#left === 0;
  }

  /** The first `size` bytes in one piece; joins chunks only as far as needed, so that a long frame is copied once. */
  #peek(size: number): Buffer {
    const [first] = this.#chunks;
    if (first !== undefined && first.length >= size) return first.subarray(0, size);
    if (size <= HEADER) return Buffer.concat(this.#chunks.slice(0, HEADER + 1)).subarray(0, size);
    return Buffer.concat(this.#chunks, this.#buffered).subarray(0, size);
  }

  #drop(size: number): void {
    this.#buffered -= size;
    let left = size;
    while (left > 0) {
      const [first] = this.#chunks;
      if (first === undefined) return;
      if (first.length > left) {
        this.#chunks[0] = first.subarray(left);
        return;
      }
      left -= first.length;
      this.#chunks.shift();
    }
  }
}

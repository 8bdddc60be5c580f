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
  taken: 11,
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
 * @returns when the kernel has taken them, or the socket has been destroyed
 */
export function sendData(socket: Writable, type: FrameType, data: Uint8Array): Promise<void> {
  return new Promise((resolve) => {
    const sent = () => {
      resolve();
    };
    socket.cork();
    for (let at = 0; at < data.length; at += PIECE) {
      const piece = data.subarray(at, at + PIECE);
      const header = Buffer.allocUnsafe(HEADER);
      writeHeader(header, type, piece.length);
      socket.write(header);
      // The last write of many: they are called back in their order.
      socket.write(piece, at + PIECE >= data.length ? sent : undefined);
    }
    socket.uncork();
    if (data.length === 0) resolve();
  });
}

function writeHeader(frame: Buffer, type: FrameType, length: number): void {
  frame.writeUInt32BE(length, 0);
  frame[4] = type;
}

/** Cuts a stream of bytes into frames. Holds what was not asked for yet; those of data it hands on as they come. */
export class FrameDecoder {
  readonly #maxPayload: number;
  #chunks: Buffer[] = [];
  #buffered = 0;
  /** The frame of data that has begun, and how much of it is still to come. */
  #data: FrameType = FRAME.data;
  #left = 0;
  /** The first chunk is the rest of the one that the last data was in. */
  #same = false;

  /** @param maxPayload the largest payload that is taken; a longer one is refused when its header is seen */
  constructor(maxPayload: number) {
    this.#maxPayload = maxPayload;
  }

  /** Bytes that wait to be decoded. */
  get buffered(): number {
    return this.#buffered;
  }

  /** Whether the stream may end here. */
  get empty(): boolean {
    return this.#buffered === 0 && this.#left === 0;
  }

  /** @param chunk is not copied, and no longer the caller's: payloads are views of it, and may be moved in it */
  feed(chunk: Buffer): void {
    if (chunk.length > 0) this.#chunks.push(chunk);
    this.#buffered += chunk.length;
  }

  /** Copies what waits of the last chunk, so that its memory may be written over. */
  own(): void {
    const last = this.#chunks.pop();
    if (last !== undefined) this.#chunks.push(Buffer.from(last));
  }

  /**
   * @returns undefined where more bytes are needed
   * @throws FrameError for an unknown type or a payload that is too long; the connection is then of no use
   */
  next(): Frame | undefined {
    if (this.#left === 0) {
      if (this.#buffered < HEADER) return undefined;
      const header = this.#peek(HEADER);
      const length = header.readUInt32BE(0);
      const type = header[4] ?? 0;
      if (!TYPES.has(type)) throw new FrameError(`unknown frame type ${String(type)}`);
      if (length > this.#maxPayload) throw new FrameError(`a frame of ${String(length)} bytes is too long`);
      if (!DATA.has(type) || length === 0) return this.#whole(type as FrameType, length);
      this.#drop(HEADER);
      this.#data = type as FrameType;
      this.#left = length;
    }
    let payload = this.#takeData();
    if (payload === undefined) return undefined;
    while (this.#goesOn()) payload = this.#join(payload);
    return { type: this.#data, payload };
  }

  /** What the first chunk has of the data that is to come. */
  #takeData(): Buffer | undefined {
    const [chunk] = this.#chunks;
    if (chunk === undefined) return undefined;
    const payload = chunk.subarray(0, this.#left);
    this.#same = payload.length < chunk.length;
    this.#drop(payload.length);
    this.#left -= payload.length;
    return payload;
  }

  /** Whether the same chunk goes on with more of the same data. */
  #goesOn(): boolean {
    const [first] = this.#chunks;
    if (!this.#same || first === undefined || first.length <= HEADER || first[4] !== this.#data) return false;
    const length = first.readUInt32BE(0);
    return length > 0 && length <= this.#maxPayload;
  }

  /**
   * Moves what follows over the header between the two: what is read at a time has the end of one frame and the
   * beginning of the next, and to hand on each by itself would cost far more.
   */
  #join(before: Buffer): Buffer {
    this.#left = this.#peek(HEADER).readUInt32BE(0);
    this.#drop(HEADER);
    const after = this.#takeData();
    if (after === undefined) return before;
    const whole = Buffer.from(before.buffer, before.byteOffset, before.length + after.length);
    after.copy(whole, before.length);
    return whole;
  }

  #whole(type: FrameType, length: number): Frame | undefined {
    if (this.#buffered < HEADER + length) return undefined;
    const whole = this.#peek(HEADER + length);
    this.#drop(HEADER + length);
    return { type, payload: whole.subarray(HEADER) };
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

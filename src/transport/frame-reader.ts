/** Frames of a socket, asked for one by one; what was not asked for yet is bounded. */
import { connect, type Socket } from 'node:net';
import { FrameDecoder, type Frame } from './frames.ts';

/** All that waits in a socket (212,992 bytes, net.core.wmem_default): fewer and larger writes to the client follow. */
const READ_MAX = 256 * 1024;
/** So much may wait to be asked for; then the sender is made to wait. */
const AHEAD_BYTES = 1024 * 1024;

export class FrameReader {
  readonly socket: Socket;
  /** It has come to hold more memory than it began with. */
  large = false;
  readonly #decoder: FrameDecoder;
  readonly #ahead: number;
  #waiting: PromiseWithResolvers<Frame | undefined> | undefined;
  #ended = false;

  private constructor(socket: Socket, maxPayload: number, ahead: number) {
    this.socket = socket;
    this.#decoder = new FrameDecoder(maxPayload);
    this.#ahead = ahead;
    // A connection that breaks is an end like any other: what is missing is noticed by whoever waits for it.
    const onEnd = () => {
      this.#ended = true;
      this.#wake();
    };
    socket.once('end', onEnd).once('close', onEnd);
  }

  /** @param maxPayload the largest payload that is taken */
  static accept(socket: Socket, maxPayload: number): FrameReader {
    const reader = new FrameReader(socket, maxPayload, AHEAD_BYTES);
    socket.on('data', (chunk: Buffer) => {
      reader.#take(chunk);
    });
    return reader;
  }

  /**
   * Reads always into the same memory, so that many bytes make no work for the garbage collector: a payload holds
   * until the next frame is asked for.
   *
   * @param maxPayload the largest payload that is taken
   * @param bytes that are read at a time; READ_MAX once more of them come
   */
  static connect(path: string, maxPayload: number, bytes: number): FrameReader {
    let memory = Buffer.allocUnsafeSlow(bytes);
    const callback = (length: number) => {
      reader.#take(memory.subarray(0, length));
      if (length === memory.length && length < READ_MAX) {
        memory = Buffer.allocUnsafeSlow(READ_MAX);
        reader.large = true;
      }
      return true;
    };
    // Asked for after each read.
    const socket = connect({ path, onread: { buffer: () => memory, callback } });
    const reader = new FrameReader(socket, maxPayload, 0);
    socket.resume();
    return reader;
  }

  /**
   * @returns undefined at the end; one call at a time
   * @throws FrameError for what is no frame; the connection is then of no use
   */
  next(): Promise<Frame | undefined> {
    const waiting = Promise.withResolvers<Frame | undefined>();
    this.#waiting = waiting;
    this.#wake();
    if (this.#decoder.buffered < this.#ahead) this.readOn();
    return waiting.promise;
  }

  /** Nobody asks for a frame, but the end of the connection is noticed. */
  readOn(): void {
    if (this.socket.isPaused()) this.socket.resume();
  }

  #take(chunk: Buffer): void {
    this.#decoder.feed(chunk);
    this.#wake();
    if (this.#waiting === undefined && this.#decoder.buffered >= this.#ahead) this.socket.pause();
  }

  #wake(): void {
    const waiting = this.#waiting;
    if (waiting === undefined) return;
    try {
      const frame = this.#decoder.next();
      if (frame === undefined && !this.#ended) {
        // The memory that it was read into is read into again.
        if (this.#ahead === 0) this.#decoder.own();
        this.readOn();
        return;
      }
      waiting.resolve(frame);
    } catch (error) {
      this.socket.pause();
      waiting.reject(error);
    }
    this.#waiting = undefined;
  }
}

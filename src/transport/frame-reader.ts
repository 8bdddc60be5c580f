/** Frames of a socket, asked for one by one; what was not asked for yet is bounded. */
import type { Socket } from 'node:net';
import { FrameDecoder, type Frame } from './frames.ts';

/** So much may wait to be asked for; then the sender is made to wait. */
const AHEAD_BYTES = 1024 * 1024;

export class FrameReader {
  readonly #socket: Socket;
  readonly #decoder: FrameDecoder;
  readonly #frames: Frame[] = [];
  #waiting: PromiseWithResolvers<Frame | undefined> | undefined;
  #ahead = 0;
  #error: unknown;
  #ended = false;

  /** @param maxPayload the largest payload that is taken */
  constructor(socket: Socket, maxPayload: number) {
    this.#socket = socket;
    this.#decoder = new FrameDecoder(maxPayload);
    socket.on('data', (chunk: Buffer) => {
      this.#take(chunk);
    });
    // A connection that breaks is an end like any other: what is missing is noticed by whoever waits for it.
    const onEnd = () => {
      this.#ended = true;
      this.#waiting?.resolve(undefined);
    };
    socket.once('end', onEnd).once('close', onEnd);
  }

  /**
   * @returns undefined at the end; one call at a time
   * @throws FrameError for what is no frame; the connection is then of no use
   */
  next(): Promise<Frame | undefined> {
    const frame = this.#frames.shift();
    if (frame !== undefined) {
      this.#ahead -= frame.payload.length;
      if (this.#socket.isPaused() && this.#ahead < AHEAD_BYTES) this.#socket.resume();
      return Promise.resolve(frame);
    }
    // eslint-disable-next-line @typescript-eslint/prefer-promise-reject-errors -- what the decoder has thrown
    if (this.#error !== undefined) return Promise.reject(this.#error);
    if (this.#ended) return Promise.resolve(undefined);
    const waiting = Promise.withResolvers<Frame | undefined>();
    this.#waiting = waiting;
    return waiting.promise;
  }

  #take(chunk: Buffer): void {
    try {
      for (const frame of this.#decoder.push(chunk)) {
        const waiting = this.#waiting;
        this.#waiting = undefined;
        if (waiting !== undefined) waiting.resolve(frame);
        else {
          this.#frames.push(frame);
          this.#ahead += frame.payload.length;
        }
      }
      if (this.#ahead >= AHEAD_BYTES) this.#socket.pause();
    } catch (error) {
      this.#error = error;
      this.#socket.pause();
      this.#waiting?.reject(error);
    }
  }
}

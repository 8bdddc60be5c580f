/**
 * Tells what a compiler prints from what its program prints: between the two the driver (runtime.ts) writes a mark on
 * both streams. It is new for each run, and no code of a client has run when it is written, so it cannot be forged.
 */
import { randomBytes } from 'node:crypto';

export type Stage = 'compile' | 'run';
export type StreamName = 'stdout' | 'stderr';

/** 32 hexadecimal digits. */
export function newMark(): string {
  return randomBytes(16).toString('hex');
}

/** The mark as it is written: NUL before and after it. */
export function markBytes(mark: string): Buffer {
  return Buffer.from(`\0${mark}\0`, 'latin1');
}

type Emit = (stage: Stage, stream: StreamName, data: Uint8Array) => void;

/**
 * Takes the output of a staged run as it comes, cut anywhere, and hands it on without the mark: before the first mark
 * of its stream it is the compiler's, then the program's. Holds back fewer bytes than the mark has, and only while
 * they may be its beginning.
 */
export class StageSplitter {
  readonly #mark: Buffer;
  readonly #emit: Emit;
  readonly #held: Record<StreamName, Buffer> = { stdout: Buffer.alloc(0), stderr: Buffer.alloc(0) };
  readonly #marked: Record<StreamName, boolean> = { stdout: false, stderr: false };

  constructor(mark: string, emit: Emit) {
    this.#mark = markBytes(mark);
    this.#emit = emit;
  }

  /** How far the run has come: the program begins when both streams have their mark. */
  get stage(): Stage {
    return this.#marked.stdout && this.#marked.stderr ? 'run' : 'compile';
  }

  push(stream: StreamName, data: Uint8Array): void {
    if (this.#marked[stream]) {
      this.#hand('run', stream, data);
      return;
    }
    const all = Buffer.concat([this.#held[stream], data]);
    const at = all.indexOf(this.#mark);
    if (at >= 0) {
      this.#marked[stream] = true;
      this.#held[stream] = Buffer.alloc(0);
      this.#hand('compile', stream, all.subarray(0, at));
      this.#hand('run', stream, all.subarray(at + this.#mark.length));
      return;
    }
    const keep = this.#beginning(all);
    this.#held[stream] = Buffer.from(all.subarray(all.length - keep));
    this.#hand('compile', stream, all.subarray(0, all.length - keep));
  }

  /** Nothing more comes: what was held back was no mark. */
  end(): void {
    for (const stream of ['stdout', 'stderr'] as const) {
      this.#hand('compile', stream, this.#held[stream]);
      this.#held[stream] = Buffer.alloc(0);
    }
  }

  /** How many of the last bytes may be the beginning of the mark. */
  #beginning(data: Buffer): number {
    for (let size = Math.min(data.length, this.#mark.length - 1); size > 0; size -= 1)
      if (data.subarray(data.length - size).equals(this.#mark.subarray(0, size))) return size;
    return 0;
  }

  #hand(stage: Stage, stream: StreamName, data: Uint8Array): void {
    if (data.length > 0) this.#emit(stage, stream, data);
  }
}

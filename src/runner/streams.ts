/** The output of one run, by stream: bounded or whole, a compiler's told from its program's, and counted. */
import type { RunEvent, StreamName } from '../protocol/messages.ts';
import { BoundedOutput } from '../protocol/output.ts';
import { StageSplitter, type Stage } from './stage.ts';

type Emit = (event: RunEvent) => void;

export class Streams {
  readonly #outputs: Readonly<Record<StreamName, BoundedOutput>>;
  readonly #splitter: StageSplitter | undefined;
  readonly #onProgram: (() => void) | undefined;
  #stage: Stage | undefined;

  /**
   * @param limitBytes of each stream; Infinity keeps all of it
   * @param mark of a run with a compiler (stage.ts)
   * @param onProgram told when the compiler is done and the program begins
   */
  constructor(limitBytes: number, emit: Emit, mark?: string, onProgram?: () => void) {
    const output = (stream: StreamName) =>
      new BoundedOutput(limitBytes, (data) => {
        emit({ type: 'output', stream, data });
      });
    this.#outputs = { stdout: output('stdout'), stderr: output('stderr'), compile: output('compile') };
    this.#onProgram = onProgram;
    if (mark === undefined) return;
    this.#stage = 'compile';
    this.#splitter = new StageSplitter(mark, (stage, stream, data) => {
      this.#outputs[stage === 'compile' ? 'compile' : stream].write(data);
    });
  }

  /** undefined: there is no compiler. */
  get stage(): Stage | undefined {
    return this.#stage;
  }

  write(stream: 'stdout' | 'stderr', data: Uint8Array): void {
    if (this.#splitter === undefined) {
      this.#outputs[stream].write(data);
      return;
    }
    this.#splitter.push(stream, data);
    if (this.#stage === 'run' || this.#splitter.stage !== 'run') return;
    this.#stage = 'run';
    this.#onProgram?.();
  }

  end(): void {
    this.#splitter?.end();
    for (const output of Object.values(this.#outputs)) output.end();
  }

  omitted(stream: StreamName): number {
    return this.#outputs[stream].omitted;
  }

  total(stream: StreamName): number {
    return this.#outputs[stream].total;
  }
}

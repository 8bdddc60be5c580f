/** Where the output of a run goes in the gateway: into memory, for a client that waits; into a log, for readers. */
import type { StreamName } from '../../protocol/messages.ts';
import { eventLine, OutputEncoder } from './events.ts';
import type { EventLog } from './log.ts';
import { viewOf, type RunRecord } from './record.ts';

export interface OutputSink {
  /** Something was left out. */
  readonly truncated: boolean;
  started(): void;
  /**
   * A promise holds up the run.
   *
   * @param data holds until then
   */
  output(stream: StreamName, data: Uint8Array): Promise<void> | undefined;
  end(record: RunRecord): void;
}

/** Bounded by the bounds of the run. */
export class Collected implements OutputSink {
  readonly truncated = false;
  readonly streams: Readonly<Record<StreamName, Uint8Array[]>> = { stdout: [], stderr: [], compile: [] };

  started(): void {
    // Who waits for the end sees nothing of it.
  }

  output(stream: StreamName, data: Uint8Array): undefined {
    this.streams[stream].push(Buffer.from(data));
  }

  end(): void {
    // The record has it.
  }
}

export class Logged implements OutputSink {
  readonly log: EventLog;
  readonly #encoder = new OutputEncoder();
  readonly #signal: AbortSignal;

  /** @param signal ends the waiting for a reader */
  constructor(log: EventLog, signal: AbortSignal) {
    this.log = log;
    this.#signal = signal;
  }

  get truncated(): boolean {
    return this.log.truncated;
  }

  started(): void {
    this.log.append(eventLine({ type: 'started' }));
  }

  output(stream: StreamName, data: Uint8Array): Promise<void> {
    for (const line of this.#encoder.encode(stream, data)) this.log.append(line);
    return this.log.room(this.#signal);
  }

  end(record: RunRecord): void {
    for (const line of this.#encoder.end()) this.log.append(line);
    this.log.append(eventLine({ type: 'end', run: viewOf(record) }));
    this.log.close();
  }
}

/**
 * The seam between the gateway and whatever runs code: the most important type of the project.
 *
 * The transports implement it (in-process, unix socket), and one contract suite (test/contract) holds them to it.
 *
 * Errors: every method rejects with a `NoxError` from the table in errors.ts, on every transport the same one.
 * How a program ended is no error: it is in the `end` event.
 */
import type { Health, PutRequest, PutResult, RunEvent, RunRequest } from './messages.ts';

export interface Executor {
  /**
   * Runs a program and yields what it prints, then exactly one `end`; no process of the run is alive then. Whoever
   * aborts `signal`, or leaves the loop early, ends the run; an aborted call rejects with `cancelled`. A run that
   * the runner itself ends, because it stops, ends with the outcome `cancelled`.
   */
  run(request: RunRequest, signal: AbortSignal): AsyncIterable<RunEvent>;

  /**
   * Streams `body` into a file of the workspace: the old file stays until the new one is whole and on disk.
   * A body that throws, or an aborted signal, leaves the old file.
   */
  put(request: PutRequest, body: AsyncIterable<Uint8Array>, signal: AbortSignal): Promise<PutResult>;

  /** Answers within a second, whatever runs; never rejects. */
  health(): Promise<Health>;

  /** Ends all runs, refuses new ones, resolves when nothing of them is alive. */
  close(): Promise<void>;
}

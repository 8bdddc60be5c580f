/**
 * The seam between the gateway and whatever runs code: the most important type of the project.
 *
 * The transports implement it (in-process, unix socket), and one contract suite (test/contract) holds them to it.
 *
 * Errors: every method rejects with a `NoxError` from the table in errors.ts, on every transport the same one.
 * How a program ended is no error: it is in the `end` event.
 *
 * Bytes that come out of it (of an output event, of a body) hold until the next are asked for: who keeps them copies
 * them; output is handed over with its memory. Those that go into it never change.
 */
import type { Health, PutRequest, PutResult, RunEvent, RunInput, RunRequest } from './messages.ts';
import type { Asks, Fetched, Fetches, Sends } from './operations.ts';

export interface Executor {
  /**
   * Runs a program and yields what it prints, then exactly one `end`; no process of the run is alive then. Whoever
   * aborts `signal`, or leaves the loop early, ends the run; an aborted call rejects with `cancelled`. A run that
   * the runner itself ends, because it stops, ends with the outcome `cancelled`.
   *
   * A reader that does not ask for the next event holds up a run with `output: 'all'`: the program waits in its write.
   *
   * @param input what a run with `interactive` is told while it lives; its end leaves the program's standard input open
   */
  run(request: RunRequest, signal: AbortSignal, input?: AsyncIterable<RunInput>): AsyncIterable<RunEvent>;

  /**
   * Streams `body` into a file of the workspace: the old file stays until the new one is whole and on disk.
   * A body that throws, or an aborted signal, leaves the old file.
   */
  put(request: PutRequest, body: AsyncIterable<Uint8Array>, signal: AbortSignal): Promise<PutResult>;

  ask<Name extends keyof Asks>(
    name: Name,
    request: Asks[Name]['request'],
    signal: AbortSignal,
  ): Promise<Asks[Name]['answer']>;

  /** A body that throws, or an aborted signal, changes nothing. */
  send<Name extends keyof Sends>(
    name: Name,
    request: Sends[Name]['request'],
    body: AsyncIterable<Uint8Array>,
    signal: AbortSignal,
  ): Promise<Sends[Name]['answer']>;

  /** The body must be read to its end, or left by `return`, or the signal be aborted. */
  fetch<Name extends keyof Fetches>(
    name: Name,
    request: Fetches[Name]['request'],
    signal: AbortSignal,
  ): Promise<Fetched<Fetches[Name]['answer']>>;

  /** Answers within a second, whatever runs; never rejects. */
  health(): Promise<Health>;

  /** Ends all runs, refuses new ones, resolves when nothing of them is alive. */
  close(): Promise<void>;
}

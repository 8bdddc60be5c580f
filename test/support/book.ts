/** Runs without a server: the gateway's book of them, on a store in a directory, with a runner of the test's. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { ADMIN } from '../../src/gateway/principal.ts';
import type { Admission } from '../../src/gateway/quota.ts';
import { RunBook } from '../../src/gateway/runs/book.ts';
import { linesOf } from '../../src/gateway/runs/events.ts';
import type { RunOrder } from '../../src/gateway/runs/keeper.ts';
import { Spool } from '../../src/gateway/runs/spool.ts';
import type { RunRecord } from '../../src/gateway/store/runs.ts';
import { Store } from '../../src/gateway/store/store.ts';
import { NoxError } from '../../src/protocol/errors.ts';
import type { Executor } from '../../src/protocol/executor.ts';
import type { RunEvent, RunInput, RunRequest, RunResult } from '../../src/protocol/messages.ts';
import { NOBODY } from './executor.ts';

export const log = pino({ level: 'silent' });
export const never = new AbortController().signal;
const dirs: string[] = [];

/** Call after the tests. */
export function removeBooks(): void {
  for (const dir of dirs) rmSync(dir, { recursive: true });
}

export const RESULT: RunResult = {
  outcome: 'ok',
  exitCode: 0,
  signal: null,
  omitted: { stdout: 0, stderr: 0 },
  usage: {
    ...{ wallSeconds: 0.1, userSeconds: 2, systemSeconds: 1, peakMemoryBytes: 1, peakProcesses: 1 },
    ...{ stdinBytes: 0, stdoutBytes: 0, stderrBytes: 0 },
  },
};
export const END: RunEvent = { type: 'end', result: RESULT };

type Script = (
  request: RunRequest,
  signal: AbortSignal,
  input: AsyncIterable<RunInput>,
) => AsyncGenerator<RunEvent>;

export interface Made {
  readonly dir: string;
  readonly book: RunBook;
  readonly store: Store;
  /** Ids of requests, as the runner got them. */
  readonly asked: string[];
}

export function make(
  script: Script,
  more: { slots?: number; queue?: number; queueBytes?: number; outputBytes?: number; dir?: string } = {},
): Made {
  const { outputBytes = 1_000_000 } = more;
  const dir = more.dir ?? mkdtempSync(join(tmpdir(), 'nox-runs-'));
  if (more.dir === undefined) dirs.push(dir);
  const store = Store.open(dir, { runs: 1000, days: 1 }, log);
  const asked: string[] = [];
  const executor: Executor = {
    ...NOBODY,
    run: (request, signal, input = nothing()) => {
      asked.push(request.id);
      return script(request, signal, input);
    },
  };
  const spool = new Spool(dir, { outputBytes, allOutputBytes: 10 * outputBytes });
  const { slots = 2, queue = 10, queueBytes = 100_000_000 } = more;
  return {
    dir,
    book: new RunBook({
      executor,
      store,
      spool,
      slots,
      queue,
      queueBytes,
      outputBytes: 1000,
      onEnd: () => undefined,
      log,
    }),
    store,
    asked,
  };
}

// eslint-disable-next-line @typescript-eslint/require-await -- it says nothing
async function* nothing(): AsyncGenerator<RunInput> {
  yield* [];
}

let serial = 0;
export function order(more: Partial<RunRequest> = {}, admission?: Admission): RunOrder {
  const id = `r${String((serial += 1))}`;
  const request: RunRequest = { id, program: { kind: 'command', argv: ['x'] }, output: 'all', ...more };
  return {
    ...{ principal: ADMIN, requestId: id, runtime: 'command', workspace: undefined, labels: {} },
    ...{ request, admission },
  };
}

export const aborted = (signal: AbortSignal) =>
  new Promise<never>((_, reject) => {
    const fail = () => {
      reject(new NoxError('cancelled', 'The call was cancelled'));
    };
    if (signal.aborted) fail();
    else signal.addEventListener('abort', fail);
  });

export async function* quick(): AsyncGenerator<RunEvent> {
  await Promise.resolve();
  yield { type: 'started' };
  yield { type: 'output', stream: 'stdout', data: Buffer.from('hello') };
  yield END;
}
export async function* forever(_: RunRequest, signal: AbortSignal): AsyncGenerator<RunEvent> {
  yield { type: 'started' };
  await aborted(signal);
}

export function accept({ book }: Made, each: RunOrder): string {
  let id = '';
  book.background((fresh) => {
    id = fresh;
    return each;
  });
  return id;
}

export async function events(book: RunBook, id: string): Promise<string[]> {
  const types: string[] = [];
  for await (const piece of await book.events(id, ADMIN, undefined, never))
    for (const each of linesOf(piece)) types.push((JSON.parse(each.toString()) as { type: string }).type);
  return types;
}

export async function until(what: string, holds: () => boolean): Promise<void> {
  for (const deadline = Date.now() + 30_000; !holds();) {
    assert.ok(Date.now() < deadline, what);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
export const ended = (made: Made, id: string) =>
  until(`the end of ${id}`, () => made.book.record(id, ADMIN).state === 'ended');

/** What the store has of it, as the next server sees it; undefined: nothing (yet). */
export function rowOf({ store }: Pick<Made, 'store'>, id: string): RunRecord | undefined {
  try {
    return store.runs.get(id, ADMIN);
  } catch (error) {
    if (error instanceof NoxError && error.code === 'run_not_found') return undefined;
    throw error;
  }
}

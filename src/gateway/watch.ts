/** Sees everything that goes through the executor, whichever call it is for: counts it, and makes its spans. */
import { NoxError } from '../protocol/errors.ts';
import type { Executor } from '../protocol/executor.ts';
import type { RunRequest, RunResult } from '../protocol/messages.ts';
import type { Metrics } from './metrics.ts';
import { KIND, type Span, type Tracer } from './trace.ts';

/** @returns the executor itself where there is nobody to tell */
export function watchExecutor(
  executor: Executor,
  metrics: Metrics | undefined,
  tracer: Tracer | undefined,
): Executor {
  if (metrics === undefined && tracer === undefined) return executor;
  return {
    async *run(request, signal, input) {
      const runtime = runtimeOf(request);
      const span = tracer?.begin('executor run', KIND.client, tracer.current);
      let result: RunResult | undefined;
      // Left early by its reader, it is cancelled.
      let failure = 'cancelled';
      metrics?.runBegan();
      try {
        for await (const event of executor.run(request, signal, input)) {
          if (event.type === 'end') ({ result } = event);
          yield event;
        }
      } catch (error) {
        failure = codeOf(error);
        throw error;
      } finally {
        if (result === undefined) metrics?.runFailed(runtime, failure);
        else {
          // The runner has it: one of a closed set.
          metrics?.knowRuntimes([runtime]);
          metrics?.runEnded(runtime, result);
        }
        if (tracer !== undefined && span !== undefined) endRun(tracer, span, runtime, result, failure);
      }
    },
    async put(request, body, signal) {
      const span = tracer?.begin('executor put', KIND.client, tracer.current);
      try {
        const saved = await executor.put(request, body, signal);
        metrics?.uploadEnded(saved.bytes);
        if (span !== undefined) tracer?.end(span, { 'nox.bytes': saved.bytes });
        return saved;
      } catch (error) {
        metrics?.uploadEnded(undefined);
        if (span !== undefined) tracer?.end(span, {}, codeOf(error));
        throw error;
      }
    },
    ask: (name, request, signal) => executor.ask(name, request, signal),
    send: (name, request, body, signal) => executor.send(name, request, body, signal),
    fetch: (name, request, signal) => executor.fetch(name, request, signal),
    health: () => executor.health(),
    close: () => executor.close(),
  };
}

function runtimeOf({ program }: RunRequest): string {
  return program.kind === 'runtime' ? program.runtime : program.kind;
}

const codeOf = (error: unknown): string => (error instanceof NoxError ? error.code : 'internal');

/** The runner has no network: what it did when is told with the result, and becomes spans here. */
function endRun(
  tracer: Tracer,
  span: Span,
  runtime: string,
  result: RunResult | undefined,
  failure: string,
): void {
  if (result === undefined) {
    tracer.end(span, { 'nox.runtime': runtime }, failure);
    return;
  }
  const { outcome, exitCode, timings, usage, limit } = result;
  const fault = outcome === 'ok' ? undefined : outcome;
  let at = span.began;
  if (timings !== undefined) {
    const { queueSeconds, prepareSeconds, runSeconds } = timings;
    const parts = { 'queue wait': queueSeconds, launch: prepareSeconds, run: runSeconds };
    for (const [name, seconds] of Object.entries(parts)) {
      const part = tracer.begin(name, KIND.internal, span, at);
      at += seconds * 1000;
      const last = name === 'run';
      const used = {
        'nox.cpu_seconds': usage.userSeconds + usage.systemSeconds,
        'nox.peak_memory_bytes': usage.peakMemoryBytes,
      };
      tracer.end(part, last ? used : {}, last ? fault : undefined, { ended: at, service: 'nox-runner' });
    }
  }
  const attributes = {
    'nox.runtime': runtime,
    'nox.outcome': outcome,
    'nox.exit_code': exitCode ?? undefined,
  };
  tracer.end(span, { ...attributes, 'nox.limit': limit?.name }, fault);
}

/**
 * One run, from its slot to its result: places the code, launches, watches the limits, decides the outcome.
 *
 * States: placing → launched → ended. Whatever ends a run early calls `impose(cause)`: the first cause is kept,
 * process 1 is killed, and the result is made in one place when the launcher says that nothing is alive.
 */
import { relative } from 'node:path';
import type { Logger } from 'pino';
import { NoxError } from '../protocol/errors.ts';
import { LIMITS, type LimitName, type Limits } from '../protocol/limits.ts';
import type { RunEvent, RunRequest, RunResult } from '../protocol/messages.ts';
import { decideOutcome, type ImposedCause, type Outcome } from '../protocol/outcome.ts';
import type { LaunchEnd, Launcher, LaunchPlan } from './launch.ts';
import type { FinalSample, Meter } from './meter.ts';
import { BoundedOutput } from './output.ts';
import { pathNames } from './workspace.ts';
import type { WorkspaceState } from './workspace-state.ts';
import { DEFAULT_WORKSPACE, type Workspaces } from './workspaces.ts';

/** How often a live run is measured. A shorter run costs no measurement at all. */
const SAMPLE_MS = 50;

/** What the runs of one runner share. */
export interface RunContext {
  readonly launcher: Launcher;
  readonly workspaces: Pick<Workspaces, 'get' | 'close'>;
  readonly python: string;
  newMeter(limits: Limits): Meter;
}

export interface RunOrder {
  readonly slot: number;
  readonly request: RunRequest;
  readonly limits: Limits;
  readonly log: Logger;
}

const LIMIT_OF: Partial<Record<Outcome, LimitName>> = {
  timeout: 'wallSeconds',
  cpu_limit: 'cpuSeconds',
  memory_limit: 'memoryBytes',
  process_limit: 'processes',
  disk_limit: 'workspaceBytes',
};

/** The kernel's CPU limit counts whole ticks, its accounts are finer: what was used may look like less than the limit. */
const CPU_LIMIT_NEAR = 0.5;
/** How often a run looks for a place for its code while other runs of its workspace take it away. */
const PLACING_TRIES = 20;

/**
 * @param stop ends the run; also called here, when its workspace is taken away
 * @param emit is given the output as it comes
 * @returns the result, when no process of the run is alive. A fault of the machine is a `sandbox_error` result, its
 *   reason in the log.
 * @throws NoxError for a filename or a workspace that cannot be used
 */
export async function executeRun(
  context: RunContext,
  order: RunOrder,
  stop: AbortController,
  emit: (event: RunEvent) => void,
): Promise<RunResult> {
  const state = context.workspaces.get(workspaceOf(order.request));
  const leave = state.enter(() => {
    stop.abort('workspace');
  });
  try {
    return await executeIn(state, context, order, stop.signal, emit);
  } finally {
    leave();
  }
}

function workspaceOf({ workspace }: RunRequest): string {
  if (workspace === undefined) return DEFAULT_WORKSPACE;
  if ('id' in workspace) return workspace.id;
  throw new NoxError('workspace_not_found', 'workspace.scratch: no scratch workspaces yet');
}

async function executeIn(
  state: WorkspaceState,
  context: RunContext,
  order: RunOrder,
  signal: AbortSignal,
  emit: (event: RunEvent) => void,
): Promise<RunResult> {
  for (let attempt = 0; attempt < PLACING_TRIES; attempt += 1) {
    const placed = await placeProgram(state, context.python, order.request.program);
    try {
      const result = await new Run(state, context, order, emit).execute(placed, signal);
      if (result !== undefined) return result;
      // Another run took the file away.
      state.placeholder.remove();
    } finally {
      placed.release();
    }
  }
  throw new NoxError('workspace_conflict', 'Other runs of the workspace keep removing the file of the code');
}

interface PlacedProgram {
  readonly argv: readonly string[];
  readonly script?: { readonly name: string; readonly code: string };
  readonly kind: LaunchPlan['kind'];
  release(): void;
}

/** Gives Python code its place in the workspace: saved under the name that was asked for, or standing in for none. */
async function placeProgram(
  { workspace, placeholder, disk }: WorkspaceState,
  python: string,
  program: RunRequest['program'],
): Promise<PlacedProgram> {
  workspace.prepare();
  if (program.kind === 'command') {
    placeholder.remove();
    return { argv: program.argv, kind: 'command', release: () => undefined };
  }
  if (program.kind === 'runtime') throw new NoxError('unknown_runtime', `runtime: no ${program.runtime} yet`);
  const { code, filename, args } = program;
  let name: string;
  if (filename === undefined) {
    name = placeholder.claim();
  } else {
    placeholder.remove();
    await disk.refresh(Buffer.byteLength(code));
    const { saved } = await workspace.write(filename, [Buffer.from(code)], disk);
    name = relative(workspace.shown, saved);
    workspace.hold(name);
  }
  const shown = filename === undefined ? name : pathNames(filename).join('/');
  return {
    argv: [python, `${workspace.shown}/${shown}`, ...args],
    script: { name, code },
    kind: program.fresh === true ? 'fresh' : 'python',
    release: () => {
      workspace.release(name);
    },
  };
}

class Run {
  readonly #state: WorkspaceState;
  readonly #context: RunContext;
  readonly #order: RunOrder;
  readonly #stdout: BoundedOutput;
  readonly #stderr: BoundedOutput;
  #cause: ImposedCause | undefined;

  constructor(state: WorkspaceState, context: RunContext, order: RunOrder, emit: (event: RunEvent) => void) {
    this.#state = state;
    this.#context = context;
    this.#order = order;
    const bounded = (stream: 'stdout' | 'stderr') =>
      new BoundedOutput(order.limits.outputBytes, (data) => {
        emit({ type: 'output', stream, data });
      });
    this.#stdout = bounded('stdout');
    this.#stderr = bounded('stderr');
  }

  /** @returns undefined where the code found no place; nothing has run then */
  async execute(placed: PlacedProgram, signal: AbortSignal): Promise<RunResult | undefined> {
    const { launcher } = this.#context;
    const { slot, limits, log, request } = this.#order;
    const began = performance.now();
    const meter = this.#context.newMeter(limits);
    let end: LaunchEnd;
    let final: FinalSample;
    try {
      const launched = launcher.launch(slot, this.#plan(placed, meter), {
        stdout: (data) => {
          this.#stdout.write(data);
        },
        stderr: (data) => {
          this.#stderr.write(data);
        },
      });
      const impose = (cause: ImposedCause) => {
        this.#cause ??= cause;
        launched.kill();
      };
      const onAbort = () => {
        impose('cancelled');
      };
      if (signal.aborted) onAbort();
      signal.addEventListener('abort', onAbort, { once: true });
      const timeout = setTimeout(() => {
        impose('timeout');
      }, limits.wallSeconds * 1000);
      const sampling = setInterval(() => {
        this.#sample(meter, launched.pids(), impose);
      }, SAMPLE_MS);
      const unwatch = this.#state.disk.watch({
        stop: () => {
          impose('disk_limit');
        },
        pids: () => launched.pids(),
      });
      end = await launched.ended;
      clearTimeout(timeout);
      clearInterval(sampling);
      unwatch();
      signal.removeEventListener('abort', onAbort);
    } finally {
      final = meter.finish();
    }
    if (end.kind === 'no_place' && this.#cause === undefined) return undefined;
    this.#stdout.end();
    this.#stderr.end();
    const result = this.#result(end, final, (performance.now() - began) / 1000);
    if (result.outcome === 'sandbox_error')
      log.error({ requestId: request.id, reason: reasonOf(end) }, 'sandbox_error');
    return result;
  }

  #plan(placed: PlacedProgram, meter: Meter): LaunchPlan {
    const { request, limits } = this.#order;
    const { workspace } = this.#state;
    return {
      workspace: { from: workspace.path, at: workspace.shown },
      kind: placed.kind,
      argv: placed.argv,
      env: environment(this.#context.python),
      script: placed.script,
      stdin: request.stdin,
      limits,
      cgroup: meter.cgroup,
    };
  }

  #sample(meter: Meter, pids: readonly number[], impose: (cause: ImposedCause) => void): void {
    if (pids.length === 0) return;
    const sample = meter.sample(pids);
    const { limits } = this.#order;
    if (sample.cpuSeconds > limits.cpuSeconds) impose('cpu_limit');
    if (sample.memoryBytes > limits.memoryBytes) impose('memory_limit');
  }

  #result(end: LaunchEnd, final: FinalSample, wallSeconds: number): RunResult {
    const program = end.kind === 'program' ? end : undefined;
    const { limits } = this.#order;
    const cpuSeconds = program === undefined ? final.cpuSeconds : program.userSeconds + program.systemSeconds;
    const outcome = decideOutcome({
      cause: this.#cause,
      exitCode: program?.exitCode ?? null,
      signal: program?.signal ?? null,
      oomKilled: final.oomKilled,
      cpuLimitReached: cpuSeconds > CPU_LIMIT_NEAR * limits.cpuSeconds,
      processLimitHit: final.processLimitHit,
    });
    const limitName = outcome === 'disk_limit' && this.#cause === undefined ? 'fileBytes' : LIMIT_OF[outcome];
    return {
      outcome,
      exitCode: program?.exitCode ?? null,
      signal: program === undefined ? SIGKILL : program.signal,
      omitted: { stdout: this.#stdout.omitted, stderr: this.#stderr.omitted },
      ...(limitName === undefined
        ? {}
        : { limit: { name: limitName, value: this.#limitValue(limitName), unit: LIMITS[limitName].unit } }),
      usage: {
        wallSeconds,
        // A killed run reports nothing itself; the last measurement does not tell user from system time.
        userSeconds: program?.userSeconds ?? final.cpuSeconds,
        systemSeconds: program?.systemSeconds ?? 0,
        // The program's own figure is at least that of the zygote from which it was made.
        peakMemoryBytes: final.exact
          ? final.memoryBytes
          : Math.max(final.memoryBytes, program?.maxRssBytes ?? 0),
        peakProcesses: Math.max(1, final.processes),
        stdinBytes: Buffer.byteLength(this.#order.request.stdin ?? ''),
        stdoutBytes: this.#stdout.total,
        stderrBytes: this.#stderr.total,
      },
    };
  }

  #limitValue(name: LimitName): number {
    return name === 'workspaceBytes' ? this.#state.disk.limit : this.#order.limits[name];
  }
}

const SIGKILL = 9;

function reasonOf(end: LaunchEnd): string {
  return end.kind === 'broken' ? end.reason : `the run ended as ${JSON.stringify(end)}`;
}

/** All that a program finds in its environment. */
export function environment(python: string): Record<string, string> {
  const bin = python.startsWith('/usr/') ? '' : `${python.slice(0, python.lastIndexOf('/'))}:`;
  return { PATH: `${bin}/usr/local/bin:/usr/bin:/bin`, HOME: '/tmp', LANG: 'C.UTF-8', TMPDIR: '/tmp' };
}

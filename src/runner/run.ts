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
import type { DiskWatch } from './disk.ts';
import type { LaunchEnd, Launcher, LaunchPlan } from './launch.ts';
import type { FinalSample, Meter } from './meter.ts';
import { BoundedOutput } from './output.ts';
import { pathNames, type Workspace } from './workspace.ts';

/** How often a live run is measured. A shorter run costs no measurement at all. */
const SAMPLE_MS = 50;
/** The name under which code runs that was given none. */
const DEFAULT_SCRIPT = 'run.py';

/** What the runs of one runner share. */
export interface RunContext {
  readonly launcher: Launcher;
  readonly workspace: Workspace;
  readonly placeholder: Placeholder;
  readonly disk: DiskWatch;
  readonly python: string;
  newMeter(limits: Limits): Meter;
}

export interface RunOrder {
  readonly slot: number;
  readonly request: RunRequest;
  readonly limits: Limits;
  /** It has waited so long for its slot. */
  readonly queueSeconds: number;
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
const PLACEHOLDER_MS = 100;
/** How often a run looks for a place for its code while other runs of its workspace take it away. */
const PLACING_TRIES = 20;

/**
 * @param emit is given the output as it comes
 * @returns the result, when no process of the run is alive. A fault of the machine is a `sandbox_error` result, its
 *   reason in the log.
 * @throws NoxError for a filename that cannot be used
 */
export async function executeRun(
  context: RunContext,
  order: RunOrder,
  signal: AbortSignal,
  emit: (event: RunEvent) => void,
): Promise<RunResult> {
  const began = performance.now();
  for (let attempt = 0; attempt < PLACING_TRIES; attempt += 1) {
    const placed = await placeProgram(context, order.request.program);
    try {
      const result = await new Run(context, order, began, emit).execute(placed, signal);
      if (result !== undefined) return result;
      // Another run took the file away.
      context.placeholder.remove();
    } finally {
      placed.release();
    }
  }
  throw new NoxError('workspace_conflict', 'Other runs of the workspace keep removing the file of the code');
}

/**
 * The file on which code without a name is mounted, kept for a moment: the next run is likely to need it again, and
 * to unlink a file that is mounted on, be it in a dying namespace, waits for the whole kernel (an RCU grace period).
 * Gone before anything runs, is put or is listed that could see it.
 */
export class Placeholder {
  readonly #workspace: Workspace;
  #name: string | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(workspace: Workspace) {
    this.#workspace = workspace;
  }

  /** @returns its name, to be released as one that was claimed of the workspace */
  claim(): string {
    this.#name ??= this.#workspace.claim(DEFAULT_SCRIPT);
    this.#workspace.hold(this.#name);
    this.#timer ??= setTimeout(() => {
      this.remove();
    }, PLACEHOLDER_MS);
    this.#timer.refresh();
    return this.#name;
  }

  /** At once, or with the last run that has its code there. */
  remove(): void {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (this.#name !== undefined) this.#workspace.release(this.#name);
    this.#name = undefined;
  }
}

interface PlacedProgram {
  readonly argv: readonly string[];
  readonly script?: { readonly name: string; readonly code: string };
  readonly kind: LaunchPlan['kind'];
  release(): void;
}

/** Gives Python code its place in the workspace: saved under the name that was asked for, or standing in for none. */
async function placeProgram(context: RunContext, program: RunRequest['program']): Promise<PlacedProgram> {
  context.workspace.prepare();
  if (program.kind === 'command') {
    context.placeholder.remove();
    return { argv: program.argv, kind: 'command', release: () => undefined };
  }
  const { workspace, python } = context;
  const { code, filename, args } = program;
  let name: string;
  if (filename === undefined) {
    name = context.placeholder.claim();
  } else {
    context.placeholder.remove();
    await context.disk.refresh(Buffer.byteLength(code));
    const { saved } = await workspace.write(filename, [Buffer.from(code)], context.disk);
    name = relative(workspace.path, saved);
    workspace.hold(name);
  }
  const shown = filename === undefined ? name : pathNames(filename).join('/');
  return {
    argv: [python, `${workspace.path}/${shown}`, ...args],
    script: { name, code },
    kind: program.fresh === true ? 'fresh' : 'python',
    release: () => {
      workspace.release(name);
    },
  };
}

class Run {
  readonly #context: RunContext;
  readonly #order: RunOrder;
  readonly #stdout: BoundedOutput;
  readonly #stderr: BoundedOutput;
  readonly #placing: number;
  #cause: ImposedCause | undefined;

  /** @param placing when it had its slot, by performance.now() */
  constructor(context: RunContext, order: RunOrder, placing: number, emit: (event: RunEvent) => void) {
    this.#context = context;
    this.#order = order;
    this.#placing = placing;
    const bounded = (stream: 'stdout' | 'stderr') =>
      new BoundedOutput(order.limits.outputBytes, (data) => {
        emit({ type: 'output', stream, data });
      });
    this.#stdout = bounded('stdout');
    this.#stderr = bounded('stderr');
  }

  /** @returns undefined where the code found no place; nothing has run then */
  async execute(placed: PlacedProgram, signal: AbortSignal): Promise<RunResult | undefined> {
    const { launcher, disk } = this.#context;
    const { slot, limits, log, request } = this.#order;
    const began = performance.now();
    const meter = this.#context.newMeter(limits);
    let end: LaunchEnd;
    let begun: number | undefined;
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
      const unwatch = disk.watch({
        stop: () => {
          impose('disk_limit');
        },
        pids: () => launched.pids(),
      });
      end = await launched.ended;
      ({ begun } = launched);
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
    const now = performance.now();
    const ready = begun ?? now;
    const result = {
      ...this.#result(end, final, (now - began) / 1000),
      timings: {
        queueSeconds: this.#order.queueSeconds,
        prepareSeconds: (ready - this.#placing) / 1000,
        runSeconds: (now - ready) / 1000,
      },
    };
    if (result.outcome === 'sandbox_error')
      log.error({ requestId: request.id, reason: reasonOf(end) }, 'sandbox_error');
    return result;
  }

  #plan(placed: PlacedProgram, meter: Meter): LaunchPlan {
    const { request, limits } = this.#order;
    const { python, workspace } = this.#context;
    return {
      workspace: workspace.path,
      kind: placed.kind,
      argv: placed.argv,
      env: environment(python),
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
        : { limit: { name: limitName, value: limits[limitName], unit: LIMITS[limitName].unit } }),
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

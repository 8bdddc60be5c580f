/**
 * One run, from its slot to its result: places the code, launches, watches the limits, decides the outcome.
 *
 * States: placing → launched → ended. Whatever ends a run early calls `impose(cause)`: the first cause is kept,
 * process 1 is killed, and the result is made in one place when the launcher says that nothing is alive.
 */
import { setImmediate as turn } from 'node:timers/promises';
import type { Logger } from 'pino';
import { NoxError } from '../protocol/errors.ts';
import { LIMITS, type LimitName, type Limits } from '../protocol/limits.ts';
import { RunInput, type RunEvent, type RunRequest, type RunResult } from '../protocol/messages.ts';
import { decideOutcome, type ImposedCause, type Outcome } from '../protocol/outcome.ts';
import { validator } from '../protocol/validate.ts';
import type { LaunchedRun, LaunchEnd, Launcher, LaunchPlan } from './launch.ts';
import type { FinalSample, Meter, Sample } from './meter.ts';
import { changesBetween, look } from './changes.ts';
import { placeProgram, shownAs, type Place, type PlacedProgram } from './program.ts';
import type { Runtimes } from './runtime.ts';
import { Streams } from './streams.ts';
import { terminalFrames } from './terminal.ts';
import { DEFAULT_WORKSPACE, type Workspaces } from './workspaces.ts';

/** How often a live run is measured. A shorter run costs no measurement at all. */
const SAMPLE_MS = 50;

/** What the runs of one runner share. */
export interface RunContext {
  readonly launcher: Launcher;
  readonly workspaces: Pick<Workspaces, 'get' | 'close' | 'shown'>;
  readonly python: string;
  readonly runtimes: Runtimes;
  newMeter(limits: Limits): Meter;
}

/** Where the events of a run go. */
export interface RunSink {
  push(event: RunEvent): void;
  /** Set by the run: called when events wait to be taken, and when they have been. */
  onFull: ((full: boolean) => void) | undefined;
}

export interface RunOrder {
  readonly slot: number;
  readonly request: RunRequest;
  readonly limits: Limits;
  /** What an interactive run is told. */
  readonly input?: AsyncIterable<RunInput> | undefined;
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
/** How often a run looks for a place for its code while other runs of its workspace take it away. */
const PLACING_TRIES = 20;

/**
 * @param stop ends the run; also called here, when its workspace is taken away
 * @param sink is given the output as it comes
 * @returns the result, when no process of the run is alive. A fault of the machine is a `sandbox_error` result, its
 *   reason in the log.
 * @throws NoxError for a filename or a workspace that cannot be used
 */
export async function executeRun(
  context: RunContext,
  order: RunOrder,
  stop: AbortController,
  sink: RunSink,
): Promise<RunResult> {
  const place = placeOf(context, order.request);
  if ('group' in place) return executeIn(place, context, order, stop.signal, sink);
  const leave = place.enter(() => {
    stop.abort('workspace');
  });
  try {
    const full = await place.disk.isFull();
    const limits = full ? { ...order.limits, fileBytes: 0 } : order.limits;
    return await executeIn(place, context, { ...order, limits }, stop.signal, sink);
  } finally {
    leave();
  }
}

function placeOf({ workspaces }: RunContext, { workspace }: RunRequest): Place {
  if (workspace === undefined) return workspaces.get(DEFAULT_WORKSPACE);
  if ('id' in workspace) return workspaces.get(workspace.id);
  return { group: workspace.scratch, at: workspaces.shown };
}

async function executeIn(
  place: Place,
  context: RunContext,
  order: RunOrder,
  signal: AbortSignal,
  sink: RunSink,
): Promise<RunResult> {
  const placing = performance.now();
  const { python, runtimes } = context;
  const { request, limits } = order;
  for (let attempt = 0; attempt < PLACING_TRIES; attempt += 1) {
    const placed = await placeProgram({ place, python, runtimes, request, limits });
    if (attempt === 0 && request.output === 'all') {
      sink.push({ type: 'started' });
      // It is on its way before anything runs: who has not heard it, when this runner dies, may run it again.
      await turn();
    }
    const before = request.changes === true && !('group' in place) ? await look(place) : undefined;
    try {
      const result = await new Run(place, placed, context, order, sink).execute(signal, placing);
      if (result !== undefined && before !== undefined && !('group' in place))
        return { ...result, changes: changesBetween(before, await look(place)) };
      if (result !== undefined) return result;
      // Another run took the file away.
      if (!('group' in place)) place.placeholder.remove();
    } finally {
      placed.release();
    }
  }
  throw new NoxError('workspace_conflict', 'Other runs of the workspace keep removing the file of the code');
}

class Run {
  readonly #place: Place;
  readonly #placed: PlacedProgram;
  readonly #context: RunContext;
  readonly #order: RunOrder;
  readonly #sink: RunSink;
  readonly #streams: Streams;
  readonly #began = performance.now();
  /** Whoever reads the events knows that it has begun. */
  #told: boolean;
  #compiledAt: number | undefined;
  #timeout: NodeJS.Timeout | undefined;
  #cause: ImposedCause | undefined;

  constructor(place: Place, placed: PlacedProgram, context: RunContext, order: RunOrder, sink: RunSink) {
    this.#place = place;
    this.#placed = placed;
    this.#context = context;
    this.#order = order;
    this.#sink = sink;
    const { request, limits } = order;
    this.#told = request.output === 'all';
    const kept = request.output === 'all' ? Infinity : limits.outputBytes;
    const emit = (event: RunEvent) => {
      sink.push(event);
    };
    this.#streams = new Streams(kept, emit, placed.mark, () => {
      this.#compiledAt = performance.now();
      // What a compiler takes is not the program's.
      this.#timeout?.refresh();
    });
  }

  /**
   * @param placing when it had its slot, by performance.now()
   * @returns undefined where the code found no place; nothing has run then
   */
  async execute(signal: AbortSignal, placing: number): Promise<RunResult | undefined> {
    const { launcher } = this.#context;
    const { slot, limits, log, request, input } = this.#order;
    const meter = this.#context.newMeter(limits);
    let end: LaunchEnd;
    let begun: number | undefined;
    let final: FinalSample;
    try {
      const launched = launcher.launch(slot, this.#plan(meter), {
        stdout: (data) => {
          this.#streams.write('stdout', data);
        },
        stderr: (data) => {
          this.#streams.write('stderr', data);
        },
      });
      if (request.output === 'all')
        this.#sink.onFull = (full) => {
          launched.flow(!full);
        };
      if (request.interactive === true && input !== undefined)
        void feed(launched, input, this.#place, request.terminal !== undefined);
      const impose = (cause: ImposedCause) => {
        this.#cause ??= cause;
        launched.kill();
      };
      const onAbort = () => {
        impose('cancelled');
      };
      if (signal.aborted) onAbort();
      signal.addEventListener('abort', onAbort, { once: true });
      this.#timeout = setTimeout(() => {
        impose('timeout');
      }, limits.wallSeconds * 1000);
      const sampling = setInterval(() => {
        this.#sample(meter, launched.pids(), impose);
      }, SAMPLE_MS);
      const disk = 'group' in this.#place ? undefined : this.#place.disk;
      const unwatch = disk?.watch({
        stop: () => {
          impose('disk_limit');
        },
        pids: () => launched.pids(),
      });
      end = await launched.ended;
      ({ begun } = launched);
      clearTimeout(this.#timeout);
      clearInterval(sampling);
      unwatch?.();
      signal.removeEventListener('abort', onAbort);
    } finally {
      final = meter.finish();
    }
    if (end.kind === 'no_place' && this.#cause === undefined) return undefined;
    this.#streams.end();
    const now = performance.now();
    const ready = begun ?? now;
    const result = {
      ...this.#result(end, final),
      timings: {
        queueSeconds: this.#order.queueSeconds,
        prepareSeconds: (ready - placing) / 1000,
        runSeconds: (now - ready) / 1000,
      },
    };
    if (result.outcome === 'sandbox_error')
      log.error({ requestId: request.id, reason: reasonOf(end) }, 'sandbox_error');
    return result;
  }

  #plan(meter: Meter): LaunchPlan {
    const { request, limits } = this.#order;
    const { kind, argv, env, script, files } = this.#placed;
    return {
      workspace: shownAs(this.#place),
      kind,
      argv,
      env: { ...environment(this.#context.python), ...env },
      script,
      files,
      stdin: request.stdin,
      interactive: request.interactive,
      limits,
      cgroup: meter.cgroup,
    };
  }

  /** How far a run with a compiler came, and what that took. */
  #stage(): Pick<RunResult, 'stage' | 'compileSeconds'> {
    const { stage } = this.#streams;
    if (stage === undefined) return {};
    return { stage, compileSeconds: ((this.#compiledAt ?? performance.now()) - this.#began) / 1000 };
  }

  #sample(meter: Meter, pids: readonly number[], impose: (cause: ImposedCause) => void): void {
    if (pids.length === 0) return;
    if (!this.#told) this.#sink.push({ type: 'started' });
    this.#told = true;
    const sample = sampleOf(meter, pids);
    if (sample === undefined) return;
    const { limits } = this.#order;
    if (sample.cpuSeconds > limits.cpuSeconds) impose('cpu_limit');
    if (sample.memoryBytes > limits.memoryBytes) impose('memory_limit');
  }

  #result(end: LaunchEnd, final: FinalSample): RunResult {
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
    // 0: the workspace was full before the run.
    const byFile = outcome === 'disk_limit' && this.#cause === undefined && limits.fileBytes > 0;
    const limitName = byFile ? 'fileBytes' : LIMIT_OF[outcome];
    return {
      outcome,
      exitCode: program?.exitCode ?? null,
      signal: program === undefined ? SIGKILL : program.signal,
      omitted: { stdout: this.#streams.omitted('stdout'), stderr: this.#streams.omitted('stderr') },
      ...this.#stage(),
      ...(limitName === undefined
        ? {}
        : { limit: { name: limitName, value: this.#limitValue(limitName), unit: LIMITS[limitName].unit } }),
      usage: {
        wallSeconds: secondsSince(this.#began),
        // A killed run reports nothing itself; the last measurement does not tell user from system time.
        userSeconds: program?.userSeconds ?? final.cpuSeconds,
        systemSeconds: program?.systemSeconds ?? 0,
        // The program's own figure is at least that of the zygote from which it was made.
        peakMemoryBytes: final.exact
          ? final.memoryBytes
          : Math.max(final.memoryBytes, program?.maxRssBytes ?? 0),
        peakProcesses: Math.max(1, final.processes),
        stdinBytes: Buffer.byteLength(this.#order.request.stdin ?? ''),
        stdoutBytes: this.#streams.total('stdout'),
        stderrBytes: this.#streams.total('stderr'),
      },
    };
  }

  #limitValue(name: LimitName): number {
    const scratch = 'group' in this.#place;
    return name === 'workspaceBytes' && !scratch ? this.#place.disk.limit : this.#order.limits[name];
  }
}

/** One that cannot be read, since no file can be opened (EMFILE), is missed: the next is due in a moment. */
function sampleOf(meter: Meter, pids: readonly number[]): Sample | undefined {
  try {
    return meter.sample(pids);
  } catch {
    return undefined;
  }
}

const SIGKILL = 9;
const secondsSince = (milliseconds: number): number => (performance.now() - milliseconds) / 1000;
const checkInput = validator(RunInput);

/** Input that a program has not read, of which a signal does not wait for the reading. */
const UNREAD_BYTES = 4 * 1024 * 1024;
/** What a piece of it takes in memory besides its bytes, about. */
const PIECE_COSTS = 512;

/** What comes late, or is no input, is for nobody. */
async function feed(
  launched: LaunchedRun,
  input: AsyncIterable<RunInput>,
  place: Place,
  terminal: boolean,
): Promise<void> {
  let unread = 0;
  try {
    for await (const each of input) {
      if (terminal) {
        const checked = each.type === 'stdin' ? each : checkInput(each);
        for (const frame of terminalFrames(checked)) await launched.write(frame);
        continue;
      }
      if (each.type === 'stdin') {
        const size = each.data.length + PIECE_COSTS;
        unread += size;
        const written = launched.write(each.data).then(() => {
          unread -= size;
        });
        if (unread > UNREAD_BYTES) await written;
        continue;
      }
      const checked = checkInput(each);
      if (checked.type === 'stdin_end') launched.endInput();
      else if (checked.type === 'signal') {
        // A run that is held still while it is counted (freeze.ts) is not to be woken.
        if (!('group' in place)) await place.disk.still();
        launched.signal(checked.signal);
      }
    }
  } catch {
    // The reader of the result hears of a client that has gone.
  }
}

function reasonOf(end: LaunchEnd): string {
  return end.kind === 'broken' ? end.reason : `the run ended as ${JSON.stringify(end)}`;
}

/** All that a program finds in its environment. */
export function environment(python: string): Record<string, string> {
  const bin = python.startsWith('/usr/') ? '' : `${python.slice(0, python.lastIndexOf('/'))}:`;
  return { PATH: `${bin}/usr/local/bin:/usr/bin:/bin`, HOME: '/tmp', LANG: 'C.UTF-8', TMPDIR: '/tmp' };
}

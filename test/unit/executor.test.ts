import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, mock, test } from 'node:test';
import { setImmediate, setTimeout as sleep } from 'node:timers/promises';
import pino from 'pino';
import { ERRORS, NoxError } from '../../src/protocol/errors.ts';
import { FILE_BYTES, LIMIT_NAMES, LIMITS, type Limits } from '../../src/protocol/limits.ts';
import type { RunEvent, RunInput, RunRequest, RunResult } from '../../src/protocol/messages.ts';
import { DiskWatch, type DiskUser } from '../../src/runner/disk.ts';
import { loadRuntimes } from '../../src/runner/runtime.ts';
import { LocalExecutor } from '../../src/runner/executor.ts';
import type { LaunchedRun, LaunchEnd, Launcher, LaunchPlan, OutputSink } from '../../src/runner/launch.ts';
import type { FinalSample, Meter, Sample } from '../../src/runner/meter.ts';
import type { Handlers } from '../../src/runner/operations.ts';
import { Workspace } from '../../src/runner/workspace.ts';
import { WorkspaceState } from '../../src/runner/workspace-state.ts';

const MIB = 2 ** 20;
const DEADLINE_MS = 10_000;
const MAX_LIMITS = Object.fromEntries(LIMIT_NAMES.map((name) => [name, LIMITS[name].default])) as Limits;
const NEVER = new AbortController().signal;

const ended = (exitCode: number | null, signal: number | null = null): LaunchEnd => ({
  kind: 'program',
  exitCode,
  signal,
  userSeconds: 0.25,
  systemSeconds: 0.5,
  maxRssBytes: 5 * MIB,
});
const BROKEN: LaunchEnd = { kind: 'broken', reason: 'bwrap: no such thing' };

/** A run that does what the test says. */
class FakeRun implements LaunchedRun {
  readonly slot: number;
  readonly plan: LaunchPlan;
  readonly sink: OutputSink;
  kills = 0;
  flowing = true;
  /** Signals, input, and its end. */
  readonly told: (number | string)[] = [];
  alive = true;
  readonly begun = performance.now();
  readonly ended: Promise<LaunchEnd>;
  #end: (end: LaunchEnd) => void = () => undefined;

  constructor(slot: number, plan: LaunchPlan, sink: OutputSink) {
    this.slot = slot;
    this.plan = plan;
    this.sink = sink;
    this.ended = new Promise((resolve) => {
      this.#end = resolve;
    });
  }

  pids(): readonly number[] {
    return this.alive ? [4711, 4712] : [];
  }
  kill(): void {
    this.kills += 1;
  }
  signal(number: number): void {
    this.told.push(number);
  }
  write(data: Uint8Array): Promise<void> {
    this.told.push(Buffer.from(data).toString());
    return Promise.resolve();
  }
  endInput(): void {
    this.told.push('end');
  }
  flow(on: boolean): void {
    this.flowing = on;
  }
  end(end: LaunchEnd = ended(0)): void {
    this.alive = false;
    this.#end(end);
  }
}

class FakeLauncher implements Launcher {
  readonly runs: FakeRun[] = [];
  failure: Error | undefined;
  closed = false;

  launch(slot: number, plan: LaunchPlan, sink: OutputSink): LaunchedRun {
    if (this.failure !== undefined) throw this.failure;
    assert.ok(!this.closed, 'nothing is launched by a launcher that is closed');
    assert.ok(!this.runs.some((run) => run.alive && run.slot === slot), `slot ${String(slot)} is free`);
    const run = new FakeRun(slot, plan, sink);
    this.runs.push(run);
    return run;
  }
  status() {
    return { workspaces: 1, zygotes: 1, cells: 2, memoryBytes: 3 };
  }
  close(): Promise<void> {
    assert.ok(!this.runs.some((run) => run.alive), 'no run is alive when the launcher is closed');
    this.closed = true;
    return Promise.resolve();
  }
}

class FakeMeter implements Meter {
  now: Sample = { memoryBytes: 3 * MIB, cpuSeconds: 0.1, processes: 2 };
  found = { exact: false, oomKilled: false, processLimitHit: false };
  finished = 0;

  sample(): Sample {
    return this.now;
  }
  finish(): FinalSample {
    this.finished += 1;
    return { ...this.now, ...this.found };
  }
}

/** Counts by itself, so that no bubblewrap is needed; the runs' callbacks are the test's to call. */
class FakeDisk extends DiskWatch {
  readonly stops = new Set<() => void>();
  override isFull(): Promise<boolean> {
    return Promise.resolve(false);
  }
  override watch(user: DiskUser): () => void {
    const stop = () => {
      user.stop();
    };
    this.stops.add(stop);
    return () => this.stops.delete(stop);
  }
  override async ready(bytes: number): Promise<void> {
    if (bytes > this.room) await this.count();
  }
  override count(): Promise<void> {
    const files = readdirSync(dir, { withFileTypes: true, recursive: true }).filter((entry) =>
      entry.isFile(),
    );
    const bytes = files.reduce((sum, { parentPath, name }) => sum + statSync(join(parentPath, name)).size, 0);
    this.giveBack(this.used - bytes);
    return Promise.resolve();
  }
}

let dir: string;
let launcher: FakeLauncher;
let meters: FakeMeter[];
let meterFailure: Error | undefined;
let disk: FakeDisk;
let logged: string;
let executor: LocalExecutor;

interface Setting {
  readonly slots?: number;
  /** Of each workspace, in its place. */
  readonly refusal?: () => NoxError | undefined;
  readonly disk?: DiskWatch;
}

function make({ slots = 1, disk: watched = disk, refusal }: Setting = {}): LocalExecutor {
  const state = new WorkspaceState('default', new Workspace(dir), watched);
  return new LocalExecutor({
    context: {
      launcher,
      workspaces: {
        get: () => {
          const error = refusal?.();
          if (error !== undefined) throw error;
          return state;
        },
        shown: dir,
        close: () => {
          state.placeholder.remove();
        },
      },
      python: '/usr/bin/python3',
      runtimes: loadRuntimes('/nonexistent').runtimes,
      newMeter: () => {
        if (meterFailure !== undefined) throw meterFailure;
        const meter = new FakeMeter();
        meters.push(meter);
        return meter;
      },
    },
    slots: { slots, queue: 2, waitSeconds: 60 },
    limits: MAX_LIMITS,
    maxUploadBytes: 1000,
    // None of them is called here.
    handlers: { ask: {}, send: {}, fetch: {} } as unknown as Handlers,
    log: pino({ level: 'trace' }, { write: (line: string) => void (logged += line) }),
  });
}

beforeEach(() => {
  dir = join(realpathSync(mkdtempSync(join(tmpdir(), 'nox-executor-'))), 'w');
  mkdirSync(dir);
  launcher = new FakeLauncher();
  meters = [];
  meterFailure = undefined;
  disk = new FakeDisk(dir, 100 * MIB, assert.ifError);
  logged = '';
  executor = make();
});
afterEach(() => {
  // Not waited for: some runs have no end. It takes back the timer of the next try, which would outlive the test.
  executor.close().catch(() => undefined);
  mock.timers.reset();
  rmSync(join(dir, '..'), { recursive: true });
});

async function until(what: string, reached: () => boolean): Promise<void> {
  const deadline = performance.now() + DEADLINE_MS;
  while (!reached()) {
    assert.ok(performance.now() < deadline, `in time: ${what}`);
    await setImmediate();
  }
}

/** Enough turns of the loop for whatever needs no timer and no disk. */
async function quiet(): Promise<void> {
  for (let turn = 0; turn < 50; turn += 1) await setImmediate();
}

/** Resolves in time, or tells what did not. */
async function inTime<T>(what: string, promise: Promise<T>): Promise<T> {
  const deadline = performance.now() + DEADLINE_MS / 5;
  const state = { done: false };
  const finish = () => {
    state.done = true;
  };
  promise.then(finish, finish);
  while (!state.done) {
    assert.ok(performance.now() < deadline, `in time: ${what}`);
    await setImmediate();
  }
  return promise;
}

const COMMAND: RunRequest = { id: 'r1', program: { kind: 'command', argv: ['true'] } };
const PYTHON: RunRequest = { id: 'r1', program: { kind: 'python', code: 'print(1)', args: [] } };

class Call {
  readonly abort = new AbortController();
  readonly events: RunEvent[] = [];
  /** The result, or what the call threw. */
  readonly settled: Promise<RunResult>;

  constructor(request: RunRequest = COMMAND) {
    this.settled = this.#read(request);
    this.settled.catch(() => undefined);
  }

  async #read(request: RunRequest): Promise<RunResult> {
    for await (const event of executor.run(request, this.abort.signal)) {
      this.events.push(event);
      if (event.type === 'end') return event.result;
    }
    return assert.fail('the run has an end');
  }

  output(stream: 'stdout' | 'stderr'): string {
    return this.events
      .map((event) => (event.type === 'output' && event.stream === stream ? String(event.data) : ''))
      .join('');
  }
}

async function launched(count = 1): Promise<FakeRun> {
  await until(`run ${String(count)} is launched`, () => launcher.runs.length >= count);
  const run = launcher.runs[count - 1];
  assert.ok(run !== undefined);
  return run;
}

/** The outcome, or the code of the refusal. */
const toldOf = (call: Call): Promise<string> =>
  call.settled.then(
    (result) => result.outcome,
    (error: unknown) => (error instanceof NoxError ? error.code : String(error)),
  );

/** The outcome of the last run in the log: it is there for runs whose client is gone too. */
function loggedOutcome(): string | undefined {
  const lines = logged.split('\n').filter(Boolean);
  const outcomes = lines.map((line) => (JSON.parse(line) as { outcome?: string }).outcome);
  return outcomes.findLast((outcome) => outcome !== undefined);
}

async function runTo(end: LaunchEnd, request: RunRequest = COMMAND): Promise<RunResult> {
  const before = launcher.runs.length;
  const call = new Call(request);
  (await launched(before + 1)).end(end);
  return call.settled;
}

/** The file on which code was mounted stays for a moment (run.ts), and no longer. */
async function emptied(): Promise<void> {
  const deadline = performance.now() + 2000;
  while (readdirSync(dir).length > 0 && performance.now() < deadline) await sleep(10);
  assert.deepEqual(readdirSync(dir), []);
}

describe('LocalExecutor.run', () => {
  test('a scratch workspace needs no other one', async () => {
    executor = make({ refusal: () => new NoxError('workspace_conflict', 'being restored') });
    assert.equal(await toldOf(new Call()), 'workspace_conflict');
    assert.equal((await runTo(ended(0), { ...COMMAND, workspace: { scratch: 'group' } })).outcome, 'ok');
  });

  test('what is printed comes as it is printed, then exactly one end', async () => {
    const call = new Call();
    const run = await launched();
    run.sink.stdout(Buffer.from('one '));
    run.sink.stderr(Buffer.from('two '));
    await until('output has come', () => call.events.length === 2);
    run.sink.stdout(Buffer.from('three'));
    run.end();
    const result = await call.settled;
    assert.equal(call.output('stdout'), 'one three');
    assert.equal(call.output('stderr'), 'two ');
    assert.deepEqual(
      call.events.map((event) => event.type),
      ['output', 'output', 'output', 'end'],
    );
    assert.deepEqual([result.outcome, result.exitCode, result.signal], ['ok', 0, null]);
    assert.deepEqual(
      { ...result.usage, wallSeconds: 0 },
      {
        wallSeconds: 0,
        userSeconds: 0.25,
        systemSeconds: 0.5,
        peakMemoryBytes: 5 * MIB,
        peakProcesses: 2,
        stdinBytes: 0,
        stdoutBytes: 9,
        stderrBytes: 4,
      },
    );
  });

  test('output beyond its limit is cut, and both the result and the text say so', async () => {
    const call = new Call({ ...COMMAND, limits: { outputBytes: 1024 } });
    const run = await launched();
    run.sink.stdout(Buffer.alloc(5000, 'x'));
    run.end();
    assert.deepEqual((await call.settled).omitted, { stdout: 5000 - 1024, stderr: 0 });
    assert.match(call.output('stdout'), /^x{512}\n\[nox: 3976 bytes left out\]\nx{512}$/);
  });

  for (const [what, end, expected] of [
    ['exit code', ended(3), { outcome: 'failed', exitCode: 3, signal: null }],
    ['signal', ended(null, 11), { outcome: 'signaled', exitCode: null, signal: 11 }],
    ['broken sandbox', BROKEN, { outcome: 'sandbox_error', exitCode: null, signal: 9 }],
  ] as const) {
    test(`a ${what} is told as ${expected.outcome}`, async () => {
      const { outcome, exitCode, signal, limit } = await runTo(end);
      assert.deepEqual({ outcome, exitCode, signal }, expected);
      assert.equal(limit, undefined);
    });
  }

  test('the reason of a broken sandbox is in the log and not in the answer', async () => {
    const result = await runTo(BROKEN);
    assert.ok(!JSON.stringify(result).includes('bwrap'));
    assert.match(logged, /"requestId":"r1".*bwrap: no such thing/);
  });

  test('SIGXFSZ names the limit of a file, SIGXCPU that of the CPU time', async () => {
    assert.deepEqual((await runTo(ended(null, 25))).limit, {
      name: 'fileBytes',
      value: MAX_LIMITS.fileBytes,
      unit: 'bytes',
    });
    const limits = { cpuSeconds: 1 };
    const end = { ...ended(null, 24), userSeconds: 0.6, systemSeconds: 0.5 } as LaunchEnd;
    const { outcome, limit } = await runTo(end, { ...COMMAND, limits });
    assert.deepEqual([outcome, limit], ['cpu_limit', { name: 'cpuSeconds', value: 1, unit: 'seconds' }]);
  });

  test('the plan: arguments, environment without anything of the server’s, limits, input', async () => {
    process.env['NOX_TEST_SECRET'] = 'x';
    await runTo(ended(0), { ...COMMAND, stdin: 'in', limits: { processes: 5 } });
    delete process.env['NOX_TEST_SECRET'];
    const plan = launcher.runs[0]?.plan;
    assert.deepEqual(plan?.argv, ['true']);
    assert.deepEqual(Object.keys(plan.env).sort(), ['HOME', 'LANG', 'PATH', 'TMPDIR']);
    assert.deepEqual(plan.limits, { ...MAX_LIMITS, processes: 5 });
    assert.equal(plan.stdin, 'in');
    assert.deepEqual(plan.workspace, { from: dir, at: dir });
    assert.equal(plan.script, undefined);
  });
});

describe('what ends a run early', () => {
  test('timeout: after the wall time, not before; the answer waits for the death', async () => {
    mock.timers.enable({ apis: ['setTimeout', 'setInterval'] });
    const call = new Call({ ...COMMAND, limits: { wallSeconds: 2 } });
    const run = await launched();
    run.sink.stdout(Buffer.from('so far'));
    mock.timers.tick(1999);
    assert.equal(run.kills, 0);
    mock.timers.tick(1);
    assert.equal(run.kills, 1);
    await quiet();
    assert.ok(!call.events.some((event) => event.type === 'end'));
    run.end({ kind: 'killed' });
    const { outcome, limit, exitCode, signal } = await call.settled;
    assert.deepEqual([outcome, exitCode, signal], ['timeout', null, 9]);
    assert.deepEqual(limit, { name: 'wallSeconds', value: 2, unit: 'seconds' });
    assert.equal(call.output('stdout'), 'so far');
  });

  test('timeout: waiting for a slot does not count', async () => {
    mock.timers.enable({ apis: ['setTimeout', 'setInterval'] });
    const [, second] = [new Call(), new Call({ ...COMMAND, limits: { wallSeconds: 2 } })];
    const first = await launched();
    mock.timers.tick(15_000);
    first.end();
    const run = await launched(2);
    mock.timers.tick(1999);
    assert.equal(run.kills, 0);
    run.end();
    assert.equal((await second.settled).outcome, 'ok');
  });

  test('a run that is over is not ended by its timeout', async () => {
    mock.timers.enable({ apis: ['setTimeout', 'setInterval'] });
    await runTo(ended(0));
    mock.timers.tick(1000 * MAX_LIMITS.wallSeconds);
    assert.equal(launcher.runs[0]?.kills, 0);
    assert.equal(disk.stops.size, 0);
  });

  test('cancelled: the signal kills', async () => {
    const call = new Call();
    const run = await launched();
    call.abort.abort();
    assert.equal(run.kills, 1);
    run.end({ kind: 'killed' });
    await assert.rejects(call.settled, { code: 'cancelled' });
    assert.equal(loggedOutcome(), 'cancelled');
  });

  test('a signal to a run that is held still while it is counted waits, and does not wake it', async () => {
    const held = Promise.withResolvers<undefined>();
    disk.still = () => held.promise;
    const input = async function* (): AsyncGenerator<RunInput> {
      yield { type: 'stdin', data: Buffer.from('a') };
      yield { type: 'signal', signal: 18 };
      yield { type: 'stdin_end' };
      await new Promise(() => undefined);
    };
    const events = executor.run({ ...COMMAND, interactive: true }, NEVER, input());
    const ended = (async () => {
      for await (const event of events) if (event.type === 'end') return event.result.outcome;
      return undefined;
    })();
    const run = await launched();
    for (let turn = 0; turn < 10; turn += 1) await setImmediate();
    assert.deepEqual(run.told, ['a']);
    held.resolve(undefined);
    for (let turn = 0; turn < 10; turn += 1) await setImmediate();
    assert.deepEqual(run.told, ['a', 18, 'end']);
    run.end();
    assert.equal(await ended, 'ok');
  });

  test('cancelled: while it waits for a slot it is never launched', async () => {
    const [, waiting] = [new Call(), new Call()];
    const run = await launched();
    waiting.abort.abort();
    await assert.rejects(waiting.settled, { code: 'cancelled' });
    run.end();
    await quiet();
    assert.equal(launcher.runs.length, 1);
  });

  test('cancelled: between slot and launch it is killed at once', async () => {
    const call = new Call(PYTHON);
    call.abort.abort();
    const run = await launched();
    assert.ok(run.kills > 0);
    run.end({ kind: 'killed' });
    await assert.rejects(call.settled, { code: 'cancelled' });
  });

  test('who leaves the loop ends the run, and gets out when it is dead', async () => {
    const events = executor.run(COMMAND, NEVER);
    const first = events.next();
    const run = await launched();
    run.sink.stdout(Buffer.from('x'));
    await first;
    let left = false;
    const leaving = events.return(undefined).then(() => {
      left = true;
    });
    await until('it is killed', () => run.kills > 0);
    await quiet();
    assert.equal(left, false);
    run.end({ kind: 'killed' });
    await leaving;
  });

  test('CPU time and memory of a sample over their limit', async () => {
    for (const [over, outcome, name] of [
      [{ cpuSeconds: 60.01 }, 'cpu_limit', 'cpuSeconds'],
      [{ memoryBytes: 512 * MIB + 1 }, 'memory_limit', 'memoryBytes'],
    ] as const) {
      mock.timers.enable({ apis: ['setTimeout', 'setInterval'] });
      const count = launcher.runs.length + 1;
      const call = new Call();
      const run = await launched(count);
      const meter = meters.at(-1);
      assert.ok(meter !== undefined);
      meter.now = { ...meter.now, cpuSeconds: 60, memoryBytes: 512 * MIB };
      mock.timers.tick(100);
      const killsAtLimit = run.kills;
      meter.now = { ...meter.now, ...over };
      mock.timers.tick(100);
      assert.deepEqual([killsAtLimit, run.kills > 0], [0, true], 'exactly the limit is allowed');
      run.end({ kind: 'killed' });
      const result = await call.settled;
      assert.deepEqual([result.outcome, result.limit?.name], [outcome, name]);
      mock.timers.reset();
    }
  });

  test('the workspace over its limit', async () => {
    const call = new Call();
    const run = await launched();
    for (const stop of disk.stops) stop();
    assert.equal(run.kills, 1);
    run.end({ kind: 'killed' });
    const { outcome, limit } = await call.settled;
    assert.deepEqual([outcome, limit?.name], ['disk_limit', 'workspaceBytes']);
  });

  test('the OOM killer, though the run reports nothing', async () => {
    const call = new Call();
    const run = await launched();
    for (const meter of meters) meter.found.oomKilled = true;
    run.end(BROKEN);
    assert.equal((await call.settled).outcome, 'memory_limit');
  });

  test('the first cause wins, in every order, and over what the program reports', async () => {
    const causes: Record<string, (call: Call) => void> = {
      timeout: () => {
        mock.timers.tick(1000 * MAX_LIMITS.wallSeconds);
      },
      cancelled: (call) => {
        call.abort.abort();
      },
      disk_limit: () => {
        for (const stop of disk.stops) stop();
      },
      memory_limit: () => {
        for (const meter of meters) meter.now = { ...meter.now, memoryBytes: 2 ** 40 };
        mock.timers.tick(50);
      },
      cpu_limit: () => {
        for (const meter of meters) meter.now = { ...meter.now, cpuSeconds: 1e6 };
        mock.timers.tick(50);
      },
    };
    for (const first of Object.keys(causes)) {
      for (const second of Object.keys(causes)) {
        mock.timers.enable({ apis: ['setTimeout', 'setInterval'] });
        const count = launcher.runs.length + 1;
        const call = new Call();
        const run = await launched(count);
        causes[first]?.(call);
        causes[second]?.(call);
        run.end(ended(0));
        const aborted = [first, second].includes('cancelled');
        assert.equal(await toldOf(call), aborted ? 'cancelled' : first, `${first}, then ${second}`);
        assert.equal(loggedOutcome(), first, `${first}, then ${second}`);
        mock.timers.reset();
      }
    }
  });
});

test('a sample that cannot be read is missed, and the next one counts', async () => {
  mock.timers.enable({ apis: ['setTimeout', 'setInterval'] });
  const call = new Call();
  const run = await launched();
  const [meter] = meters;
  assert.ok(meter !== undefined);
  const failing = mock.method(meter, 'sample', () => {
    throw new Error('EMFILE');
  });
  mock.timers.tick(50);
  assert.deepEqual([failing.mock.callCount(), run.kills], [1, 0]);
  failing.mock.restore();
  meter.now = { ...meter.now, memoryBytes: 512 * MIB + 1 };
  mock.timers.tick(50);
  run.end({ kind: 'killed' });
  assert.equal((await call.settled).outcome, 'memory_limit');
});

describe('what a run holds', () => {
  const failures: readonly (readonly [string, () => void])[] = [
    [
      'a launch that throws',
      () => {
        launcher.failure = new Error('EMFILE');
      },
    ],
    [
      'a meter that cannot be made',
      () => {
        meterFailure = new Error('ENOSPC');
      },
    ],
  ];

  for (const [what, fail] of failures) {
    test(`after ${what} it is sandbox_error, and slot, claim and meter are free`, async () => {
      fail();
      assert.equal(await toldOf(new Call(PYTHON)), 'sandbox_error');
      await emptied();
      assert.ok(meters.every((meter) => meter.finished === 1));
      launcher.failure = undefined;
      meterFailure = undefined;
      assert.equal((await runTo(ended(0))).outcome, 'ok');
    });

    test(`after ${what} the runner is not healthy: no code can run`, async () => {
      fail();
      await new Call().settled.catch(() => undefined);
      assert.equal((await executor.health()).ok, false);
    });
  }

  test('a slot is given on only when the run is dead', async () => {
    const calls = [new Call(), new Call(), new Call()];
    const first = await launched();
    calls[0]?.abort.abort();
    await quiet();
    assert.equal(launcher.runs.length, 1, 'killed is not dead');
    first.end({ kind: 'killed' });
    (await launched(2)).end();
    (await launched(3)).end();
    assert.deepEqual(await Promise.all(calls.map(toldOf)), ['cancelled', 'ok', 'ok']);
  });

  test('the meter is finished once, however the run ends', async () => {
    for (const end of [ended(0), ended(null, 9), { kind: 'killed' } as const, BROKEN]) await runTo(end);
    assert.deepEqual(
      meters.map((meter) => meter.finished),
      [1, 1, 1, 1],
    );
  });

  test('its status, and how long a run has waited', async () => {
    const calls = [new Call(), new Call()];
    const run = await launched();
    const { queue, slots, warm, memoryBytes } = executor.status();
    assert.deepEqual(
      [queue, slots],
      [
        { waiting: 1, size: 2 },
        { busy: 1, size: 1 },
      ],
    );
    assert(warm.cells === 2 && memoryBytes > 0);
    await sleep(30);
    run.end();
    (await launched(2)).end();
    const [first, second] = await Promise.all(calls.map((call) => call.settled));
    assert((first?.timings?.queueSeconds ?? 1) < (second?.timings?.queueSeconds ?? 0));
    assert((second?.timings?.queueSeconds ?? 0) >= 0.02);
    assert.deepEqual(executor.status().slots, { busy: 0, size: 1 });
  });

  test('one more than may wait is refused, and nothing of it is left', async () => {
    const calls = [new Call(), new Call(), new Call()];
    await launched();
    await assert.rejects(new Call(PYTHON).settled, { code: 'queue_full' });
    assert.deepEqual(readdirSync(dir), []);
    for (const call of calls) call.abort.abort();
    launcher.runs[0]?.end({ kind: 'killed' });
    await Promise.allSettled(calls.map((call) => call.settled));
  });

  test('Python without a filename stands at run.py while it runs, and leaves nothing', async () => {
    const call = new Call({ ...PYTHON, program: { kind: 'python', code: 'print(2)', args: ['-x', ''] } });
    const run = await launched();
    assert.deepEqual(readdirSync(dir), ['run.py']);
    assert.deepEqual(run.plan.argv, ['/usr/bin/python3', join(dir, 'run.py'), '-x', '']);
    assert.deepEqual(run.plan.script, { name: 'run.py', code: 'print(2)' });
    assert.equal(run.plan.kind, 'python');
    run.end(ended(1));
    await call.settled;
    await emptied();
  });

  test('Python with a filename is saved there and stays', async () => {
    const program = { kind: 'python' as const, code: 'print(3)', filename: '/a/./b.py', args: [] };
    const call = new Call({ ...PYTHON, program });
    const run = await launched();
    assert.deepEqual(run.plan.script, { name: 'a/b.py', code: 'print(3)' });
    assert.equal(run.plan.argv[1], join(dir, 'a/b.py'));
    run.end();
    await call.settled;
    assert.equal(readFileSync(join(dir, 'a/b.py'), 'utf8'), 'print(3)');
    assert.equal(disk.used, 2 * FILE_BYTES);
  });

  test('runs at the same time share the name, and the last one takes it away', async () => {
    executor = make({ slots: 2 });
    const [a, b] = [new Call(PYTHON), new Call(PYTHON)];
    const [first, second] = [await launched(1), await launched(2)];
    first.end();
    await a.settled;
    assert.deepEqual(readdirSync(dir), ['run.py']);
    second.end();
    await b.settled;
    await emptied();
  });
});

describe('what is refused before it costs a slot', () => {
  const argv = (...args: string[]): RunRequest => ({ id: 'r1', program: { kind: 'command', argv: args } });
  const python = (...args: string[]): RunRequest => ({
    id: 'r1',
    program: { kind: 'python', code: '', args },
  });
  const name = (filename: string): RunRequest => ({
    id: 'r1',
    program: { kind: 'python', code: '', args: [], filename },
  });

  for (const [what, request, code, message] of [
    ['NUL in a word', argv('a', 'b\0'), 'invalid_request', /^cmd\.1: contains NUL/],
    ['NUL in an argument', python('\0'), 'invalid_request', /^args\.0: contains NUL/],
    [
      'a word that execve cannot take',
      argv('é'.repeat(65_536)),
      'invalid_request',
      /^cmd\.0: has 131072 bytes/,
    ],
    [
      'words that are too long together',
      argv(...Array.from({ length: 9 }, () => 'x'.repeat(131_000))),
      'invalid_request',
      /^cmd: .* in all/,
    ],
    ['no word at all', argv(), 'invalid_request', /./],
    ['a filename that leaves', name('../x.py'), 'invalid_path', /`\.\.`/],
    ['a filename with NUL', name('x\0.py'), 'invalid_path', /NUL/],
    ['a bad id', { ...COMMAND, id: 'a\nb' }, 'invalid_request', /^id: /],
    ['a request that is none', null as unknown as RunRequest, 'invalid_request', /^body: null/],
  ] as const) {
    test(what, async () => {
      await assert.rejects(new Call(request).settled, (error) => {
        assert.ok(error instanceof NoxError, String(error));
        assert.equal(error.code, code);
        assert.match(error.message, message);
        return true;
      });
      assert.equal(launcher.runs.length, 0);
      assert.equal((await executor.health()).ok, true);
      assert.equal((await runTo(ended(0))).outcome, 'ok', 'the slot is free');
    });
  }

  for (const limit of LIMIT_NAMES) {
    test(`${limit} above the setting is refused and named; the setting itself and less are taken`, async () => {
      const most = MAX_LIMITS[limit];
      await assert.rejects(new Call({ ...COMMAND, limits: { [limit]: most + 1 } }).settled, {
        code: 'invalid_request',
        message: `limits.${limit}: ${String(most + 1)} is more than the ${String(most)} of ${LIMITS[limit].setting}`,
      });
      assert.equal(launcher.runs.length, 0);
      for (const value of [most, Math.max(most / 2, LIMITS[limit].minimum)]) {
        await runTo(ended(0), { ...COMMAND, limits: { [limit]: value } });
        assert.deepEqual(launcher.runs.at(-1)?.plan.limits, { ...MAX_LIMITS, [limit]: value });
      }
    });
  }
});

describe('health', () => {
  /** The next try, as the run of this number, gets through. */
  const mends = async (count: number) => {
    mock.timers.tick(1000);
    (await launched(count)).end();
    await quiet();
    assert.equal((await executor.health()).ok, true);
  };

  test('a sandbox_error makes it bad, in plain words; a run that gets through makes it good', async () => {
    assert.deepEqual(await executor.health(), { ok: true, status: 'ok' });
    await runTo(BROKEN);
    const bad = await executor.health();
    assert.equal(bad.ok, false);
    assert.match(bad.status, /sandbox/);
    await runTo(ended(1));
    assert.deepEqual(await executor.health(), { ok: true, status: 'ok' });
  });

  test('a run that was cancelled before its program began says nothing about the sandbox', async () => {
    await runTo(BROKEN);
    const call = new Call();
    const run = await launched(2);
    call.abort.abort();
    run.end({ kind: 'killed' });
    assert.equal(await toldOf(call), 'cancelled');
    assert.equal((await executor.health()).ok, false);
  });

  test('it tries by itself, once a second, until the sandbox starts again', async () => {
    mock.timers.enable({ apis: ['setTimeout', 'setInterval'] });
    await runTo(BROKEN);
    mock.timers.tick(999);
    await quiet();
    assert.equal(launcher.runs.length, 1);
    mock.timers.tick(1);
    const retry = await launched(2);
    assert.deepEqual(retry.plan.argv, ['true']);
    retry.end(BROKEN);
    await quiet();
    assert.equal((await executor.health()).ok, false);
    await mends(3);
    mock.timers.tick(60_000);
    await quiet();
    assert.equal(launcher.runs.length, 3);
  });

  test('it goes on trying after a try that says nothing', async () => {
    mock.timers.enable({ apis: ['setTimeout', 'setInterval'] });
    await runTo(BROKEN);
    mock.timers.tick(1000);
    const second = await launched(2);
    for (const stop of disk.stops) stop();
    second.end({ kind: 'killed' });
    await quiet();
    assert.equal((await executor.health()).ok, false);
    await mends(3);
  });

  test('it goes on trying when a try cannot even be launched', async () => {
    mock.timers.enable({ apis: ['setTimeout', 'setInterval'] });
    await runTo(BROKEN);
    launcher.failure = new Error('EAGAIN');
    mock.timers.tick(1000);
    await quiet();
    launcher.failure = undefined;
    await mends(2);
  });

  test('it goes on trying while the workspace of the try is being restored', async () => {
    let refusal: NoxError | undefined;
    executor = make({ refusal: () => refusal });
    mock.timers.enable({ apis: ['setTimeout', 'setInterval'] });
    await runTo(BROKEN);
    refusal = new NoxError('workspace_conflict', 'being restored');
    mock.timers.tick(1000);
    await quiet();
    assert.equal((await executor.health()).ok, false);
    refusal = undefined;
    await mends(2);
  });

  test('while it stops it is not healthy', async () => {
    await executor.close();
    assert.deepEqual(await executor.health(), { ok: false, status: 'stopping' });
  });
});

describe('LocalExecutor.put', () => {
  const put = (path: string, body: AsyncIterable<Uint8Array>, signal = NEVER) =>
    executor.put({ id: 'p1', path }, body, signal);
  const bytes = async function* (...sizes: number[]) {
    for (const size of sizes) {
      await setImmediate();
      yield Buffer.alloc(size, 'x');
    }
  };
  /** Says when it is read, and never comes to an end. */
  const stalled = (onRead: () => void): AsyncIterable<Uint8Array> => ({
    [Symbol.asyncIterator]: () => ({
      next: () => {
        onRead();
        return new Promise(() => undefined);
      },
    }),
  });

  test('saves, answers where, and counts the bytes', async () => {
    assert.deepEqual(await put('/a/f', bytes(10, 20)), { saved: join(dir, 'a/f'), bytes: 30 });
    assert.equal(disk.used, 2 * FILE_BYTES);
  });

  test('a path that cannot be used is refused before the body is read', async () => {
    let read = false;
    await assert.rejects(
      put(
        '../x',
        stalled(() => {
          read = true;
        }),
      ),
      { code: 'invalid_path' },
    );
    assert.equal(read, false);
  });

  test('the greatest size is taken, one byte more is payload_too_large', async () => {
    assert.equal((await put('f', bytes(600, 400))).bytes, 1000);
    await assert.rejects(put('g', bytes(600, 401)), { code: 'payload_too_large' });
    assert.deepEqual(readdirSync(dir), ['f']);
  });

  test('a body that throws, and an abort between chunks, leave the old file', async () => {
    await put('f', bytes(5));
    const failing = async function* () {
      yield Buffer.from('new');
      await setImmediate();
      throw new NoxError('bad_request', 'gone');
    };
    await assert.rejects(put('f', failing()), { code: 'bad_request' });
    const abort = new AbortController();
    const aborting = async function* () {
      yield Buffer.from('new');
      await setImmediate();
      abort.abort();
    };
    await assert.rejects(put('f', aborting(), abort.signal), { code: 'cancelled' });
    assert.deepEqual([readdirSync(dir), readFileSync(join(dir, 'f'), 'utf8')], [['f'], 'xxxxx']);
  });

  test('an abort ends an upload whose body has stalled', async () => {
    const abort = new AbortController();
    let reading = false;
    const upload = put(
      'f',
      stalled(() => {
        reading = true;
      }),
      abort.signal,
    );
    upload.catch(() => undefined);
    await until('the body is read', () => reading);
    abort.abort();
    await assert.rejects(inTime('the upload ends', upload), { code: 'cancelled' });
    assert.deepEqual(readdirSync(dir), []);
  });

  test('uploads at the same time share the room of the workspace', async () => {
    executor = make({ disk: new FakeDisk(dir, 2.5 * FILE_BYTES, assert.ifError) });
    const results = await Promise.allSettled(['a', 'b', 'c'].map((path) => put(path, bytes(300, 300))));
    assert.equal(results.filter(({ status }) => status === 'fulfilled').length, 2);
    assert.equal(readdirSync(dir).length, 2);
    for (const each of results)
      if (each.status === 'rejected') assert.equal((each.reason as NoxError).code, 'workspace_full');
  });

  test('a file that is replaced again and again takes its place once', async () => {
    executor = make({ disk: new FakeDisk(dir, 2.5 * FILE_BYTES, assert.ifError) });
    for (let count = 0; count < 5; count += 1) assert.equal((await put('f', bytes(400))).bytes, 400);
  });

  test('what a run did to the file system is no fault of the machine', async () => {
    const body = (async function* () {
      yield Buffer.from('x');
      await setImmediate();
      for (const name of readdirSync(dir)) rmSync(join(dir, name));
    })();
    const error = await put('f', body).catch((each: unknown) => each);
    assert.ok(error instanceof NoxError);
    assert.ok(ERRORS[error.code].status < 500, error.code);
  });

  test('after close it is refused', async () => {
    await executor.close();
    await assert.rejects(put('f', bytes(1)), { code: 'shutting_down' });
  });
});

describe('LocalExecutor.close', () => {
  test('ends the runs, refuses those that wait and those that come, then closes the launcher', async () => {
    const [running, waiting] = [new Call(), new Call()];
    const run = await launched();
    let closed = false;
    const closing = executor.close().then(() => {
      closed = true;
    });
    await assert.rejects(waiting.settled, { code: 'shutting_down' });
    await assert.rejects(new Call().settled, { code: 'shutting_down' });
    assert.ok(run.kills > 0);
    await quiet();
    assert.equal(closed, false, 'killed is not dead');
    assert.equal(launcher.closed, false);
    run.end({ kind: 'killed' });
    await closing;
    assert.equal((await running.settled).outcome, 'cancelled');
    assert.equal(launcher.closed, true);
  });

  test('a run that has just been given its slot is waited for too', async () => {
    for (const request of [COMMAND, PYTHON]) {
      launcher = new FakeLauncher();
      executor = make();
      const call = new Call(request);
      const closing = executor.close();
      await quiet();
      for (const run of launcher.runs) run.end({ kind: 'killed' });
      await closing;
      const told = await toldOf(call);
      assert.ok(['cancelled', 'shutting_down'].includes(told), told);
      assert.ok(launcher.runs.every((run) => !run.alive));
      assert.deepEqual(readdirSync(dir), []);
    }
  });

  test('an upload whose body has stalled does not hold it up', async () => {
    let reading = false;
    const body: AsyncIterable<Uint8Array> = {
      [Symbol.asyncIterator]: () => ({
        next: () => {
          reading = true;
          return new Promise(() => undefined);
        },
      }),
    };
    executor.put({ id: 'p1', path: 'f' }, body, NEVER).catch(() => undefined);
    await until('the body is read', () => reading);
    await inTime('the runner is closed', executor.close());
    assert.deepEqual(readdirSync(dir), []);
  });

  test('no try of its own follows a close', async () => {
    mock.timers.enable({ apis: ['setTimeout', 'setInterval'] });
    await runTo(BROKEN);
    await executor.close();
    mock.timers.tick(5000);
    await quiet();
    assert.equal(launcher.runs.length, 1);
  });
});

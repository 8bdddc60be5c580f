/** What is said of a runtime, and when it is found out anew. The programs are made up; test/sandbox has real ones. */
import assert from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, mock, test } from 'node:test';
import { setImmediate, setTimeout as sleep } from 'node:timers/promises';
import { NoxError } from '../../src/protocol/errors.ts';
import type { RunRequest, RunResult } from '../../src/protocol/messages.ts';
import type { Outcome } from '../../src/protocol/outcome.ts';
import { RuntimeProbe, type ProbeOutput, type ProbeRequest } from '../../src/runner/runtime-probe.ts';
import type { CommandRuntime, PythonRuntime, Runtime } from '../../src/runner/runtime.ts';
import { NODE } from '../../src/runner/sandbox.ts';

const ENDED: RunResult = {
  outcome: 'ok',
  exitCode: 0,
  signal: null,
  omitted: { stdout: 0, stderr: 0 },
  usage: {
    ...{ wallSeconds: 0, userSeconds: 0, systemSeconds: 0, peakMemoryBytes: 0, peakProcesses: 1 },
    ...{ stdinBytes: 0, stdoutBytes: 0, stderrBytes: 0 },
  },
};
const output = (stdout: string, stderr = '', outcome: Outcome = 'ok'): ProbeOutput => ({
  ...{ stdout, stderr },
  result: { ...ENDED, outcome, exitCode: outcome === 'ok' ? 0 : 1 },
});

const compiling = (how: ProbeOutput): ProbeOutput => ({
  ...how,
  result: { ...how.result, stage: 'compile' },
});

let dir: string;
let programs: RunRequest['program'][];
let waiting: number;
/** What a hello world does, by the name of its runtime; its version is always 1.2. */
let does: (name: string) => ProbeOutput | Error;

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), 'nox-probe-'));
  programs = [];
  waiting = 0;
  does = (name) => output(`Hello from ${name}\n`);
});
afterEach(() => {
  mock.restoreAll();
  rmSync(dir, { recursive: true });
});

function runtime(name: string, more: Partial<CommandRuntime> = {}): CommandRuntime {
  return {
    ...{ name, title: name.toUpperCase(), extension: name, file: `main.${name}`, detect: [name] },
    ...{
      version: { argv: ['version-of', name], pattern: 'v([0-9.]+)' },
      run: ['run', '{file}'],
      hello: name,
    },
    ...more,
  };
}

function install(...names: string[]): void {
  for (const name of names) writeFileSync(join(dir, name), name);
}

async function answer({ program }: ProbeRequest): Promise<ProbeOutput> {
  programs.push(program);
  await setImmediate();
  if (program.kind === 'command') return output('', `some v1.2\n`);
  assert(program.kind === 'runtime');
  return judged(does(program.runtime));
}

function judged(what: ProbeOutput | Error): ProbeOutput {
  if (what instanceof Error) throw what;
  return what;
}

function probe(...runtimes: Runtime[]): RuntimeProbe {
  return new RuntimeProbe({
    runtimes: new Map(runtimes.map((each) => [each.name, each])),
    path: `/nonexistent:${dir}`,
    memoryBytes: 2 ** 29,
    run: answer,
    waiting: () => waiting,
    node: () => (waiting < 0 ? undefined : join(dir, 'node')),
  });
}

describe('what is said', () => {
  test('one that works, compiled or not', async () => {
    install('a', 'b');
    const infos = await probe(
      runtime('a', { aliases: ['aa'] }),
      runtime('b', { compile: ['b', '{file}'] }),
    ).list();
    const common = { available: true, version: '1.2' };
    assert.deepEqual(infos, [
      { name: 'a', title: 'A', aliases: ['aa'], extension: 'a', compiled: false, ...common },
      { name: 'b', title: 'B', aliases: [], extension: 'b', compiled: true, ...common },
    ]);
  });

  test('Python is run as its clients’ code is', async () => {
    install('python3');
    const { name, title, extension, file, version, hello } = runtime('python');
    const python: PythonRuntime = {
      ...{ name, title, extension, file, version, hello },
      ...{ detect: ['python3'], builtin: 'python' },
    };
    const [info] = await probe(python).list();
    assert.equal(info?.available, true);
    assert.deepEqual(programs.at(-1), { kind: 'runtime', runtime: 'python', code: 'python', args: [] });
  });

  test('nothing is run of one whose files are not there; it says which, and what to do', async () => {
    install('there');
    const [name, path] = await probe(
      runtime('a', { detect: ['there', 'missing'] }),
      runtime('b', { detect: [join(dir, 'missing')] }),
    ).list();
    assert.deepEqual([name?.available, name?.version], [false, null]);
    assert.equal(name?.reason, `missing is not in /nonexistent:${dir}: install it`);
    assert.equal(path?.reason, `${dir}/missing is not there: install it`);
    assert.deepEqual(programs, []);
  });

  test('Node: where the host has it; where nobody can reach it, the remedy', async () => {
    install('node');
    const node = probe(runtime('js', { detect: [NODE] }));
    assert.equal((await node.list())[0]?.available, true);
    waiting = -1;
    assert.match((await node.list())[0]?.reason ?? '', /cannot reach .*: move Nox to/);
  });

  const failures: Readonly<Record<string, readonly [ProbeOutput, RegExp]>> = {
    'another text': [output('Hello\n'), /^its hello world printed "Hello\\n"$/],
    'more text': [output('Hello from b\n\n'), /^its hello world printed/],
    'an exit code': [
      output('Hello from b\n', 'oh no', 'failed'),
      /^its hello world failed \(exit code 1\): oh no$/,
    ],
    'a limit': [output('', '', 'memory_limit'), /^its hello world failed \(memory_limit\)$/],
    'a compiler that fails': [
      compiling(output('', 'cc: no linker', 'failed')),
      /^its hello world was not compiled \(exit code 1\): cc: no linker$/,
    ],
    'a compiler that ends without a program': [
      compiling(output('Hello from b\n')),
      /^its hello world was not compiled/,
    ],
  };
  for (const [what, [how, reason]] of Object.entries(failures))
    test(`not available: ${what}`, async () => {
      install('b');
      does = () => how;
      const [info] = await probe(runtime('b', { compile: ['b', '{file}'] })).list();
      assert.equal(info?.available, false);
      assert.match(info.reason ?? '', reason);
    });

  test('a version that is not found is none, and takes nothing away', async () => {
    install('a');
    const version = { argv: ['version-of', 'a'], pattern: 'release (.*)' };
    const [info] = await probe(runtime('a', { version })).list();
    assert.deepEqual([info?.available, info?.version], [true, null]);
  });

  test('a fault of the machine is no word about a runtime: it is thrown, and nothing is kept', async () => {
    install('a');
    const each = probe(runtime('a'));
    does = () => new NoxError('queue_full', 'full');
    await assert.rejects(each.list(), { code: 'queue_full' });
    does = () => output('', '', 'sandbox_error');
    await assert.rejects(each.list(), { code: 'sandbox_error' });
    does = (name) => output(`Hello from ${name}\n`);
    assert.equal((await each.list())[0]?.available, true);
  });
});

describe('when it is found out', () => {
  test('once, also for many who ask at the same time, one run at a time', async () => {
    install('a', 'b');
    const each = probe(runtime('a'), runtime('b'));
    let running = 0;
    does = (name) => {
      running += 1;
      assert.equal(running, 1);
      running -= 1;
      return output(`Hello from ${name}\n`);
    };
    const answers = await Promise.all([each.list(), each.list(), each.list()]);
    assert.deepEqual(answers[1], answers[0]);
    await each.list();
    assert.equal(programs.length, 4);
  });

  test('again when a file has changed, is gone, has come; only that one', async () => {
    const each = probe(runtime('a'), runtime('b'));
    install('b');
    const available = async () => (await each.list()).map((info) => info.available);
    assert.deepEqual(await available(), [false, true]);
    install('a');
    assert.deepEqual(await available(), [true, true]);
    assert.equal(programs.length, 4);
    writeFileSync(join(dir, 'a'), 'another program');
    does = () => output('');
    assert.deepEqual(await available(), [false, true]);
    rmSync(join(dir, 'b'));
    assert.deepEqual(await available(), [false, false]);
  });

  test('one that failed is tried again after a minute, whatever its files are', async () => {
    install('a');
    const each = probe(runtime('a'));
    const now = mock.method(performance, 'now', () => 1000);
    does = () => output('', 'no linker', 'failed');
    assert.equal((await each.list())[0]?.available, false);
    does = (name) => output(`Hello from ${name}\n`);
    assert.equal((await each.list())[0]?.available, false);
    now.mock.mockImplementation(() => 61_001);
    assert.equal((await each.list())[0]?.available, true);
  });

  test('clients’ runs that wait come first, but not for ever', async () => {
    install('a');
    let passed = 0;
    mock.method(performance, 'now', () => passed);
    waiting = 1;
    const first = probe(runtime('a')).list();
    await sleep(200);
    assert.equal(programs.length, 0);
    waiting = 0;
    await first;
    waiting = 1;
    const second = probe(runtime('a')).list();
    const clock = setInterval(() => (passed += 6000), 60);
    await second;
    clearInterval(clock);
    assert.equal(programs.length, 4);
  });
});

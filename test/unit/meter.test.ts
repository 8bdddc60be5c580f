import assert from 'node:assert/strict';
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { statfsSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { after, afterEach, describe, test } from 'node:test';
import { setTimeout } from 'node:timers/promises';
import { ProcMeter, type Sample } from '../../src/runner/meter.ts';

const MIB = 2 ** 20;
const LIMITS = { memoryBytes: 1024 * MIB, processes: 100 };
const DEADLINE_MS = 20_000;

/**
 * Stands for process 1 of a run and all that is below it: forks workers and does one step for each line it reads. What
 * is measured of process 1 itself is only its CPU time, so the steps are those of workers.
 */
const PRELUDE = `
import os, signal, sys, threading, time
def say(word): os.write(1, word.encode() + b"\\n")
def wait(): sys.stdin.readline()
workers = []
def worker(what):
    done, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        what()
        os.write(told, b"x")
        while True: time.sleep(60)
    os.close(told); os.read(done, 1); os.close(done)
    workers.append(pid)
    return pid
def finish():
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
`;

class Tree {
  readonly #child: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  constructor(program: string) {
    this.#child = spawn('/usr/bin/python3', ['-u', '-c', PRELUDE + program], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    assert.ok(this.#child.stdout !== null);
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
  }

  get pid(): number {
    assert.ok(this.#child.pid !== undefined);
    return this.#child.pid;
  }

  async said(word: string): Promise<void> {
    assert.equal((await this.#lines.next()).value, word);
  }

  go(): void {
    this.#child.stdin?.write('\n');
  }

  async end(): Promise<void> {
    const exited = once(this.#child, 'close');
    this.go();
    this.#child.stdin?.end();
    await exited;
  }
}

/** Stands for process 1 where the tree is the program. */
const init = spawn('sleep', ['infinity'], { stdio: 'ignore' });
after(() => init.kill());
const INIT = init.pid ?? 0;

let trees: Tree[] = [];
const grow = (program: string): Tree => {
  const tree = new Tree(program);
  trees.push(tree);
  return tree;
};
afterEach(async () => {
  await Promise.all(trees.map((tree) => tree.end()));
  trees = [];
});

/** The children have the test's own /dev/shm, and /tmp if that is a tmpfs; a run has its own. */
function hostTmpfs(): number {
  const { type, blocks, bfree, bsize } = statfsSync('/tmp');
  return type === 0x01021994 ? (blocks - bfree) * bsize : 0;
}

async function until(meter: ProcMeter, pid: number, reached: (sample: Sample) => boolean): Promise<Sample> {
  const deadline = performance.now() + DEADLINE_MS;
  for (;;) {
    const sample = meter.sample([pid]);
    if (reached(sample)) return sample;
    assert.ok(performance.now() < deadline, `reached in time; the last sample is ${JSON.stringify(sample)}`);
    await setTimeout(20);
  }
}

describe('ProcMeter', () => {
  test('sees memory that is taken, and remembers the peak when it was given back', async () => {
    const tree = grow(`
worker(lambda: None); say("small"); wait()
worker(lambda: globals().update(b=bytearray(96 << 20))); say("large"); wait()
os.kill(workers[1], signal.SIGKILL); os.waitpid(workers.pop(), 0); say("gone"); wait()
finish()`);
    const meter = new ProcMeter(LIMITS);
    await tree.said('small');
    const small = meter.sample([tree.pid]).memoryBytes;
    tree.go();
    await tree.said('large');
    const large = meter.sample([tree.pid]).memoryBytes;
    assert.ok(
      large - small >= 96 * MIB && large - small < 160 * MIB,
      `${String(small)}, then ${String(large)}`,
    );
    tree.go();
    await tree.said('gone');
    assert.ok(meter.sample([tree.pid]).memoryBytes >= large);
    assert.ok(meter.finish().memoryBytes >= large);
    assert.ok(
      new ProcMeter(LIMITS).sample([tree.pid]).memoryBytes < large,
      'another meter sees what is there now',
    );
  });

  test('memory that forks share convicts nobody: it is counted once when it comes to the limit', async () => {
    const tree = grow(`
b = bytearray(96 << 20)
for _ in range(4): worker(lambda: None)
say("shared"); wait(); finish()`);
    await tree.said('shared');
    const lenient = new ProcMeter(LIMITS).sample([INIT, tree.pid]).memoryBytes - hostTmpfs();
    assert.ok(
      lenient > 4 * 96 * MIB,
      `below the limit the sum of the resident sizes is enough: ${String(lenient)}`,
    );
    const strict =
      new ProcMeter({ ...LIMITS, memoryBytes: 200 * MIB }).sample([INIT, tree.pid]).memoryBytes - hostTmpfs();
    assert.ok(strict >= 96 * MIB && strict < 200 * MIB, `counted once: ${String(strict)}`);
  });

  test('memory that forks do not share is counted for each, to the limit and beyond', async () => {
    const tree = grow(`
for _ in range(3): worker(lambda: globals().update(b=bytearray(64 << 20)))
say("private"); wait(); finish()`);
    await tree.said('private');
    for (const memoryBytes of [100 * MIB, 1024 * MIB]) {
      const bytes = new ProcMeter({ ...LIMITS, memoryBytes }).sample([tree.pid]).memoryBytes;
      assert.ok(bytes >= 3 * 64 * MIB, `${String(bytes)} with a limit of ${String(memoryBytes)}`);
    }
  });

  test('shared anonymous memory (memfd, mmap) is seen beyond the limit too', async () => {
    const tree = grow(`
import mmap
def share():
    globals()["m"] = mmap.mmap(-1, 96 << 20)
    m.write(b"x" * (96 << 20))
worker(share); say("mapped"); wait(); finish()`);
    await tree.said('mapped');
    const bytes = new ProcMeter({ ...LIMITS, memoryBytes: 50 * MIB }).sample([tree.pid]).memoryBytes;
    assert.ok(bytes >= 96 * MIB, String(bytes));
  });

  test('sees the CPU time of workers, of their dead children and of process 1 itself', async () => {
    const burn = (seconds: number) => `
def burn(seconds=${String(seconds)}):
    end = time.process_time() + seconds
    while time.process_time() < end: pass
`;
    const programs = {
      worker: 'worker(burn)',
      'worker’s child that is dead': `
def parent():
    pid = os.fork()
    if pid == 0: burn(); os._exit(0)
    os.waitpid(pid, 0)
worker(parent)`,
      'worker that is dead': `
pid = os.fork()
if pid == 0: burn(); os._exit(0)
os.waitpid(pid, 0)`,
      'process 1': 'burn()',
    };
    for (const [who, program] of Object.entries(programs)) {
      const tree = grow(`${burn(0.5)}\n${program}\nsay("burnt"); wait(); finish()`);
      await tree.said('burnt');
      const { cpuSeconds } = new ProcMeter(LIMITS).sample([tree.pid]);
      assert.ok(cpuSeconds >= 0.45 && cpuSeconds < 5, `${who}: ${String(cpuSeconds)} s`);
    }
  });

  test('CPU time grows while it is used, and no sample tells less than the one before', async () => {
    const tree = grow(`
pid = os.fork()
if pid == 0:
    while True: pass
workers.append(pid)
say("burning"); wait(); finish()`);
    await tree.said('burning');
    const meter = new ProcMeter(LIMITS);
    const first = meter.sample([tree.pid]).cpuSeconds;
    let last = first;
    await until(meter, tree.pid, ({ cpuSeconds }) => {
      assert.ok(cpuSeconds >= last);
      last = cpuSeconds;
      return cpuSeconds >= first + 0.2;
    });
  });

  test('counts processes and threads of a tree, without process 1, orphans of its children included', async () => {
    const tree = grow(`
import ctypes
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: what process 1 of a namespace is by nature
def threads():
    for _ in range(3): threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
def child():
    pid = os.fork()
    if pid == 0:
        while True: time.sleep(60)
say("none"); wait()
worker(lambda: None); say("one"); wait()
worker(threads); say("five"); wait()
worker(child); say("seven"); wait()
os.kill(workers.pop(), signal.SIGKILL); os.wait(); say("orphan"); wait()
while True:
    children = open(f"/proc/self/task/{os.getpid()}/children").read().split()
    for pid in children: os.kill(int(pid), signal.SIGKILL)
    try: os.wait()
    except ChildProcessError: break`);
    const now = () => new ProcMeter(LIMITS).sample([tree.pid]).processes;
    for (const [word, count] of [
      ['none', 0],
      ['one', 1],
      ['five', 5],
      ['seven', 7],
      ['orphan', 6],
    ] as const) {
      await tree.said(word);
      assert.equal(now(), count, word);
      tree.go();
    }
  });

  test('a name with parentheses and spaces is measured like any other', async () => {
    const tree = grow(`
def rename(): open("/proc/self/comm", "w").write(") 1 (a) b")
def rename_and_grow(): rename(); globals().update(b=bytearray(64 << 20))
worker(rename_and_grow); say("renamed"); wait(); finish()`);
    await tree.said('renamed');
    const { memoryBytes, processes } = new ProcMeter(LIMITS).sample([tree.pid]);
    assert.equal(processes, 1);
    assert.ok(memoryBytes >= 64 * MIB);
  });

  test('finish: the peaks, and whether the limit of processes was reached', async () => {
    const tree = grow('for _ in range(3): worker(lambda: None)\nsay("three"); wait(); finish()');
    await tree.said('three');
    for (const [processes, hit] of [
      [3, true],
      [4, false],
    ] as const) {
      const meter = new ProcMeter({ ...LIMITS, processes });
      const sample = meter.sample([tree.pid]);
      assert.deepEqual(meter.finish(), { ...sample, exact: false, oomKilled: false, processLimitHit: hit });
    }
  });

  test('a process that is gone is measured as nothing, and a meter that never measured says so', async () => {
    const tree = grow('say("here"); wait()');
    await tree.said('here');
    const { pid } = tree;
    await tree.end();
    trees = [];
    const meter = new ProcMeter(LIMITS);
    const nothing = { memoryBytes: 0, cpuSeconds: 0, processes: 0 };
    assert.deepEqual(meter.sample([pid]), nothing);
    assert.deepEqual(meter.finish(), { ...nothing, exact: false, oomKilled: false, processLimitHit: false });
  });
});

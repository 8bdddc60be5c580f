import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { frozen } from '../../src/runner/freeze.ts';
import { processTree } from '../../src/runner/proc.ts';

const dir = mkdtempSync(join(tmpdir(), 'nox-freeze-'));
after(() => {
  rmSync(dir, { recursive: true });
});

/** Polls until it holds: on a busy machine nothing has begun, or gone on, by a given time. */
async function until(what: string, holds: () => boolean): Promise<void> {
  const end = performance.now() + 30_000;
  while (!holds()) {
    assert.ok(performance.now() < end, what);
    await sleep(20);
  }
}
/** What each has counted so far; '' for one that has not begun. */
function counts(names: readonly string[]): string[] {
  return names.map((name) => {
    try {
      return readFileSync(join(dir, name), 'utf8');
    } catch {
      return '';
    }
  });
}
/** Whether each has counted on since. */
const wentOn = (names: readonly string[], from: readonly string[]) =>
  counts(names).every((word, at) => word !== '' && word !== from[at]);

/** Each of them counts in a file of its own; some end, and are made anew. */
const RESTLESS = `
import os, sys, time
def count(name):
    n = 0
    fd = os.open(os.path.join(sys.argv[1], name), os.O_CREAT | os.O_WRONLY)
    while True:
        n += 1
        os.pwrite(fd, b'%012d' % n, 0)
for name in 'abc':
    if os.fork() == 0: count(name)
while True:
    if os.fork() == 0:
        time.sleep(0.002)
        os._exit(0)
    try: os.waitpid(-1, os.WNOHANG)
    except ChildProcessError: pass
    time.sleep(0.001)`;

test('nothing of it moves meanwhile, and all of it goes on; what was stopped before stays so', async () => {
  const child = spawn('/usr/bin/python3', ['-c', RESTLESS, dir], { stdio: 'inherit' });
  const stopped = spawn('sleep', ['100']);
  const { pid = 0 } = child;
  const roots = () => [pid, stopped.pid ?? 0];
  const names = ['a', 'b', 'c'];
  const seen = () => counts(names).join(' ');
  try {
    stopped.kill('SIGSTOP');
    await until('all have begun', () => wentOn(names, []));
    const held = await frozen(roots, async () => {
      const processes = processTree(roots()).length;
      const before = seen();
      await sleep(300);
      assert.equal(seen(), before);
      assert.equal(processTree(roots()).length, processes);
      return before;
    });
    assert.ok(held !== undefined);
    const words = held.split(' ');
    await until('all of it goes on', () => wentOn(names, words));
    assert.match(readFileSync(`/proc/${String(stopped.pid)}/stat`, 'utf8'), /\) T /);
  } finally {
    // Those that it makes end by themselves; it would make more.
    const all = processTree(roots());
    for (const each of all)
      try {
        process.kill(each, 'SIGKILL');
      } catch {
        // It has ended.
      }
    stopped.kill('SIGKILL');
  }
});

/** Each wakes the other and stops itself: one of them always runs, and each is stopped nearly always. */
const TURNS = `
import os, signal, sys
def count(name, other):
    n = 0
    fd = os.open(os.path.join(sys.argv[1], name), os.O_CREAT | os.O_WRONLY)
    while True:
        while open(f'/proc/{other}/stat').read().rsplit(')', 1)[1][1] != 'T': pass
        n += 1
        os.pwrite(fd, b'%012d' % n, 0)
        os.kill(other, signal.SIGCONT)
        os.kill(os.getpid(), signal.SIGSTOP)
one = os.getpid()
other = os.fork()
if other == 0: count('y', one)
os.kill(one, signal.SIGSTOP)
count('x', other)`;

test('two that wake each other in turn are held still too', async () => {
  const child = spawn('/usr/bin/python3', ['-c', TURNS, dir], { stdio: 'inherit' });
  const roots = () => [child.pid ?? 0];
  const names = ['x', 'y'];
  const seen = () => counts(names).join(' ');
  try {
    await until('both have begun', () => wentOn(names, []));
    const first = counts(names);
    await until('they run', () => wentOn(names, first));
    for (let time = 0; time < 30; time += 1)
      await frozen(roots, async () => {
        const before = seen();
        await sleep(20);
        assert.equal(seen(), before);
      });
  } finally {
    for (const pid of processTree(roots())) process.kill(pid, 'SIGKILL');
    await once(child, 'exit');
  }
});

test('they go on after work that fails, and one that has ended keeps nobody', async () => {
  const child = spawn('sleep', ['100']);
  const { pid = 0 } = child;
  await assert.rejects(
    () =>
      frozen(
        () => [pid],
        () => Promise.reject(new Error('the work')),
      ),
    /the work/,
  );
  assert.match(readFileSync(`/proc/${String(pid)}/stat`, 'utf8'), /\) [SR] /);
  child.kill('SIGKILL');
  await once(child, 'exit');
  assert.equal(
    await frozen(
      () => [pid],
      () => Promise.resolve(1),
    ),
    1,
  );
});

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
  const seen = () => ['a', 'b', 'c'].map((name) => readFileSync(join(dir, name), 'utf8')).join(' ');
  try {
    stopped.kill('SIGSTOP');
    await sleep(500);
    const held = await frozen(roots, async () => {
      const processes = processTree(roots()).length;
      const before = seen();
      await sleep(300);
      assert.equal(seen(), before);
      assert.equal(processTree(roots()).length, processes);
      return before;
    });
    assert.ok(held !== undefined);
    await sleep(300);
    for (const [at, word] of seen().split(' ').entries()) assert.notEqual(word, held.split(' ')[at]);
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

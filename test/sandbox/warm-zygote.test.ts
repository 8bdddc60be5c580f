/** The zygote is killed, stopped, led astray: no run is blamed for it. */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { runPy, runSh, RUN_UID, startServer, withServer } from '../support/server.ts';
import { assertHealthy, inside, outcome, read, uniqueSeconds, until } from './attack.ts';
import { children, descendants, zygoteOf, isAlive, own, isThere } from './warm.ts';

for (const victim of ['zygote', 'bwrap'] as const) {
  test(`kills the idle ${victim}: the next request succeeds, at once and later`, async () => {
    await withServer({ env: { NOX_SLOTS: '2' } }, async (of) => {
      for (const delay of [200, 20, 0]) {
        const pids = await zygoteOf(of);
        process.kill(pids[victim], 'SIGKILL');
        if (delay > 0) {
          await until('it is dead', () => !isAlive(pids.zygote));
          await sleep(delay);
        }
        let answer = await runPy(of, 'print(6 * 7)');
        // In the very moment a program of the dying sandbox may have taken the code: nothing is ever run twice.
        if (delay === 0 && outcome(answer) === 'sandbox_error') answer = await runPy(of, 'print(6 * 7)');
        assert.deepEqual(
          [answer.status, answer.body.stdout],
          [200, '42\n'],
          `${delay} ms later: ${JSON.stringify(answer.body)}`,
        );
        await until('the old zygote is gone', () => !isAlive(pids.zygote));
        await assertHealthy(of);
      }
    });
  });
}

for (const victim of ['zygote', 'bwrap', 'init'] as const) {
  test(`kills the ${victim} below a run: that one fails honestly, the next succeeds`, async () => {
    await withServer({ env: { NOX_SLOTS: '2', NOX_TIMEOUT: '10' } }, async (of) => {
      const pids = await zygoteOf(of);
      const running = runPy(
        of,
        `import time\nopen('on', 'w').close()\nprint('half', flush=True)\ntime.sleep(3)\nprint('whole')`,
      );
      await until('the run is under way', () => isThere(join(of.workspace, 'on')));
      const init = children(pids.zygote).find(
        (pid) =>
          read(`/proc/${pid}/cmdline`).includes('run.py') &&
          /^NSpid:.*\t1$/m.test(read(`/proc/${pid}/status`)),
      );
      const killed = victim === 'init' ? init : pids[victim];
      assert.ok(killed !== undefined);
      process.kill(killed, 'SIGKILL');
      const answer = await running;
      assert.notEqual(answer.status, 200, JSON.stringify(answer.body));
      assert.equal((answer.body as Record<string, unknown>)['code'], 'sandbox_error');
      assert.equal(await inside(of, `print(1)`), '1');
      await until('healthy', async () => (await fetch(`${of.url}/health`)).status === 200);
      await until('the old zygote is gone', () => victim === 'init' || !isAlive(pids.zygote));
    });
  });
}

test('stops the zygote: no run is blamed for it, and it is replaced', async () => {
  await withServer({ env: { NOX_SLOTS: '2', NOX_TIMEOUT: '8' } }, async (of) => {
    const { zygote } = await zygoteOf(of);
    process.kill(zygote, 'SIGSTOP');
    try {
      const said: string[] = [];
      for (let attempt = 0; attempt < 3; attempt += 1) {
        const began = performance.now();
        const answer = await runPy(of, 'print(6 * 7)');
        assert.ok(performance.now() - began < 10_000, 'an answer arrives within the time limit of the run');
        if (answer.status === 200) assert.equal(answer.body.stdout, '42\n');
        said.push(answer.status === 200 ? 'ok' : String((answer.body as Record<string, unknown>)['code']));
      }
      // The first finds a spare that stands ready.
      assert.ok(
        !said.includes('timeout'),
        `a program that never ran is told that it was too slow: ${said.join(', ')}`,
      );
      assert.equal(said.at(-1), 'ok', said.join(', '));
    } finally {
      if (isAlive(zygote)) process.kill(zygote, 'SIGCONT');
    }
  });
});

test('replaces the workspace by another directory of its name: the next run is in the new one', async () => {
  await withServer({ env: { NOX_SLOTS: '2' } }, async (of) => {
    const see = `import os; print(sorted(n for n in os.listdir('.') if n != 'run.py')); open('new', 'w').close()`;
    assert.equal(await inside(of, see), '[]');
    assert.equal(await inside(of, see), `['new']`);
    await zygoteOf(of);
    renameSync(of.workspace, `${of.workspace}.old`);
    mkdirSync(of.workspace);
    own(of.workspace);
    assert.equal(await inside(of, see), '[]');
    assert.equal(await inside(of, see), `['new']`);
    rmSync(of.workspace, { recursive: true });
    assert.equal(await inside(of, see), '[]');
    rmSync(`${of.workspace}.old`, { recursive: true });
  });
});

for (const split of [false, true]) {
  test(`kills the runner with -9${split ? ', apart from the gateway' : ''}: nothing of zygote, spares and runs stays`, async () => {
    const of = await startServer({ split, env: { NOX_SLOTS: '2' } });
    try {
      const seconds = uniqueSeconds();
      const running = runSh(of, [
        'bash',
        '-c',
        `setsid sleep ${seconds} & trap '' TERM; sleep ${seconds}`,
      ]).catch(() => undefined);
      await until('the run is under way', () =>
        descendants(of.processes.at(0)?.pid).some((pid) => read(`/proc/${pid}/cmdline`).includes(seconds)),
      );
      await zygoteOf(of);
      const all = descendants(of.processes.at(0)?.pid);
      assert.ok(all.length >= 4, `bwrap, zygote, inits, programs: ${all.join()}`);
      of.processes.at(0)?.kill('SIGKILL');
      await until('everything is dead', () => !all.some(isAlive), 15_000);
      await running;
    } finally {
      await of.stop();
    }
  });
}

test('stops the server while spares and a zygote stand: nothing stays, no directory either', async () => {
  const of = await startServer({ env: { NOX_SLOTS: '2' } });
  await zygoteOf(of);
  const pid = of.processes.at(0)?.pid;
  const all = descendants(pid);
  await of.stop();
  assert.deepEqual(all.filter(isAlive), []);
  assert.deepEqual(
    readdirSync('/tmp').filter((name) => name.startsWith(`nox-runner-${pid}-`)),
    [],
  );
});

test('runs the server out of descriptors while a zygote has to be started: it stays, and recovers', async () => {
  await withServer({ env: { NOX_SLOTS: '2' } }, async (of) => {
    const pids = await zygoteOf(of);
    const pid = of.processes.at(0)?.pid ?? 0;
    const limit = (soft: number) => {
      const { status, stderr } = spawnSync('prlimit', ['--pid', String(pid), `--nofile=${soft}:`], {
        ...(process.getuid?.() === 0 ? { uid: RUN_UID, gid: RUN_UID } : {}),
        encoding: 'utf8',
      });
      assert.equal(status, 0, stderr);
    };
    process.kill(pids.bwrap, 'SIGKILL');
    await until('the zygote is gone', () => !isAlive(pids.zygote));
    await sleep(200);
    // One connection, and what a run opens before it is launched.
    limit(readdirSync(`/proc/${pid}/fd`).length + 3);
    const answer = await runPy(of, 'print(1)').catch((error: unknown) => String(error));
    await sleep(200);
    assert.ok(isAlive(pid), `the server has ended: ${of.log().slice(-1500)}`);
    assert.ok(typeof answer !== 'string', 'the request is answered');
    limit(1024);
    await until('healthy', async () => (await fetch(`${of.url}/health`)).status === 200);
    await assertHealthy(of);
  });
});

test('loads a package ahead that is not there: the server says so', async () => {
  let log = '';
  try {
    const of = await startServer({ env: { NOX_PYTHON_PRELOAD: 'no_such_package' } });
    try {
      const { status } = await runPy(of, 'print(1)');
      assert.equal(status, 500);
      log = of.log();
    } finally {
      await of.stop();
    }
  } catch (error) {
    log += String(error);
  }
  assert.match(log, /no_such_package/);
  assert.match(log, /NOX_PYTHON_PRELOAD/, 'names the setting that mends it');
});

/** What a server does when the machine or its settings fail it: says so by name, loses nothing, and works again. */
import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import {
  eventually,
  makeDirectory,
  post,
  put,
  RUN_UID,
  runPy,
  runSh,
  startServer,
  withServer,
  type Server,
} from '../support/server.ts';

const healthStatus = async (server: Server) => (await fetch(`${server.url}/health`)).status;

describe('the machine', () => {
  test('interpreter gone: sandbox_error with its reason in the log, 503 health; back again: works by itself', async () => {
    const dir = await makeDirectory();
    const venv = join(dir, 'venv');
    execFileSync('/usr/bin/python3', ['-m', 'venv', '--without-pip', venv]);
    await withServer({ env: { NOX_PYTHON: join(venv, 'bin/python3') } }, async (server) => {
      const prefix = await runPy(server, 'import sys; print(sys.prefix)');
      assert.equal(prefix.body.stdout, `${venv}\n`);
      await rename(venv, `${venv}.gone`);
      const { status, body } = await post(server, '/run_py', { code: 'print(1)' });
      assert.deepEqual([status, body['code']], [500, 'sandbox_error']);
      assert(!JSON.stringify(body).includes(venv), 'the client is not told of paths');
      await eventually('the reason is in the log', () =>
        Promise.resolve(server.log().includes(`Can't find source path ${venv}`)),
      );
      assert.equal(await healthStatus(server), 503);
      await rename(`${venv}.gone`, venv);
      await eventually(
        'health is back without any request',
        async () => (await healthStatus(server)) === 200,
      );
      assert.equal((await runPy(server, 'print(1)')).body.stdout, '1\n');
    });
    await rm(dir, { recursive: true });
  });

  test('workspace deleted underneath: the next request works', async () => {
    await withServer({}, async (server) => {
      await put(server, 'file', 'x');
      await rm(server.workspace, { recursive: true });
      assert.equal((await runPy(server, 'import os; print(os.listdir())')).body.stdout, "['run.py']\n");
      await rm(server.workspace, { recursive: true });
      assert.equal((await put(server, 'file', 'y')).status, 200);
      assert.equal((await runSh(server, 'cat file')).body.stdout, 'y');
    });
  });

  test('workspace replaced by a file: sandbox_error, and the next request works when it is mended', async () => {
    await withServer({}, async (server) => {
      await rm(server.workspace, { recursive: true });
      await writeFile(server.workspace, '');
      for (const [path, body] of [
        ['/run_py', { code: '' }],
        ['/run_sh', { cmd: 'true' }],
      ] as const) {
        const answer = await post(server, path, body);
        assert.deepEqual([answer.status, answer.body['code']], [500, 'sandbox_error'], path);
      }
      assert.equal((await put(server, 'file', 'x')).body['code'], 'sandbox_error');
      await rm(server.workspace);
      const mended = await runSh(server, 'true');
      assert.equal(mended.status, 200);
    });
  });

  test('disk full during a put: sandbox_error, the old file stays, and room makes it work again', async () => {
    const dir = await makeDirectory();
    const workspace = join(dir, 'sandbox');
    // A file system of its own, as small as a full one; only root can mount, others meet the same error as EFBIG.
    const root = RUN_UID !== process.getuid?.();
    if (root)
      execFileSync('mount', [
        '-t',
        'tmpfs',
        '-o',
        `size=4m,uid=${RUN_UID},gid=${RUN_UID}`,
        'tmpfs',
        workspace,
      ]);
    try {
      await withServer({ env: { NOX_SANDBOX: workspace } }, async (started) => {
        const server = { ...started, workspace };
        if (!root) execFileSync('prlimit', ['--pid', String(server.processes[0]?.pid), '--fsize=4194304']);
        await put(server, 'kept', 'old');
        const full = await put(server, 'kept', 'x'.repeat(5 * 1024 * 1024));
        assert.deepEqual([full.status, full.body['code']], [500, 'sandbox_error']);
        assert.equal(await readFile(join(workspace, 'kept'), 'utf8'), 'old');
        assert.equal((await runSh(server, 'ls -A')).body.stdout, 'kept\n');
        assert.equal((await put(server, 'kept', 'new')).status, 200);
        assert.equal(await readFile(join(workspace, 'kept'), 'utf8'), 'new');
      });
    } finally {
      if (root) execFileSync('umount', [workspace]);
      await rm(dir, { recursive: true });
    }
  });

  test('the runner killed -9: its runs die, the gateway says 503 by name', async () => {
    await withServer({ split: true }, async (server) => {
      const [runner] = server.processes;
      assert(runner !== undefined);
      const call = post(server, '/run_sh', {
        cmd: ['bash', '-c', 'while :; do date +%N > alive; sleep 0.02; done'],
      });
      await eventually('the run is up', () =>
        readFile(join(server.workspace, 'alive')).then(
          () => true,
          () => false,
        ),
      );
      runner.kill('SIGKILL');
      await once(runner, 'exit');
      const { status, body } = await call;
      assert.deepEqual([status, body['code']], [503, 'runner_unavailable']);
      assert.equal(await healthStatus(server), 503);
      assert.equal((await post(server, '/run_py', { code: '' })).body['code'], 'runner_unavailable');
      assert.equal((await put(server, 'x', 'x')).body['code'], 'runner_unavailable');
      const read = () => readFile(join(server.workspace, 'alive'), 'utf8');
      let last = '';
      await eventually('the run is dead', async () => {
        const now = await read();
        await new Promise((resolve) => setTimeout(resolve, 200));
        const same = now === last;
        last = now;
        return same;
      });
    });
  });

  test('SIGTERM with runs under way: they are answered by name, and the server is gone within seconds', async () => {
    const server = await startServer({});
    const call = post(server, '/run_sh', { cmd: ['bash', '-c', 'echo up > up; sleep 60'] });
    await eventually('the run is up', () =>
      readFile(join(server.workspace, 'up')).then(
        () => true,
        () => false,
      ),
    );
    const stopping = server.stop();
    const { status, body } = await call;
    assert.deepEqual([status, body['code']], [503, 'shutting_down']);
    await stopping;
    assert.equal(server.processes[0]?.exitCode, 0);
  });

  test('a burst of 200 at once: every one answered correctly or refused by name', async () => {
    await withServer({ env: { NOX_QUEUE: '64' } }, async (server) => {
      const calls = Array.from({ length: 200 }, async (_, index) => {
        const { status, headers, body } = await post(server, '/run_py', { code: `print(${index})` });
        if (status === 200) return body['stdout'] === `${index}\n` ? 'right' : 'wrong';
        const named =
          status === 429 && body['code'] === 'queue_full' && Number(headers.get('retry-after')) >= 1;
        return named ? 'refused' : `wrong: ${status} ${JSON.stringify(body)}`;
      });
      const answers = await Promise.all(calls);
      const count = (word: string) => answers.filter((each) => each === word).length;
      assert.equal(
        count('right') + count('refused'),
        200,
        String(answers.find((each) => each.startsWith('wrong'))),
      );
      assert(count('right') >= 64);
      assert(count('refused') > 0, 'the queue was never full');
    });
  });

  test('waiting too long in the queue is refused by name', async () => {
    await withServer({ env: { NOX_SLOTS: '1', NOX_QUEUE_WAIT: '0.3' } }, async (server) => {
      const first = runSh(server, 'sleep 2');
      const second = await post(server, '/run_sh', { cmd: 'sleep 2' });
      const refused = [await first, second].filter(({ status }) => status === 503);
      assert.deepEqual(
        refused.map(({ body }) => (body as Record<string, unknown>)['code']),
        ['queue_timeout'],
      );
    });
  });
});

describe('settings', () => {
  const program = (name: string, env: Record<string, string>, ...args: string[]) =>
    spawnSync(process.execPath, [fileURLToPath(new URL(`../../dist/${name}`, import.meta.url)), ...args], {
      env: { PATH: process.env['PATH'], ...env },
      encoding: 'utf8',
      timeout: 30_000,
    });

  test('every bad setting is named at once, and nothing starts', () => {
    const env = {
      NOX_API_TOKEN: 'geheim',
      NOX_PORTT: '1',
      NOX_PORT: 'http',
      NOX_MAX_MEMORY: '1X',
      NOX_CGROUP: 'maybe',
    };
    const { status, stderr } = program('gateway/main.js', env);
    assert.equal(status, 2);
    for (const name of ['NOX_PORTT', 'NOX_PORT: "http"', 'NOX_MAX_MEMORY: "1X"', 'NOX_CGROUP: "maybe"']) {
      assert(stderr.includes(name), `${name} in ${stderr}`);
    }
    assert(!stderr.includes('geheim'));
  });

  test('no token: refuse to start and say so', () => {
    for (const env of [{}, { NOX_API_TOKEN: '' }]) {
      const { status, stderr } = program('gateway/main.js', env);
      assert.equal(status, 2);
      assert.match(stderr, /NOX_API_TOKEN: missing or empty/);
    }
  });

  test('--check-config prints what is in force, secrets hidden', () => {
    const { status, stdout } = program(
      'gateway/main.js',
      { NOX_API_TOKEN: 'geheim', NOX_TIMEOUT: '7.5' },
      '--check-config',
    );
    assert.equal(status, 0);
    assert.match(stdout, /^NOX_TIMEOUT=7\.5$/m);
    assert.match(stdout, /^NOX_API_TOKEN=\(hidden\)$/m);
    assert(!stdout.includes('geheim'));
  });

  test('a machine that cannot run code safely is refused by name, with the remedy', async () => {
    const dir = await makeDirectory();
    const cases: [env: Record<string, string>, pattern: RegExp][] = [
      [{ NOX_PYTHON: '/usr/bin/no-python' }, /interpreter: .*\n +remedy: .*NOX_PYTHON/],
      [{ NOX_SANDBOX: '/usr/share/nox-no' }, /workspace: .*\n +remedy: .*NOX_SANDBOX/],
      [
        { NOX_WORKSPACES: join(dir, 'sandbox/w') },
        /workspaces: .*in one another\n +remedy: .*NOX_WORKSPACES/,
      ],
    ];
    if (process.platform === 'linux' && !(await hasCgroup()))
      cases.push([{ NOX_CGROUP: 'required' }, /cgroup: .*\n +remedy: .*Delegate=yes/]);
    for (const [env, pattern] of cases) {
      const base = {
        NOX_API_TOKEN: 't',
        NOX_PORT: '0',
        NOX_SANDBOX: join(dir, 'sandbox'),
        NOX_WORKSPACES: join(dir, 'workspaces'),
        NOX_STATE: join(dir, 'state'),
      };
      const { status, stderr } = program('dev.js', { ...base, ...env });
      assert.equal(status, 1);
      assert.match(stderr, pattern);
    }
    await rm(dir, { recursive: true });
  });

  test('a port that is taken is named', async () => {
    await withServer({}, async (server) => {
      const dir = await makeDirectory();
      const env = {
        NOX_API_TOKEN: 't',
        NOX_PORT: new URL(server.url).port,
        NOX_SANDBOX: join(dir, 'sandbox'),
        NOX_WORKSPACES: join(dir, 'workspaces'),
        NOX_STATE: join(dir, 'state'),
      };
      const { status, stderr } = program('dev.js', env);
      assert.equal(status, 1);
      assert.match(stderr, /cannot listen on 127\.0\.0\.1:\d+: another program has this port; set NOX_PORT/);
      await rm(dir, { recursive: true });
    });
  });
});

async function hasCgroup(): Promise<boolean> {
  return readFile('/sys/fs/cgroup/cgroup.controllers').then(
    () => true,
    () => false,
  );
}

test('a log that nobody reads any more: calls are answered, and a stop is one', async () => {
  await withServer({ split: true }, async (server) => {
    for (const { stdout, stderr } of server.processes) for (const pipe of [stdout, stderr]) pipe?.destroy();
    for (let n = 0; n < 5; n += 1) assert.equal((await runPy(server, 'print(n := 1)')).body.stdout, '1\n');
    for (const child of server.processes) {
      const exited = once(child, 'exit');
      child.kill('SIGTERM');
      assert.deepEqual(await exited, [0, null]);
    }
  });
});

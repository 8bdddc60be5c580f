/** A server that is told to stop: what is under way ends well or by name, what comes is refused, the manager is told. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { access } from 'node:fs/promises';
import { request } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { pino } from 'pino';
import { ADMIN } from '../../src/gateway/principal.ts';
import { Store } from '../../src/gateway/store/store.ts';
import {
  eventually,
  makeDirectory,
  post,
  put,
  runPy,
  TOKEN,
  withServer,
  type Server,
} from '../support/server.ts';

const exists = (path: string) =>
  access(path).then(
    () => true,
    () => false,
  );

/** A command that says when it has begun, in the workspace, and lasts. */
const lasting = (seconds: number) => ({
  cmd: ['bash', '-c', `echo begun > begun; sleep ${seconds}; echo whole`],
});

async function begin(server: Server, seconds: number) {
  const answer = post(server, '/run_sh', lasting(seconds));
  await eventually('the run has begun', () => exists(join(server.workspace, 'begun')));
  return { answer };
}

/** The code of the error with which a connection is refused; undefined where it is taken. */
async function refuses(port: number): Promise<string | undefined> {
  const socket = connect(port, '127.0.0.1');
  try {
    await once(socket, 'connect');
    return undefined;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code;
  } finally {
    socket.destroy();
  }
}

async function exitCode(child: Server['processes'][number] | undefined): Promise<number | null> {
  assert(child !== undefined);
  if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  return child.exitCode;
}

for (const split of [true, false]) {
  describe(split ? 'gateway, stopped before the runner' : 'both in one process', () => {
    const gatewayOf = (server: Server) => server.processes.at(-1);

    test('what a client was told of its run is what is kept of it', async () => {
      await withServer({ split, env: { NOX_STOP_GRACE: '20' } }, async (server) => {
        const run = post(server, '/v1/runs', { code: 'import time; time.sleep(1); print(1)' });
        const short = async () => {
          await sleep(900);
          return post(server, '/v1/runs', { code: 'print(2)' });
        };
        const gateway = gatewayOf(server);
        const later = short();
        await sleep(950);
        gateway?.kill('SIGTERM');
        const told = [await run, await later].map(({ status, body }) => [
          status,
          body['id'],
          body['outcome'],
        ]);
        await exitCode(gateway);
        const store = Store.open(
          join(server.workspace, '../state'),
          { runs: 100, days: 1 },
          pino({ level: 'silent' }),
        );
        try {
          for (const [status, id, outcome] of told)
            if (status === 200) assert.equal(store.runs.get(String(id), ADMIN).outcome, outcome);
          assert.equal(told[0]?.[2], 'ok');
        } finally {
          store.close();
        }
      });
    });

    test('a run under way gets its answer, new calls are refused by name', async () => {
      await withServer({ split, env: { NOX_STOP_GRACE: '20' } }, async (server) => {
        const { answer } = await begin(server, 3);
        gatewayOf(server)?.kill('SIGTERM');
        await eventually('stopping', () => server.log().includes('"msg":"stopping"'));
        for (const refused of [await post(server, '/run_py', { code: '' }), await put(server, 'late', 'x')]) {
          assert.deepEqual([refused.status, refused.body['code']], [503, 'shutting_down']);
          assert.equal(refused.headers.get('retry-after'), '1');
          assert.equal(refused.headers.get('connection'), 'close');
        }
        const wrong = await fetch(`${server.url}/run_py`, { method: 'POST', body: '{}' });
        assert.equal(wrong.status, 401, 'the token comes first');
        const health = await fetch(`${server.url}/health`);
        assert.deepEqual([health.status, await health.json()], [503, { status: 'stopping' }]);
        const { status, body } = await answer;
        assert.deepEqual([status, body['stdout']], [200, 'whole\n']);
        assert.equal(await exitCode(gatewayOf(server)), 0);
        await assert.rejects(fetch(`${server.url}/health`));
        assert(!(await exists(join(server.workspace, 'late'))));
      });
    });

    test('who has connected before the port was closed is refused by name', async () => {
      await withServer({ split, env: { NOX_STOP_GRACE: '0' } }, async (server) => {
        const { port } = new URL(server.url);
        const early = connect(Number(port), '127.0.0.1');
        await once(early, 'connect');
        gatewayOf(server)?.kill('SIGTERM');
        await eventually('the port is closed', async () => (await refuses(Number(port))) === 'ECONNREFUSED');
        early.write(
          `POST /run_py HTTP/1.1\r\nhost: x\r\nauthorization: Bearer ${TOKEN}\r\ncontent-length: 12\r\n\r\n{"code": ""}`,
        );
        const answer = (await early.toArray()).join('');
        assert.match(answer, /^HTTP\/1\.1 503 .*"shutting_down"/s);
        assert.equal(await exitCode(gatewayOf(server)), 0);
      });
    });

    test('an upload under way is saved', async () => {
      await withServer({ split, env: { NOX_STOP_GRACE: '20' } }, async (server) => {
        const upload = request(`${server.url}/put?path=whole`, {
          method: 'POST',
          headers: { authorization: `Bearer ${TOKEN}`, 'content-type': 'multipart/form-data; boundary=b' },
        });
        upload.write('--b\r\ncontent-disposition: form-data; name="f"; filename="x"\r\n\r\nfirst ');
        await eventually('the upload has begun', () => readdirSync(server.workspace).length > 0);
        gatewayOf(server)?.kill('SIGTERM');
        await eventually('stopping', () => server.log().includes('"msg":"stopping"'));
        upload.end('second\r\n--b--\r\n');
        const [response] = (await once(upload, 'response')) as [{ statusCode: number }];
        assert.equal(response.statusCode, 200);
        assert.equal(await exitCode(gatewayOf(server)), 0);
        assert.equal(readFileSync(join(server.workspace, 'whole'), 'utf8'), 'first second');
      });
    });

    test('a run longer than the bound ends by name', async () => {
      await withServer({ split, env: { NOX_STOP_GRACE: '0.5', NOX_TIMEOUT: '100' } }, async (server) => {
        const { answer } = await begin(server, 90);
        gatewayOf(server)?.kill('SIGTERM');
        const { status, headers, body } = await answer;
        assert.deepEqual([status, body['code']], [503, 'shutting_down']);
        assert.equal(headers.get('retry-after'), '1');
        assert.equal(await exitCode(gatewayOf(server)), 0);
      });
    });

    test('nothing under way: it is gone at once, whatever the bound', async () => {
      await withServer({ split, env: { NOX_STOP_GRACE: '3600' } }, async (server) => {
        assert.equal((await runPy(server, 'print(1)')).status, 200);
        gatewayOf(server)?.kill('SIGTERM');
        assert.equal(await exitCode(gatewayOf(server)), 0);
      });
    });

    test('told twice, it does not wait', async () => {
      await withServer({ split, env: { NOX_STOP_GRACE: '3600', NOX_TIMEOUT: '100' } }, async (server) => {
        const { answer } = await begin(server, 90);
        answer.catch(() => undefined);
        gatewayOf(server)?.kill('SIGTERM');
        await eventually('stopping', () => server.log().includes('"msg":"stopping"'));
        gatewayOf(server)?.kill('SIGTERM');
        assert.equal(await exitCode(gatewayOf(server)), 1);
        await assert.rejects(answer);
      });
    });
  });
}

describe('the runner alone', () => {
  test('a run under way gets its answer; new ones, and one that waits for its slot, are refused by name', async () => {
    const env = { NOX_STOP_GRACE: '20', NOX_SLOTS: '1' };
    await withServer({ split: true, env }, async (server) => {
      const [runner] = server.processes;
      const { answer } = await begin(server, 3);
      const waiting = post(server, '/run_py', { code: '' });
      await sleep(300);
      runner?.kill('SIGTERM');
      for (const refused of [
        await waiting,
        await post(server, '/run_py', { code: '' }),
        await put(server, 'x', ''),
      ])
        assert.deepEqual([refused.status, refused.body['code']], [503, 'shutting_down']);
      assert.equal((await fetch(`${server.url}/health`)).status, 503);
      const { status, body } = await answer;
      assert.deepEqual([status, body['stdout']], [200, 'whole\n']);
      assert.equal(await exitCode(runner), 0);
      assert.equal((await post(server, '/run_py', { code: '' })).body['code'], 'runner_unavailable');
    });
  });

  test('a run longer than the bound ends by name', async () => {
    const env = { NOX_STOP_GRACE: '0.5', NOX_TIMEOUT: '100' };
    await withServer({ split: true, env }, async (server) => {
      const { answer } = await begin(server, 90);
      server.processes[0]?.kill('SIGTERM');
      const { status, body } = await answer;
      assert.deepEqual([status, body['code']], [503, 'shutting_down']);
      assert.equal(await exitCode(server.processes[0]), 0);
    });
  });
});

/** Prints each datagram that comes to the socket of a service manager, as JSON. */
const MANAGER = `
import json, socket, sys
manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
manager.bind(sys.argv[1])
print(json.dumps('bound'), flush=True)
while True: print(json.dumps(manager.recv(4096).decode()), flush=True)
`;

describe('what the service manager is told', () => {
  const launcher = fileURLToPath(new URL('../../deploy/notify.pl', import.meta.url));
  const readings = (lines: AsyncIterable<string>, heard: string[]) =>
    (async () => {
      for await (const line of lines) heard.push(JSON.parse(line) as string);
    })();

  async function withManager(use: (path: string, heard: string[]) => Promise<void>): Promise<void> {
    const path = join(await makeDirectory(), 'notify');
    const manager = spawn('/usr/bin/python3', ['-c', MANAGER, path], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    const heard: string[] = [];
    void readings(createInterface({ input: manager.stdout }), heard);
    try {
      await eventually('the manager listens', () => heard.length > 0);
      heard.length = 0;
      await use(path, heard);
    } finally {
      manager.kill();
    }
  }

  const program = (name: string, env: Record<string, string>, ...prefix: string[]) => {
    const argv = [...prefix, process.execPath, fileURLToPath(new URL(`../../dist/${name}`, import.meta.url))];
    return spawn('/usr/bin/perl', [launcher, ...argv], {
      env: { PATH: process.env['PATH'], ...env },
      stdio: ['ignore', 'ignore', 'inherit'],
    });
  };

  test('ready when it listens, alive as long as its event loop turns, stopping', async () => {
    await withManager(async (path, heard) => {
      const dir = await makeDirectory();
      const server = program('gateway/main.js', {
        NOTIFY_SOCKET: path,
        WATCHDOG_USEC: '600000',
        NOX_API_TOKEN: TOKEN,
        NOX_RUNNER_SOCKET: join(dir, 'no-runner'),
        NOX_STATE: join(dir, 'state'),
        NOX_PORT: '0',
        NOX_LOG_LEVEL: 'silent',
        NOX_STOP_GRACE: '5',
      });
      try {
        await eventually('ready', () => heard.includes('READY=1'));
        assert.equal(heard[0], 'READY=1', 'nothing before it');
        await eventually('signs of life', () => heard.filter((each) => each === 'WATCHDOG=1').length >= 3);
        server.kill('SIGSTOP');
        await sleep(200);
        const before = heard.length;
        await sleep(1500);
        assert.equal(heard.length, before, 'a stopped program gives no sign');
        server.kill('SIGCONT');
        await eventually('alive again', () => heard.length > before);
        server.kill('SIGTERM');
        assert.equal(await exitCode(server), 0);
        await eventually('stopping', () =>
          heard.some((each) => each.startsWith('STOPPING=1\nEXTEND_TIMEOUT_USEC=20000000')),
        );
      } finally {
        server.kill('SIGKILL');
      }
    });
  });

  test('children of the runner do not have its line to the manager', async () => {
    await withManager(async (path, heard) => {
      const dir = await makeDirectory();
      const socket = join(dir, 'runner.sock');
      const env = {
        NOX_RUNNER_SOCKET: socket,
        NOX_SANDBOX: join(dir, 'sandbox'),
        NOX_WORKSPACES: join(dir, 'workspaces'),
        NOX_LOG_LEVEL: 'silent',
      };
      const runner = program(
        'runner/main.js',
        { ...env, NOTIFY_SOCKET: path },
        '/usr/bin/env',
        'NOX_CGROUP=auto',
      );
      try {
        await eventually('ready', () => heard.includes('READY=1'));
        const { connect } = await import('../../src/transport/unix-socket.ts');
        const pid = String(runner.pid);
        const fd = /(?:^|\0)NOTIFY_FD=(\d+)/.exec(readFileSync(`/proc/${pid}/environ`, 'utf8'))?.[1];
        assert(fd !== undefined);
        const line = readlinkSync(`/proc/${pid}/fd/${fd}`);
        assert.match(line, /^socket:/);
        const list = [
          'python3',
          '-c',
          "import os; print([os.readlink('/proc/self/fd/' + n) for n in os.listdir('/proc/self/fd') if n != '3'], 'NOTIFY_FD' in os.environ)",
        ];
        const output: Buffer[] = [];
        const call = { id: 'a', program: { kind: 'command' as const, argv: list } };
        for await (const event of connect(socket).run(call, AbortSignal.timeout(20_000)))
          if (event.type === 'output') output.push(Buffer.from(event.data));
        const told = Buffer.concat(output).toString();
        assert.match(told, /False\n$/);
        assert(!told.includes('socket:'), told);
        const others = descendants(pid);
        let looked = 0;
        for (const each of others) {
          const open = descriptors(each);
          if (open.length > 0) looked += 1;
          assert(!open.includes(line), `process ${each} has ${line}`);
        }
        assert(looked >= 2, 'bwrap and the zygote are there');
        runner.kill('SIGTERM');
        assert.equal(await exitCode(runner), 0);
      } finally {
        runner.kill('SIGKILL');
      }
    });
  });

  test('a socket that cannot be reached, and a program that is not there, are named', async () => {
    for (const [env, argv, message] of [
      [
        { NOTIFY_SOCKET: '/nonexistent/notify' },
        ['/bin/true'],
        /connect to NOTIFY_SOCKET=\/nonexistent\/notify: No such/,
      ],
      [{}, ['/nonexistent/program'], /cannot execute \/nonexistent\/program: No such/],
    ] as const) {
      const child = spawn('/usr/bin/perl', [launcher, ...argv], {
        env: { ...env },
        stdio: ['ignore', 'ignore', 'pipe'],
      });
      let said = '';
      child.stderr.on('data', (data: Buffer) => (said += data.toString()));
      await once(child, 'close');
      assert.notEqual(child.exitCode, 0);
      assert.match(said, message);
    }
  });
});

/** What a process has open; nothing if it has gone. */
function descriptors(pid: string): string[] {
  try {
    return readdirSync(`/proc/${pid}/fd`).map((name) => readlinkSync(`/proc/${pid}/fd/${name}`));
  } catch {
    return [];
  }
}

function descendants(pid: string): string[] {
  let children: string[] = [];
  try {
    children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').split(' ').filter(Boolean);
  } catch {
    // It has ended.
  }
  return children.flatMap((child) => [child, ...descendants(child)]);
}

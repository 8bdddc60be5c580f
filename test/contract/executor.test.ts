/** What every transport must do alike: one suite, run over each. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile, readdir, rm } from 'node:fs/promises';
import { createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { after, before, describe, test } from 'node:test';
import { pino } from 'pino';
import { parseConfig, type Config } from '../../src/config.ts';
import type { ErrorCode } from '../../src/protocol/errors.ts';
import type { Executor } from '../../src/protocol/executor.ts';
import type { RunInput, RunRequest, RunResult } from '../../src/protocol/messages.ts';
import { NoxError } from '../../src/protocol/errors.ts';
import type { LocalExecutor } from '../../src/runner/executor.ts';
import { prepareRunner, startRunner } from '../../src/runner/start.ts';
import { connect as connectInProcess } from '../../src/transport/in-process.ts';
import { connect as connectSocket, serve, type SocketServer } from '../../src/transport/unix-socket.ts';
import { makeDirectory } from '../support/server.ts';

interface Connection {
  readonly executor: Executor;
  close(): Promise<void>;
}
type Transport = (runner: LocalExecutor, dir: string) => Promise<Connection>;

const TRANSPORTS: Readonly<Record<string, Transport>> = {
  'in-process': (runner) =>
    Promise.resolve({ executor: connectInProcess(runner), close: () => Promise.resolve() }),
  'unix socket': async (runner, dir) => {
    const path = join(dir, 'contract.sock');
    const server: SocketServer = await serve(runner, path, 4 * 1024 * 1024);
    return { executor: connectSocket(path), close: () => server.close() };
  },
};

const never = new AbortController().signal;
const shell = (script: string): RunRequest => ({
  id: 'contract',
  program: { kind: 'command', argv: ['bash', '-c', script] },
});
const python = (code: string): RunRequest => ({
  id: 'contract',
  program: { kind: 'python', code, args: [] },
});

interface Collected {
  readonly stdout: string;
  readonly stderr: string;
  readonly compile: string;
  readonly result: RunResult;
}

async function collect(executor: Executor, request: RunRequest, signal = never): Promise<Collected> {
  const text = { stdout: '', stderr: '', compile: '' };
  let result: RunResult | undefined;
  for await (const event of executor.run(request, signal)) {
    assert.equal(result, undefined, 'nothing comes after the end');
    if (event.type === 'end') result = event.result;
    else if (event.type === 'output') text[event.stream] += Buffer.from(event.data).toString();
  }
  assert(result !== undefined, 'a run ends with `end`');
  return { ...text, result };
}

const rejectsWith = (code: ErrorCode) => (error: unknown) => error instanceof NoxError && error.code === code;

async function* chunks(...parts: (string | Error)[]): AsyncGenerator<Uint8Array> {
  for (const part of parts) {
    await Promise.resolve();
    if (part instanceof Error) throw part;
    yield Buffer.from(part);
  }
}

/** Waits until a file of the workspace is there: a run's own sign that it has come so far. */
async function appears(path: string): Promise<void> {
  for (const deadline = Date.now() + 10_000; Date.now() < deadline;) {
    if (
      await readFile(path).then(
        () => true,
        () => false,
      )
    )
      return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.fail(`${path} did not appear`);
}

const dir = await makeDirectory();
const workspace = join(dir, 'sandbox');
const base = {
  NOX_SANDBOX: workspace,
  NOX_WORKSPACES: join(dir, 'workspaces'),
  NOX_SLOTS: '2',
  NOX_QUEUE: '2',
  NOX_MAX_OUTPUT: '64K',
  NOX_MAX_UPLOAD: '32M',
};
const config: Config = parseConfig('runner', base);
prepareRunner(config);
const log = pino({ level: 'silent' });

for (const [name, open] of Object.entries(TRANSPORTS)) {
  describe(name, () => {
    let runner: LocalExecutor;
    let connection: Connection;
    let executor: Executor;
    before(async () => {
      runner = (await startRunner(config, log)).executor;
      connection = await open(runner, dir);
      executor = connection.executor;
    });
    after(async () => {
      await connection.close();
      await runner.close();
    });

    test('what a run made of the files', async () => {
      await collect(
        executor,
        shell('mkdir -p changes/d; cd changes; echo 1 >kept; echo 1 >changed; echo 1 >d/gone'),
      );
      const { result } = await collect(executor, {
        ...shell('cd changes; echo 2 >changed; rm d/gone; echo 1 >d/new; ln -s kept link; cat kept'),
        changes: true,
      });
      assert.deepEqual(result.changes, {
        created: ['changes/d/new', 'changes/link'],
        changed: ['changes/changed'],
        removed: ['changes/d/gone'],
        truncated: false,
      });
      const many = await collect(executor, {
        ...shell('seq -f changes/n%g 1100 | xargs touch'),
        changes: true,
      });
      assert.deepEqual([many.result.changes?.created.length, many.result.changes?.truncated], [1000, true]);
      await collect(executor, shell('rm -r changes'));
    });

    test('output and exit code', async () => {
      const { stdout, stderr, result } = await collect(executor, shell('echo out; echo err >&2; exit 7'));
      assert.deepEqual(
        [stdout, stderr, result.outcome, result.exitCode, result.signal],
        ['out\n', 'err\n', 'failed', 7, null],
      );
      assert.deepEqual([result.usage.stdoutBytes, result.usage.stderrBytes], [4, 4]);
      assert(result.usage.wallSeconds > 0 && result.usage.peakMemoryBytes > 0);
      const { queueSeconds = -1, prepareSeconds = -1, runSeconds = -1 } = result.timings ?? {};
      assert(queueSeconds >= 0 && prepareSeconds >= 0 && runSeconds > 0);
    });

    test('a signal is told from an exit code', async () => {
      const { result } = await collect(executor, shell('kill -SEGV $$'));
      assert.deepEqual([result.outcome, result.exitCode, result.signal], ['signaled', null, 11]);
      assert.equal((await collect(executor, shell('exit 139'))).result.exitCode, 139);
    });

    test('stdin arrives whole', async () => {
      const stdin = 'line\n'.repeat(100_000);
      const { stdout } = await collect(executor, { ...shell('wc -c; cat'), stdin });
      assert.equal(stdout, `${stdin.length}\n`);
    });

    test('output is yielded while the program runs', async () => {
      await rm(join(workspace, 'seen'), { force: true });
      const seen: string[] = [];
      for await (const event of executor.run(
        shell('echo first; until [ -e seen ]; do sleep 0.02; done'),
        never,
      )) {
        if (event.type === 'end') seen.push(event.result.outcome);
        else if (event.type === 'output') {
          seen.push(Buffer.from(event.data).toString());
          await executor.put({ id: 'contract', path: 'seen' }, chunks(''), never);
        }
      }
      assert.deepEqual(seen, ['first\n', 'ok']);
    });

    test('output is bounded, and the result says by how much', async () => {
      const { stdout, result } = await collect(
        executor,
        python('import sys; sys.stdout.write("x" * 300_000)'),
      );
      assert.equal(result.usage.stdoutBytes, 300_000);
      assert.equal(result.omitted.stdout, 300_000 - 65_536);
      assert.match(stdout, /^x{32768}\n\[nox: 234464 bytes left out\]\nx{32768}$/);
    });

    test('a limit that a request lowers', async () => {
      const { result } = await collect(executor, { ...shell('sleep 60'), limits: { wallSeconds: 0.2 } });
      assert.deepEqual(
        [result.outcome, result.limit?.name, result.limit?.value],
        ['timeout', 'wallSeconds', 0.2],
      );
    });

    test('a limit that a request would raise is refused', async () => {
      const request = { ...shell('true'), limits: { wallSeconds: 3600 } };
      await assert.rejects(collect(executor, request), (error: NoxError) => {
        assert.equal(error.code, 'invalid_request');
        return /wallSeconds.*3600.*NOX_TIMEOUT/.test(error.message);
      });
    });

    test('what is no request is refused, and the next call works', async () => {
      await assert.rejects(
        collect(executor, { id: 'x', program: { kind: 'other' } } as never),
        rejectsWith('invalid_request'),
      );
      await assert.rejects(collect(executor, shell('a\0b')), rejectsWith('invalid_request'));
      assert.equal((await collect(executor, shell('true'))).result.outcome, 'ok');
    });

    test('an aborted run rejects with `cancelled` and leaves nothing alive', async () => {
      await rm(join(workspace, 'alive'), { force: true });
      const abort = new AbortController();
      const run = collect(
        executor,
        shell('(trap "" TERM; while :; do date +%s%N > alive; sleep 0.02; done) & wait'),
        abort.signal,
      );
      run.catch(() => undefined);
      await appears(join(workspace, 'alive'));
      abort.abort();
      await assert.rejects(run, rejectsWith('cancelled'));
      // A slot is free again only when the last process is dead.
      await Promise.all([collect(executor, shell('true')), collect(executor, shell('true'))]);
      const last = await readFile(join(workspace, 'alive'), 'utf8');
      await collect(executor, shell('sleep 0.2'));
      assert.equal(await readFile(join(workspace, 'alive'), 'utf8'), last);
    });

    test('leaving the loop ends the run', async () => {
      for await (const event of executor.run(shell('echo on; sleep 60'), never))
        if (event.type === 'output') break;
      // Both slots are free: two runs at once get through at once.
      const both = [collect(executor, shell('true')), collect(executor, shell('true'))];
      for (const { result } of await Promise.all(both)) assert.equal(result.outcome, 'ok');
    });

    test('a call that was aborted before it began', async () => {
      await assert.rejects(collect(executor, shell('true'), AbortSignal.abort()), rejectsWith('cancelled'));
    });

    test('a full queue refuses by name; what was let in runs', async () => {
      const runs = Array.from({ length: 8 }, () => collect(executor, shell('sleep 0.3; echo done')));
      const ends = await Promise.allSettled(runs);
      const done = ends.filter((end) => end.status === 'fulfilled' && end.value.stdout === 'done\n');
      const full = ends.filter((end) => end.status === 'rejected' && rejectsWith('queue_full')(end.reason));
      assert.deepEqual([done.length, full.length], [4, 4]);
    });

    test('put: the file is there for the next run', async () => {
      const result = await executor.put(
        { id: 'contract', path: '/a/b/data.txt' },
        chunks('hel', 'lo'),
        never,
      );
      assert.deepEqual(result, { saved: join(workspace, 'a/b/data.txt'), bytes: 5 });
      assert.equal((await collect(executor, shell('cat a/b/data.txt'))).stdout, 'hello');
    });

    test('put: a large body passes through', async () => {
      const part = 'x'.repeat(64 * 1024);
      const { bytes } = await executor.put(
        { id: 'contract', path: 'large' },
        chunks(...Array<string>(400).fill(part)),
        never,
      );
      assert.equal(bytes, 400 * 65_536);
      assert.equal((await collect(executor, shell('wc -c < large; rm large'))).stdout, `${bytes}\n`);
    });

    test('put: a path that leaves is refused without reading the body', async () => {
      let read = false;
      const body = (async function* () {
        read = true;
        await Promise.resolve();
        yield Buffer.from('x');
      })();
      const path = '../escape';
      await assert.rejects(executor.put({ id: 'contract', path }, body, never), rejectsWith('invalid_path'));
      // Over a socket the first piece may be on its way when the refusal comes; in one process it is never asked for.
      if (name === 'in-process') assert.equal(read, false);
    });

    test('put: too large is refused while the body is still coming', async () => {
      const endless = (async function* () {
        const part = Buffer.alloc(1024 * 1024);
        for (;;) {
          await new Promise((resolve) => setImmediate(resolve));
          yield part;
        }
      })();
      await assert.rejects(
        executor.put({ id: 'contract', path: 'endless' }, endless, never),
        rejectsWith('payload_too_large'),
      );
      assert(!(await readdir(workspace)).some((each) => each === 'endless' || each.startsWith('.nox-')));
    });

    test('put: a body that breaks off leaves the old file, and nothing else', async () => {
      await executor.put({ id: 'contract', path: 'kept' }, chunks('old'), never);
      const broken = chunks('ne', new Error('line cut'));
      await assert.rejects(executor.put({ id: 'contract', path: 'kept' }, broken, never));
      assert.equal(await readFile(join(workspace, 'kept'), 'utf8'), 'old');
      await settled(async () => (await readdir(workspace)).every((each) => !each.startsWith('.nox-')));
    });

    const scratch = (script: string, more: Partial<RunRequest> = {}): RunRequest => ({
      ...shell(script),
      workspace: { scratch: 'group' },
      ...more,
    });
    const base64 = (text: string) => Buffer.from(text).toString('base64');

    test('scratch: files and environment are there; the next run of the group sees nothing of it', async () => {
      // An upload that another test broke off may just be tidied away.
      const names = async () => (await readdir(workspace)).filter((each) => !each.startsWith('.nox-'));
      const before = await names();
      const files = [
        { path: 'a/b/c.txt', data: base64('deep') },
        { path: './top', data: base64('\u0000bytes') },
      ];
      const first = await collect(
        executor,
        scratch('cat a/b/c.txt; wc -c < top; echo $X; echo left > left; echo tmp > /tmp/left', {
          files,
          env: { X: 'from env' },
        }),
      );
      assert.equal(first.stdout, 'deep6\nfrom env\n', first.stderr);
      const second = await collect(executor, scratch('ls -A . /tmp; echo "[$X]"'));
      // What the workspace's own path begins with.
      assert.equal(second.stdout.replace(/nox-test-\w+\n/, ''), '.:\n\n/tmp:\n[]\n');
      assert.deepEqual(await names(), before);
    });

    test('scratch: workspace and /tmp have one bound together; what is over it is told inside by its name', async () => {
      const { stdout } = await collect(
        executor,
        scratch(
          'head -c 3000000 /dev/zero > a; head -c 3000000 /dev/zero 2>/dev/null > /tmp/b; head -c 1 /dev/zero > c; rm a; head -c 1000000 /dev/zero > d && echo again',
          { limits: { tmpBytes: 4 * 1024 * 1024 } },
        ),
      );
      assert.equal(stdout, 'again\n');
      const full = await collect(
        executor,
        scratch('head -c 9000000 /dev/zero > a', { limits: { tmpBytes: 4 * 1024 * 1024 } }),
      );
      assert.match(full.stderr, /No space left on device/);
      assert.equal(full.result.exitCode, 1);
    });

    test('what keeps a run from beginning is told before `started`', async () => {
      const file = (path: string, data = '') => ({ path, data });
      const runtime = { kind: 'runtime' as const, runtime: 'nothing', code: '', args: [] };
      const bad: [ErrorCode, RunRequest][] = [
        ['unknown_runtime', { ...scratch(''), program: runtime }],
        ['workspace_not_found', { ...shell('true'), workspace: { id: 'nobody' } }],
        ['invalid_path', scratch('true', { files: [file('../x')] })],
        ['invalid_path', scratch('true', { files: [file('a\0b')] })],
        ['invalid_path', scratch('true', { files: [file('x'.repeat(300))] })],
        [
          'invalid_request',
          scratch('true', { files: Array.from({ length: 1001 }, (_, n) => file(`f${String(n)}`)) }),
        ],
        [
          'invalid_request',
          scratch('true', { files: Array.from({ length: 900 }, (_, n) => file(`f${String(n)}`)) }),
        ],
        [
          'workspace_full',
          scratch('true', { files: [file('a', 'A'.repeat(2_000_000))], limits: { tmpBytes: 1024 * 1024 } }),
        ],
        ['invalid_request', scratch('true', { env: { 'A=B': 'x' } })],
        ['invalid_request', scratch('true', { env: { 'A\0LD_PRELOAD': 'x' } })],
        ['invalid_request', scratch('true', { env: { A: 'x\0y' } })],
        ['invalid_request', scratch('true', { env: { A: 'x'.repeat(200_000) } })],
        ['invalid_path', scratch('true', { files: [file('a'), file('a/b')] })],
        ['invalid_path', scratch('true', { files: [file('a/b/c'), file('a')] })],
        [
          'invalid_request',
          scratch('true', { files: [file('a', 'A'.repeat(8192))], limits: { fileBytes: 4096 } }),
        ],
      ];
      for (const [code, request] of bad) {
        const events: string[] = [];
        const going = (async () => {
          for await (const { type } of executor.run({ ...request, output: 'all' }, never)) events.push(type);
        })();
        await assert.rejects(going, rejectsWith(code), JSON.stringify(request).slice(0, 200));
        assert.deepEqual(events, []);
      }
    });

    test('a file twice: the last; and nothing of that is a fault of the machine', async () => {
      const files = ['1', '2'].map((data) => ({ path: 'twice', data: base64(data) }));
      assert.equal((await collect(executor, scratch('cat twice', { files }))).stdout, '2');
      assert.deepEqual(await executor.health(), { ok: true, status: 'ok' });
    });

    test('output `all`: `started` first and once; 50 MB whole and in order, to a reader that stops in between', async () => {
      const count = 6_000_000;
      const types: string[] = [];
      let bytes = 0;
      let next = 1;
      let rest = '';
      for await (const event of executor.run({ ...scratch(`seq ${String(count)}`), output: 'all' }, never)) {
        if (types.at(-1) !== event.type) types.push(event.type);
        if (event.type !== 'output') continue;
        if (bytes === 0) await new Promise((resolve) => setTimeout(resolve, 500));
        bytes += event.data.length;
        const lines = (rest + Buffer.from(event.data).toString()).split('\n');
        rest = lines.pop() ?? '';
        for (const line of lines)
          if (line !== String(next++)) assert.fail(`${line} in the place of ${String(next - 1)}`);
      }
      assert.equal(next - 1, count);
      assert.deepEqual(types, ['started', 'output', 'end']);
    });

    test('output `all`: what a program leaves in a full pipe at its end is not lost', async () => {
      for (const size of [1_100_000, 1_200_000, 1_250_000, 1_300_000]) {
        let got = 0;
        const request = { ...scratch(`head -c ${String(size)} /dev/zero`), output: 'all' as const };
        for await (const event of executor.run(request, never)) {
          if (event.type !== 'output') continue;
          if (got === 0) await new Promise((resolve) => setTimeout(resolve, 300));
          got += event.data.length;
        }
        assert.equal(got, size);
      }
    });

    test('output `all`: a reader that stops holds the program up', async () => {
      const request = {
        ...shell('head -c 50000000 /dev/zero; echo done > held'),
        output: 'all' as const,
      };
      await rm(join(workspace, 'held'), { force: true });
      let first = true;
      let got = 0;
      for await (const event of executor.run(request, never)) {
        if (event.type !== 'output') continue;
        got += event.data.length;
        if (!first) continue;
        first = false;
        await new Promise((resolve) => setTimeout(resolve, 800));
        assert.ok(!(await readdir(workspace)).includes('held'));
      }
      assert.equal(got, 50_000_000);
      await appears(join(workspace, 'held'));
    });

    test('input: before and after the start, its end, and a signal that does not wait for input', async () => {
      const inputs = async function* (): AsyncGenerator<RunInput> {
        yield { type: 'stdin', data: Buffer.from('one\n') };
        await new Promise((resolve) => setTimeout(resolve, 200));
        yield { type: 'stdin', data: Buffer.from('two\n') };
        yield { type: 'stdin_end' };
        yield { type: 'stdin', data: Buffer.from('late\n') };
      };
      let text = '';
      const cat = { ...scratch('cat; echo end'), stdin: 'zero\n', interactive: true };
      for await (const event of executor.run(cat, never, inputs()))
        if (event.type === 'output') text += Buffer.from(event.data).toString();
      assert.equal(text, 'zero\none\ntwo\nend\n');

      const up = Promise.withResolvers<undefined>();
      const unread = async function* (): AsyncGenerator<RunInput> {
        await up.promise;
        for (let each = 0; each < 8; each += 1) yield { type: 'stdin', data: Buffer.alloc(300_000) };
        yield { type: 'signal', signal: 10 };
      };
      const deaf = {
        ...scratch('trap "exit 5" USR1; echo up; while :; do sleep 0.05; done'),
        interactive: true,
      };
      let exitCode: number | null = null;
      for await (const event of executor.run(deaf, never, unread())) {
        if (event.type === 'output') up.resolve(undefined);
        if (event.type === 'end') ({ exitCode } = event.result);
      }
      assert.equal(exitCode, 5);
    });

    test('input that is none, and none at all: the run ends as it would', async () => {
      const bad = async function* (): AsyncGenerator<RunInput> {
        yield { type: 'signal', signal: 4711 };
        yield { type: 'nonsense' } as never;
        await Promise.resolve();
      };
      const request = { ...scratch('sleep 0.3; echo done'), interactive: true };
      let outcome = '';
      for await (const event of executor.run(request, never, bad()))
        if (event.type === 'end') ({ outcome } = event.result);
      assert.equal(outcome, 'ok');
    });

    test('health', async () => {
      assert.deepEqual(await executor.health(), { ok: true, status: 'ok' });
    });
  });
}

describe('the end of the runner', () => {
  for (const [name, open] of Object.entries(TRANSPORTS)) {
    test(`${name}: runs under way end as cancelled, waiting and new ones are refused`, async () => {
      const runner = (await startRunner(config, log)).executor;
      const connection = await open(runner, dir);
      const { executor } = connection;
      const running = [
        collect(executor, shell('echo up > up1; sleep 60')),
        collect(executor, shell('echo up > up2; sleep 60')),
      ];
      await appears(join(workspace, 'up1'));
      await appears(join(workspace, 'up2'));
      const waiting = collect(executor, shell('true'));
      waiting.catch(() => undefined);
      await settled(() => Promise.resolve(runner.waiting === 1));
      await runner.close();
      for (const { result } of await Promise.all(running)) assert.equal(result.outcome, 'cancelled');
      await assert.rejects(waiting, rejectsWith('shutting_down'));
      await assert.rejects(collect(executor, shell('true')), rejectsWith('shutting_down'));
      assert.equal((await executor.health()).ok, false);
      await connection.close();
      await rm(join(workspace, 'up1'));
      await rm(join(workspace, 'up2'));
    });
  }

  test('unix socket: a runner that is not there', async () => {
    const executor = connectSocket(join(dir, 'nobody.sock'));
    await assert.rejects(collect(executor, shell('true')), rejectsWith('runner_unavailable'));
    await assert.rejects(
      executor.put({ id: 'x', path: 'x' }, chunks('x'), never),
      rejectsWith('runner_unavailable'),
    );
    assert.deepEqual(await executor.health(), { ok: false, status: 'the runner does not answer' });
  });

  // A runner that is killed: the kernel closes its sockets one by one, the one that it listens on perhaps last.
  const LOST: readonly (readonly [string, boolean, (socket: Socket) => void])[] = [
    ['before it has read the call', true, (socket) => socket.destroy()],
    ['when it has read the call', false, (socket) => socket.resume().once('data', () => socket.destroy())],
  ];
  for (const [when, unsent, end] of LOST)
    test(`unix socket: a connection that breaks ${when} ${unsent ? 'can' : 'cannot'} be tried again`, async (t) => {
      const path = join(dir, 'lost.sock');
      const server = createServer({ pauseOnConnect: true }, end).listen(path);
      t.after(() => server.close());
      await once(server, 'listening');
      await assert.rejects(
        collect(connectSocket(path), shell('true')),
        (error) => rejectsWith('runner_unavailable')(error) && (error as NoxError).unsent === unsent,
      );
    });

  test('unix socket: a connection that was never accepted can be tried again', async (t) => {
    const path = join(dir, 'deaf.sock');
    const deaf = `require('node:net').createServer().listen(${JSON.stringify(path)}, () => {
      require('node:fs').writeSync(1, 'up');
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 60000);
    })`;
    const child = spawn(process.execPath, ['-e', deaf], { stdio: ['ignore', 'pipe', 'inherit'] });
    t.after(() => child.kill('SIGKILL'));
    await once(child.stdout, 'data');
    const lost = assert.rejects(
      collect(connectSocket(path), shell('true')),
      (error) => rejectsWith('runner_unavailable')(error) && (error as NoxError).unsent,
    );
    await new Promise((resolve) => setTimeout(resolve, 200));
    child.kill('SIGKILL');
    await lost;
  });
});

async function settled(condition: () => Promise<boolean>): Promise<void> {
  for (const deadline = Date.now() + 10_000; Date.now() < deadline;) {
    if (await condition()) return;
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
  assert.fail('the condition did not come about');
}

/** Attacks by processes: outliving the answer, starving the machine, turning on process 1, forging its report. */
import { availableParallelism } from 'node:os';
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import {
  makeDirectory,
  post,
  runPy,
  runSh,
  startServer,
  TOKEN,
  withServer,
  type RunAnswer,
  type Server,
} from '../support/server.ts';
import {
  alive,
  aliveIn,
  assertHealthy,
  childrenOf,
  inside,
  loot,
  NAMESPACE,
  outcome,
  py,
  read,
  SAY_NAMESPACE,
  uniqueSeconds,
  until,
} from './attack.ts';

let server: Server;
/** Its runs end after a second. */
let brief: Server;
before(async () => {
  server = await startServer({ env: { NOX_TIMEOUT: '10', NOX_MAX_PROCESSES: '64' } });
  brief = await startServer({ env: { NOX_TIMEOUT: '1', NOX_MAX_PROCESSES: '64' } });
});
after(async () => {
  await server.stop();
  await brief.stop();
});

/**
 * Daemons as stubborn as they come: twice forked, in sessions of their own, deaf to every signal that can be
 * ignored, holding the pipes; one that has let go of everything; one that was stopped. Each is a `sleep` for
 * `seconds`, by which the host finds it.
 */
const daemons = (seconds: string): string => `
import os, signal, sys
def daemon(prepare):
    r, w = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            prepare()
            os.set_inheritable(w, False)
            os.execvp('sleep', ['sleep', '${seconds}'])
        os._exit(0)
    os.close(w)
    os.read(r, 1)
    os.close(r)
def deaf():
    for number in signal.valid_signals():
        try: signal.signal(number, signal.SIG_IGN)
        except OSError: pass
def detached():
    deaf()
    os.closerange(0, 3)
def blocked(): signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
def stopped():
    pid = os.getpid()
    if os.fork() == 0:
        os.kill(pid, signal.SIGSTOP)
        os._exit(0)
for prepare in (deaf, detached, blocked): daemon(prepare)
print('planted', flush=True)
`;

async function untilPlanted(seconds: string): Promise<void> {
  await until('the daemons live', () => alive(seconds).length > 0);
}

test('leaves daemons behind that ignore every signal and hold the pipes', async () => {
  const seconds = uniqueSeconds();
  const began = performance.now();
  // The one that looks is another run: nothing of the first may be alive when its answer is here.
  const code = `${daemons(seconds)}
import time
while not os.path.exists('seen'): time.sleep(0.01)`;
  const answer = runPy(server, code);
  await untilPlanted(seconds);
  await inside(server, `open('seen', 'w').close()`);
  const { status, body } = await answer;
  assert.deepEqual(alive(seconds), []);
  assert.deepEqual([status, body.returncode, body.stdout], [200, 0, 'planted\n']);
  assert.ok(performance.now() - began < 8000);
  await inside(server, `import os; os.unlink('seen')`);
});

test('leaves daemons behind at its timeout', async () => {
  const seconds = uniqueSeconds();
  await withServer({ env: { NOX_TIMEOUT: '5' } }, async (of) => {
    const answer = runPy(of, `${daemons(seconds)}\nimport time; time.sleep(60)`);
    await untilPlanted(seconds);
    const { status, body } = await answer;
    assert.deepEqual(alive(seconds), []);
    assert.equal(status, 408);
    assert.equal(body.stdout, 'planted\n');
    await assertHealthy(of);
  });
});

test('ignores SIGTERM and SIGALRM, blocks all signals and stops its children at its timeout', async () => {
  const seconds = uniqueSeconds();
  const { status } = await runSh(brief, [
    'bash',
    '-c',
    `trap '' TERM INT HUP QUIT ALRM PIPE; sleep ${seconds} & kill -STOP $!; setsid sleep ${seconds} & while :; do sleep 0.1; done`,
  ]);
  assert.equal(status, 408);
  assert.deepEqual(alive(seconds), []);
});

test('outlives the client that went away', async () => {
  const seconds = uniqueSeconds();
  const gone = new AbortController();
  const answer = post(
    server,
    '/run_py',
    { code: `${daemons(seconds)}\nimport time; time.sleep(60)` },
    gone.signal,
  );
  await untilPlanted(seconds);
  gone.abort();
  await assert.rejects(answer, { name: 'AbortError' });
  await until('nothing of the run is alive', () => alive(seconds).length === 0);
  await assertHealthy(server);
});

for (const [signal, way] of [
  ['SIGTERM', 'is stopped'],
  ['SIGKILL', 'is killed by -9'],
] as const) {
  test(`outlives the server when it ${way}`, async () => {
    const seconds = uniqueSeconds();
    const doomed = await startServer();
    try {
      const answer = runPy(doomed, `${daemons(seconds)}\nimport time; time.sleep(60)`).catch(() => undefined);
      await untilPlanted(seconds);
      doomed.processes[0]?.kill(signal);
      await until('nothing of the run is alive', () => alive(seconds).length === 0);
      await answer;
    } finally {
      await doomed.stop();
    }
  });
}

test('outlives a server that is killed while runs are being started', async () => {
  for (let round = 0; round < 4; round += 1) {
    const doomed = await startServer({ env: { NOX_SLOTS: '16' } });
    const [child] = doomed.processes;
    const survivors = () => alive(`${doomed.workspace}/`);
    try {
      const code = 'import time; time.sleep(1000)';
      const answers = Array.from({ length: 16 }, () => runPy(doomed, code).catch(() => undefined));
      // Some of them are in each stage of their birth.
      await until('runs are being made', () => alive(doomed.workspace).length > 2 + 3 * round);
      child?.kill('SIGKILL');
      await Promise.all(answers);
      await until('no run is alive', () => survivors().length === 0, 5000);
    } finally {
      for (const pid of survivors()) process.kill(pid, 'SIGKILL');
      await doomed.stop();
    }
  }
});

/** Runs while the attack goes on; gives the slowest /health. */
/** The median: on a busy machine one of them may have to wait, without anybody's doing. In milliseconds. */
async function usualHealth(of: Server, during: Promise<unknown>): Promise<number> {
  const took: number[] = [];
  const end = during.then(() => 'over');
  do {
    const began = performance.now();
    const response = await fetch(`${of.url}/health`);
    await response.text();
    assert.equal(response.status, 200);
    took.push(performance.now() - began);
  } while ((await Promise.race([end, sleep(50)])) !== 'over');
  return took.sort((a, b) => a - b)[took.length >> 1] ?? NaN;
}

/** NOX_SLOTS' default. */
const SLOTS = Math.max(2, availableParallelism());

/** 0 for a process that has ended. */
function tasksOf(pid: number): number {
  try {
    return readdirSync(`/proc/${String(pid)}/task`).length;
  } catch {
    return 0;
  }
}

/**
 * Below the server is nothing but bwrap, the zygote, and spares: an init with one child that has no thread and no
 * child and sleeps. There is one for each slot at most, so that nothing of a run can pass for one for long.
 */
function onlySpares(of: Server): boolean {
  const sandboxes = childrenOf(of.processes[0]?.pid);
  // Of each cell its init, and the program that waits for its plan.
  const cells = sandboxes.flatMap(childrenOf).flatMap(childrenOf);
  const waits = (pid: number) =>
    /^State:\tS/m.test(read(`/proc/${String(pid)}/status`)) && tasksOf(pid) === 1;
  return (
    sandboxes.length === 1 &&
    sandboxes.flatMap(childrenOf).length === 1 &&
    cells.length <= 2 * SLOTS &&
    cells.every((pid) => waits(pid) && childrenOf(pid).length === 0)
  );
}

const BOMBS: Readonly<Record<string, (of: Server) => Promise<RunAnswer>>> = {
  // Each says first in which namespace it is.
  'a fork bomb in Python': (of) =>
    runPy(
      of,
      `${NAMESPACE}
while True:
    try: os.fork()
    except OSError: pass`,
    ),
  'a fork bomb in the shell': (of) =>
    runSh(of, ['bash', '-c', `${SAY_NAMESPACE}; :(){ :|:& };:; wait; sleep 5`]),
  'a fork bomb by vfork and exec of itself': (of) =>
    runSh(of, [
      'bash',
      '-c',
      `${SAY_NAMESPACE}; echo 'bash bomb.sh & bash bomb.sh & wait' > bomb.sh; exec bash bomb.sh`,
    ]),
  'a storm of short-lived processes': (of) =>
    runSh(of, ['bash', '-c', `${SAY_NAMESPACE}; while :; do /bin/true & done`]),
  'a storm of orphans for process 1': (of) =>
    runPy(
      of,
      `${NAMESPACE}
while True:
    try:
        if os.fork() == 0:
            try: os.fork()
            finally: os._exit(0)
        os.wait()
    except OSError: pass`,
    ),
};

for (const [name, bomb] of Object.entries(BOMBS)) {
  test(`sets off ${name}`, async () => {
    const answer = bomb(brief);
    const ms = await usualHealth(brief, answer);
    assert.ok(ms < 1000, `/health took ${String(Math.round(ms))} ms`);
    const { status, headers, body } = await answer;
    assert.deepEqual(aliveIn(body.stdout), []);
    assert.ok(
      status === 408 || (status === 200 && outcome({ headers }) !== 'ok'),
      `${String(status)} ${String(outcome({ headers }))}`,
    );
    await until('only spares are alive', () => onlySpares(brief));
    await assertHealthy(brief);
  });
}

test('makes 10,000 threads', async () => {
  const got = await inside(
    server,
    `
import threading
started, go = 0, threading.Event()
threading.stack_size(65536)
try:
    for _ in range(10000):
        threading.Thread(target=go.wait, daemon=True).start()
        started += 1
except RuntimeError: pass
print(started)`,
  );
  assert.ok(Number(got) > 0 && Number(got) <= 64, got);
  await assertHealthy(server);
});

test('makes more processes than it may, while another run needs some', async () => {
  const hog = runPy(
    server,
    `
import os, time
n = 0
while True:
    try:
        if os.fork() == 0: time.sleep(60)
        n += 1
    except OSError: break
print(n)
open('full', 'w').close()
while os.path.exists('full'): time.sleep(0.02)`,
  );
  const got = await inside(
    server,
    `
import os, subprocess, time
while not os.path.exists('full'): time.sleep(0.02)
try: print([subprocess.run(['echo', str(n)], capture_output=True, text=True).stdout for n in range(3)])
finally: os.unlink('full')`,
  );
  assert.equal(got, `['0\\n', '1\\n', '2\\n']`);
  const { body } = await hog;
  assert.ok(Number(body.stdout) > 0 && Number(body.stdout) <= 64, body.stdout);
});

test('signals everybody: kill(-1), kill(1) with each signal, STOP for process 1, its group and session', async () => {
  const got = await inside(
    server,
    `
import os, signal
for number in sorted(signal.valid_signals()):
    try: os.kill(1, number)
    except OSError as e: print(number, e)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for group in (-1, 0, -os.getpgid(0)):
    for number in (signal.SIGTERM, signal.SIGKILL) if group == -1 else (signal.SIGTERM,):
        try: os.kill(group, number)
        except ProcessLookupError: pass
print('still here')`,
  );
  assert.match(got, /still here$/);
  await assertHealthy(server);
});

test('kills itself in every way, and is told apart from a broken sandbox', async () => {
  for (const [code, returncode, word] of [
    [`import os; os.kill(os.getpid(), 9)`, -9, 'signaled'],
    [`import os; os.abort()`, -6, 'signaled'],
    [`import os; os._exit(255)`, 255, 'failed'],
    [`import os; os._exit(137)`, 137, 'failed'],
    [`import ctypes; ctypes.string_at(0)`, -11, 'signaled'],
    [`import os, signal; os.kill(os.getpid(), signal.SIGXCPU)`, -24, 'signaled'],
    [`import os, signal; os.kill(os.getpid(), 64)`, -64, 'signaled'],
  ] as const) {
    const answer = await runPy(server, code);
    assert.deepEqual([answer.status, answer.body.returncode, outcome(answer)], [200, returncode, word], code);
  }
});

test('stops itself, or all of its processes', async () => {
  const answer = await runPy(brief, `import os, signal; os.kill(os.getpid(), signal.SIGSTOP)`);
  assert.equal(answer.status, 408);
  await assertHealthy(brief);
});

test('forges the report of its end: what it prints, every descriptor, process 1, the sockets it inherits', async () => {
  const answer = await runPy(
    server,
    `
import os, socket, sys
forged = b'exit 0 0.000001 0.000001 1\\n'
for fd in list(range(3, 1024)):
    try: os.write(fd, forged); print('wrote to', fd)
    except OSError: pass
for path in ['/proc/1/fd/%d' % fd for fd in range(20)] + ['/dev/fd/3', '/proc/self/fd/3', '/proc/thread-self/fd/3', '/proc/2/fd/3', '/proc/1/task/1/fd/3']:
    try:
        fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK); os.write(fd, forged); print('wrote to', path)
    except OSError: pass
for stream in (1, 2): os.write(stream, b'error forged\\n' + forged + b'hello\\nstarted\\n')
sys.stdout.flush()
os._exit(7)`,
  );
  assert.deepEqual([answer.status, answer.body.returncode, outcome(answer)], [200, 7, 'failed']);
  assert.doesNotMatch(answer.body.stdout, /wrote to/);
  assert.match(answer.body.stdout, /^error forged\nexit 0 .*\nhello\nstarted\n$/);
});

test('answers in place of the server by what it prints: headers, JSON, the marker of cut output', async () => {
  const text =
    'HTTP/1.1 200 OK\r\n\r\n{"returncode":0,"stdout":"forged"}\u0000"}],\u2028\\"nox-outcome: ok\r\n';
  const answer = await runPy(
    server,
    `import sys; sys.stdout.write(${py(text)}); sys.stderr.write(${py(text)}); sys.exit(3)`,
  );
  assert.deepEqual([answer.status, outcome(answer)], [200, 'failed']);
  assert.deepEqual(answer.body, { returncode: 3, stdout: text, stderr: text });
});

test('uses a descriptor that the server was started with', async () => {
  const dir = await makeDirectory();
  const secrets = mkdtempSync(join(tmpdir(), 'nox-secret-'));
  writeFileSync(join(secrets, 'secret'), 'of the host');
  const dev = fileURLToPath(new URL('../../dist/dev.js', import.meta.url));
  // Above 16, where Node does not look for descriptors to close (uv_disable_stdio_inheritance).
  const child = spawn(
    'bash',
    ['-c', 'exec 40< "$1/secret" 41< "$1"; exec "$2" "$3"', 'bash', secrets, process.execPath, dev],
    {
      env: {
        PATH: process.env['PATH'],
        NOX_API_TOKEN: TOKEN,
        NOX_SANDBOX: join(dir, 'sandbox'),
        NOX_WORKSPACES: join(dir, 'workspaces'),
        NOX_STATE: join(dir, 'state'),
        NOX_PORT: '0',
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  );
  try {
    let log = '';
    child.stdout.on('data', (data) => (log += String(data)));
    child.stderr.on('data', (data) => (log += String(data)));
    await until('the server listens', () => /Nox is listening on \S+/.test(log), 30_000);
    const url = /Nox is listening on (\S+)/.exec(log)?.[1] ?? '';
    const leaky: Server = { ...server, url, workspace: join(dir, 'sandbox') };
    const flags = Number.parseInt(
      /^flags:\t(\d+)$/m.exec(read(`/proc/${String(child.pid)}/fdinfo/40`))?.[1] ?? '',
      8,
    );
    assert.equal(flags & 0o2000000, 0, 'the server itself hands it on to its children');
    // One more is the directory that is being listed.
    assert.deepEqual(
      await loot(leaky, `import os, json; print(json.dumps(sorted(map(int, os.listdir('/proc/self/fd')))))`),
      [0, 1, 2, 3],
    );
    const { body } = await runSh(leaky, ['bash', '-c', 'cat <&40; ls /proc/self/fd/41/; ls /proc/$$/fd']);
    assert.match(body.stdout, /^0\n1\n2\n(3|255)\n$/);
  } finally {
    child.kill('SIGTERM');
    if (child.exitCode === null) await once(child, 'exit');
    rmSync(dir, { recursive: true });
    rmSync(secrets, { recursive: true });
  }
});

test('passes its pipes to the next run of the same slot, or reads what that one prints', async () => {
  const few = await startServer({ env: { NOX_SLOTS: '1' } });
  try {
    await inside(
      few,
      `import os; os.set_blocking(1, False); os.set_blocking(2, False); os.set_blocking(0, False)`,
    );
    // A pipe's flags belong to its opening: the next one must find it blocking, and empty.
    const got = await inside(
      few,
      `import os, sys; print(os.get_blocking(1), os.get_blocking(2)); sys.stdout.write('x' * 200000)`,
    );
    assert.equal(got.slice(0, 10), 'True True\n');
    assert.equal(got.length, 200_010);
    await runPy(few, `import os; os.write(1, b'y' * 60000); os.kill(os.getpid(), 9)`);
    assert.equal(await inside(few, `print('clean')`), 'clean');
    const shrunk = await inside(few, `import fcntl; print(fcntl.fcntl(1, 1031, 4096))`);
    assert.equal(shrunk, '4096');
    assert.equal(await inside(few, `print('clean')`), 'clean');
  } finally {
    await few.stop();
  }
});

test("finds another run's code or arguments in /proc, /tmp or the workspace", async () => {
  const secret = `secret-${uniqueSeconds()}`;
  const victim = runPy(
    server,
    `# ${secret}
import os, time
open('/tmp/${secret}', 'w').close()
open('running', 'w').close()
while not os.path.exists('looked'): time.sleep(0.02)
os.unlink('looked'); os.unlink('running')`,
    { args: [secret], stdin: secret },
  );
  const got = await inside(
    server,
    `
import os, sys, time
secret = bytes.fromhex(sys.argv[1]).decode()
while not os.path.exists('running'): time.sleep(0.02)
for pid in [p for p in os.listdir('/proc') if p.isdigit() and p != str(os.getpid())]:
    for name in ('cmdline', 'environ', 'maps', 'mountinfo', 'comm'):
        try:
            if secret in open(f'/proc/{pid}/{name}').read(): print(pid, name)
        except OSError: pass
for top in ('.', '/tmp', '/dev/shm', '/run'):
    for dir, dirs, names in os.walk(top):
        for name in names + dirs:
            if secret in name: print(dir, name)
            try:
                if secret in open(dir + '/' + name).read(): print(dir, name)
            except (OSError, UnicodeDecodeError): pass
open('looked', 'w').close()`,
    { args: [Buffer.from(secret).toString('hex')] },
  );
  assert.equal(got, '');
  assert.equal((await victim).body.returncode, 0);
});

test('piles up zombies and half-dead processes until the server runs out of something', async () => {
  const [{ pid } = { pid: 0 }] = server.processes;
  const descriptors = () => readdirSync(`/proc/${String(pid)}/fd`).length;
  const attack = () =>
    Promise.all(
      Array.from({ length: 40 }, (_, n) =>
        runPy(
          server,
          n % 2 === 0
            ? `${NAMESPACE}\nfor _ in range(30): os.fork() or os._exit(0)`
            : `${NAMESPACE}\nos.fork(); os.kill(os.getpid(), 9)`,
        ),
      ),
    );
  // The connections of the clients stay open for the second time.
  await attack();
  const before = descriptors();
  const answers = await attack();
  assert.deepEqual(new Set(answers.map(({ body }) => body.returncode)), new Set([0, -9]));
  await until('the descriptors are closed', () => descriptors() <= before + 5);
  for (const { body } of answers) assert.deepEqual(aliveIn(body.stdout), []);
  await until('only spares are alive', () => onlySpares(server));
});

test('floods process 1 with signals and children while it ends', async () => {
  const { body, headers } = await runPy(
    server,
    `
import os, signal
for _ in range(20):
    if os.fork() == 0:
        while True:
            for number in (signal.SIGCHLD, signal.SIGUSR1, signal.SIGALRM, 40):
                os.kill(1, number)
os._exit(5)`,
  );
  assert.equal(body.returncode, 5);
  assert.equal(outcome({ headers }), 'failed');
});

/**
 * clone(CLONE_VM | CLONE_VFORK | CLONE_PARENT) and exit, for ever: each child is process 1's to bury, which costs it a
 * second of CPU time in a few seconds.
 */
const STORM = `
import struct
code = bytes.fromhex('b838000000' 'bf11c10000' '31f6' '31d2' '4d31d2' '4d31c0' '0f05' '85c0' '75e6' 'b83c000000' '31ff' '0f05')
base = 0x400000
elf = b'\\x7fELF\\x02\\x01\\x01' + bytes(9) + struct.pack('<HHIQQQIHHHHHH', 2, 62, 1, base + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0)
elf += struct.pack('<IIQQQQQQ', 1, 5, 0, base, base, 120 + len(code), 120 + len(code), 4096) + code
open('/tmp/storm', 'wb').write(elf)
os.chmod('/tmp/storm', 0o755)
os.execv('/tmp/storm', ['storm'])`;

test('sets limits for process 1, so that the kernel kills it and the sandbox looks broken', async () => {
  const answer = await runPy(
    server,
    `
import os, resource, time
refused = True
for name in ('RLIMIT_CPU', 'RLIMIT_AS', 'RLIMIT_DATA', 'RLIMIT_STACK', 'RLIMIT_NOFILE'):
    try:
        resource.prlimit(1, getattr(resource, name), (1, 1))
        refused = False
    except OSError: pass
print('refused' if refused else 'set', flush=True)
if refused: raise SystemExit
${process.arch === 'x64' ? STORM : ''}`,
  );
  const health = await fetch(`${server.url}/health`);
  await until(
    'the server is healthy again',
    async () => (await fetch(`${server.url}/health`)).status === 200,
  );
  assert.deepEqual([answer.status, health.status, answer.body.stdout], [200, 200, 'refused\n']);
});

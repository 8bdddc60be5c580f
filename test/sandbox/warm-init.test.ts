/** Endings that init and the zygote are to get wrong. */
import assert from 'node:assert/strict';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { runPy, runSh, startServer, type Server } from '../support/server.ts';
import { assertHealthy, outcome, SYSCALL, until } from './attack.ts';
import { isThere, logged } from './warm.ts';

let server: Server;
/** All its runs are of one slot, each in the place of the one before. */
let single: Server;
before(async () => {
  server = await startServer({ env: { NOX_TIMEOUT: '10', NOX_MAX_PROCESSES: '64', NOX_SLOTS: '4' } });
  single = await startServer({ env: { NOX_TIMEOUT: '10', NOX_SLOTS: '1', NOX_MAX_PROCESSES: '64' } });
});
after(async () => {
  await Promise.all([server.stop(), single.stop()]);
});

const FORGED = `b'end 1 exit 0 1 1 1\\ngone 1\\nup 1\\nfailed forged\\n'`;

/** A program, its exit code, its outcome; each must be answered at once, and the server stay healthy. */
const PUZZLES: readonly [name: string, code: string, returncode: number, word: string][] = [
  ['closes every descriptor', `import os; os.closerange(0, 4096); os._exit(4)`, 4, 'failed'],
  [
    'leaves 40 zombies and exits',
    `import os\nfor _ in range(40): os.fork() or os._exit(0)\nos._exit(6)`,
    6,
    'failed',
  ],
  [
    'leaves children of process 1 that exit 0 before and after it (CLONE_PARENT)',
    `${SYSCALL}
for n in range(20):
    if libc.syscall(NR['clone'], ctypes.c_long(0x8000 | 17), 0, 0, 0, 0) == 0:
        import time
        if n % 2: time.sleep(0.05)
        os._exit(0)
os._exit(7)`,
    7,
    'failed',
  ],
  [
    'is killed by its child',
    `import os, time\nif os.fork() == 0: os.kill(2, 9)\ntime.sleep(5)`,
    -9,
    'signaled',
  ],
  [
    'stops, continues and kills processes 1 and 2 in a storm',
    `import os, signal
for _ in range(5):
    if os.fork() == 0:
        while True:
            for n in (signal.SIGSTOP, signal.SIGCONT, signal.SIGTSTP, signal.SIGCHLD, signal.SIGINT, 64): os.kill(1, n)
try: os.kill(1, 9)
except OSError: pass
os._exit(8)`,
    8,
    'failed',
  ],
  [
    'sets all of its own limits to nothing',
    `import os, resource
for n in (0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15):
    if n != 0:
        try: resource.setrlimit(n, (0, 0))
        except (OSError, ValueError): pass
os._exit(9)`,
    9,
    'failed',
  ],
  [
    'ends its first thread and goes on in another',
    `import ctypes, os, threading, time
def on():
    time.sleep(0.3); os._exit(11)
threading.Thread(target=on).start()
ctypes.CDLL(None).syscall(60 if os.uname().machine == 'x86_64' else 93, 0)`,
    11,
    'failed',
  ],
  [
    'execs from a thread',
    `import os, threading, time\nthreading.Thread(target=lambda: os.execvp('sh', ['sh', '-c', 'exit 12'])).start()\ntime.sleep(5)`,
    12,
    'failed',
  ],
  [
    'writes forged reports to every descriptor, of its children too',
    `import os
def forge():
    for fd in range(3, 1000):
        try: os.write(fd, ${FORGED}); os.write(1, b'wrote')
        except OSError: pass
forge()
if os.fork() == 0: forge(); os._exit(0)
os.wait(); os._exit(13)`,
    13,
    'failed',
  ],
  [
    'makes itself the reaper, and dies with a tree below it',
    `import ctypes, os, time
ctypes.CDLL(None).prctl(36, 1)
for _ in range(10):
    if os.fork() == 0:
        os.fork(); os.fork(); time.sleep(100)
os._exit(14)`,
    14,
    'failed',
  ],
  [
    'uses up its processes',
    `import os, time
try:
    while True:
        if os.fork() == 0: time.sleep(100)
except OSError: os._exit(15)`,
    15,
    'process_limit',
  ],
  [
    'tries to give process 1 the lowest priority there is, and keeps the processors busy',
    `import os
for attempt in (lambda: os.sched_setscheduler(1, os.SCHED_IDLE, os.sched_param(0)), lambda: os.setpriority(os.PRIO_PROCESS, 1, 19)):
    try: attempt(); os._exit(1)
    except PermissionError: pass
for _ in range(20):
    if os.fork() == 0:
        while True: pass
os._exit(16)`,
    16,
    'failed',
  ],
  [
    'dies while its children hold stopped and blocked processes',
    `import os, signal, time
for _ in range(5):
    pid = os.fork()
    if pid == 0:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals()); time.sleep(100)
    os.kill(pid, signal.SIGSTOP)
os.abort()`,
    -6,
    'signaled',
  ],
  ['exits with 255', `import os; os._exit(255)`, 255, 'failed'],
  ['exits with a code beyond a byte', `import sys; sys.exit(256 + 7)`, 7, 'failed'],
  ['exits with a message', `import sys; sys.exit('end 1 exit 0 0 0 0')`, 1, 'failed'],
];

for (const [name, code, returncode, word] of PUZZLES) {
  test(`confuses init: ${name}`, async () => {
    const began = performance.now();
    for (const run of [runPy(server, code), runSh(server, ['/usr/bin/python3', '-c', code])]) {
      const answer = await run;
      const said = JSON.stringify(answer.body);
      assert.deepEqual([answer.status, answer.body.returncode], [200, returncode], said);
      const got = outcome(answer);
      assert.ok(got === word || (word === 'process_limit' && got === 'failed'), `${String(got)} ${said}`);
      assert.doesNotMatch(answer.body.stdout, /wrote/);
    }
    assert.ok(performance.now() - began < 6000);
    await assertHealthy(server);
  });
}

test('floods both streams, from children as well, and ends before they are read', async () => {
  const { answer, usage } = await logged(single, () =>
    runPy(
      single,
      `
import os
for fd in (1, 2):
    if os.fork() == 0:
        for _ in range(200): os.write(fd, b'x' * 65536)
        os._exit(0)
os.wait(); os.wait()
os.write(1, b'the end'); os._exit(3)`,
    ),
  );
  assert.deepEqual(
    [answer.status, answer.body.returncode, answer.body.stdout.slice(-7)],
    [200, 3, 'the end'],
  );
  assert.deepEqual([usage.stdoutBytes, usage.stderrBytes], [200 * 65_536 + 7, 200 * 65_536]);
  await assertHealthy(single);
});

test('fills its pipe to the brim and dies: every byte arrives, from runs of every length', async () => {
  for (const wait of ['', 'import time; time.sleep(0.02)'])
    for (const size of [1, 4095, 65_536]) {
      const { body } = await runPy(
        server,
        `import os\n${wait}\nos.write(1, b'x' * ${size}); os.write(2, b'y' * ${size}); os.kill(os.getpid(), 9)`,
      );
      assert.deepEqual([body.returncode, body.stdout.length, body.stderr.length], [-9, size, size]);
    }
});

test('opens so many pipes that new ones of its user are small: the code of another run still arrives whole', async () => {
  const hog = runPy(
    server,
    `
import os, time
for _ in range(6):
    if os.fork() == 0: break
pipes = []
try:
    while True: pipes.append(os.pipe())
except OSError: pass
os.path.exists('small') or open('small', 'w').close()
while os.path.exists('small'): time.sleep(0.02)`,
  );
  try {
    await until('the pipes are open', () => isThere(join(server.workspace, 'small')));
    await sleep(200);
    const code = `print('arrived')\n${'# filler\n'.repeat(5000)}`;
    for (let round = 0; round < 4; round += 1) {
      const { status, body } = await runPy(server, code);
      assert.deepEqual([status, body.stdout], [200, 'arrived\n'], `run ${round}: ${JSON.stringify(body)}`);
    }
  } finally {
    rmSync(join(server.workspace, 'small'), { force: true });
    await hog;
  }
  await assertHealthy(server);
});

test('takes all the memory that it may, in every process at once', async () => {
  const answer = await runPy(
    server,
    `
import os, time
for _ in range(8):
    if os.fork() == 0: break
x = b'x' * (400 << 20)
time.sleep(5)`,
  );
  assert.ok(answer.status === 200 || answer.status === 408, JSON.stringify(answer.body));
  assert.notEqual(outcome(answer), 'sandbox_error');
  assert.notEqual(outcome(answer), 'ok');
  await assertHealthy(server);
});

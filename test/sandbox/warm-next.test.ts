/** What one run leaves to the next of its slot: nothing. */
import assert from 'node:assert/strict';
import { readdirSync } from 'node:fs';
import { after, before, test } from 'node:test';
import { runPy, runSh, startServer, type Server } from '../support/server.ts';
import { assertHealthy, inside, loot, read, uniqueSeconds } from './attack.ts';

/** All its runs are of one slot, each in the place of the one before. */
let single: Server;
/** With a package that was loaded ahead, and many others for its sake. */
let loaded: Server;
before(async () => {
  single = await startServer({ env: { NOX_TIMEOUT: '10', NOX_SLOTS: '1', NOX_MAX_PROCESSES: '64' } });
  loaded = await startServer({ env: { NOX_TIMEOUT: '15', NOX_PYTHON_PRELOAD: 'numpy' } });
});
after(async () => {
  await Promise.all([single.stop(), loaded.stop()]);
});

/** Everything of a fresh run that the one before it might have changed. */
const STATE = `
import sys
modules = sorted(sys.modules); path = list(sys.path); hooks = [len(sys.meta_path), len(sys.path_hooks)]
import builtins
names = sorted(vars(builtins))
import fcntl, json, locale, os, resource, signal, socket, stat, threading, gc, select, ctypes
def text(path):
    try: return open(path).read()
    except OSError as e: return e.strerror
sysctls = {}
for dir, _, files in os.walk('/proc/sys/net'):
    for name in files:
        if not any(word in name for word in ('mem', 'random', 'avail', 'secret', 'cookie')): sysctls[dir + '/' + name] = text(dir + '/' + name)
umask = os.umask(0); os.umask(umask)
print(json.dumps({
    'modules': modules, 'path': path, 'hooks': hooks, 'builtins': names, 'argv': sys.argv, 'flags': str(sys.flags),
    'limits': [sys.getrecursionlimit(), sys.getswitchinterval(), gc.get_threshold(), sys.get_int_max_str_digits()],
    'environ': dict(os.environ), 'cwd': os.getcwd(), 'umask': umask,
    'signals': {int(n): str(signal.getsignal(n)) for n in signal.valid_signals()},
    'mask': [int(n) for n in signal.pthread_sigmask(signal.SIG_BLOCK, [])],
    'timers': [signal.getitimer(n) for n in range(3)], 'alarm': signal.alarm(0),
    'rlimits': [resource.getrlimit(n) for n in range(16)],
    'nice': [os.nice(0), os.sched_getscheduler(0), sorted(os.sched_getaffinity(0)), ctypes.CDLL(None).syscall(252, 1, 0)],
    'init': [os.getpriority(os.PRIO_PROCESS, 1), os.sched_getscheduler(1), sorted(os.sched_getaffinity(1))],
    'fds': {n: [fcntl.fcntl(n, 1), fcntl.fcntl(n, 3), stat.S_IFMT(os.fstat(n).st_mode), oct(os.fstat(n).st_mode)] for n in range(3)},
    # Small where a user has many pipes (pipe(7)), which other servers of that user may just have.
    'pipes': [fcntl.fcntl(n, 1032) in (8192, 65536) for n in (1, 2)],
    'files': [sorted(os.listdir(d)) for d in ('/tmp', '/dev/shm', '/run', '/dev/pts', '/')],
    'tmp': [os.stat(d).st_mode for d in ('/tmp', '/dev/shm', '/run')],
    'space': [[s.f_blocks - s.f_bfree, s.f_files - s.f_ffree] for s in map(os.statvfs, ('/tmp', '/dev/shm'))],
    'host': os.uname().nodename, 'sysctls': sysctls,
    'net': [text('/proc/net/' + n).split('\\n')[1:] for n in ('tcp', 'tcp6', 'udp', 'udp6', 'raw', 'route', 'if_inet6', 'arp', 'igmp', 'packet')],
    'interfaces': [l.split(':')[0] for l in text('/proc/net/dev').split('\\n')],
    'unix': text('/proc/net/unix').count('\\n'),
    'ipc': [text('/proc/sysvipc/' + n).count('\\n') for n in ('shm', 'msg', 'sem')],
    'ids': [os.getpid(), os.getppid(), os.getsid(0), os.getpgid(0), os.getuid(), os.getgid(), os.getgroups()],
    'self': [text('/proc/self/' + n) for n in ('oom_score_adj', 'coredump_filter', 'timerslack_ns', 'comm', 'cmdline', 'limits', 'personality')],
    'processes': sorted(p for p in os.listdir('/proc') if p.isdigit()), 'threads': threading.active_count(),
    'locale': locale.setlocale(locale.LC_ALL), 'stdin': [sys.stdin.read(), sys.stdin.encoding, sys.stdout.line_buffering],
}))`;

/** Changes all of it. */
const MESS = `
import builtins, ctypes, fcntl, gc, locale, os, resource, signal, socket, subprocess, sys, threading, time, json, select
def attempt(action):
    try: action()
    except Exception as e: pass
builtins.print = lambda *a: None
builtins.evil = json.dumps = sys.evil = 1
sys.path.insert(0, '/tmp/evil'); sys.meta_path.clear(); sys.setrecursionlimit(77); gc.set_threshold(1)
os.environ['EVIL'] = 'evil'; os.environ['PYTHONSTARTUP'] = 'evil'; ctypes.CDLL(None).setenv(b'EVIL', b'x', 1)
os.umask(0); os.chdir('/usr')
for n in signal.valid_signals(): attempt(lambda: signal.signal(n, signal.SIG_IGN))
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
signal.setitimer(signal.ITIMER_REAL, 1000); signal.setitimer(signal.ITIMER_PROF, 1000)
for n in range(16): attempt(lambda: resource.setrlimit(n, (1 << 20, resource.getrlimit(n)[1])))
attempt(lambda: os.setpriority(os.PRIO_USER, 0, 10)); attempt(lambda: os.setpriority(os.PRIO_PROCESS, 1, 12))
attempt(lambda: os.sched_setaffinity(0, {0})); attempt(lambda: os.sched_setaffinity(1, {0}))
attempt(lambda: os.sched_setscheduler(1, os.SCHED_BATCH, os.sched_param(0)))
attempt(lambda: os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0)))
for n in (0, 1, 2):
    attempt(lambda: os.set_blocking(n, False)); attempt(lambda: fcntl.fcntl(n, 1031, 4096)); attempt(lambda: os.fchmod(n, 0))
    attempt(lambda: fcntl.fcntl(n, fcntl.F_SETFL, os.O_NONBLOCK | os.O_APPEND | 0o40000))
    attempt(lambda: fcntl.fcntl(n, 8, os.getpid())); attempt(lambda: fcntl.fcntl(n, 1036, 1))
for dir in ('/tmp', '/dev/shm', '/run', '/'): attempt(lambda: open(dir + '/evil', 'w').write('x' * 100000))
for dir in ('/tmp', '/dev/shm', '/run', '/usr'): attempt(lambda: os.chmod(dir, 0))
attempt(lambda: socket.sethostname('evil'))
for dir, _, files in os.walk('/proc/sys'):
    for name in files: attempt(lambda: open(dir + '/' + name, 'w').write('1'))
keep = []
def sockets():
    for family, any in ((socket.AF_INET, '0.0.0.0'), (socket.AF_INET6, '::')):
        for port in (80, 1025, 8000, 8080, 5000):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                def one():
                    s = socket.socket(family, kind); s.bind((any, port)); keep.append(s)
                    if kind == socket.SOCK_STREAM: s.listen(1)
                attempt(one)
        for _ in range(5):
            def full():
                c = socket.socket(family); c.setblocking(False); keep.append(c)
                try: c.connect(('127.0.0.1' if family == socket.AF_INET else '::1', 8000))
                except BlockingIOError: pass
                try: c.send(b'x' * 1000000)
                except OSError: pass
            attempt(full)
    u = socket.socket(socket.AF_UNIX); u.bind(b'\\0evil'); u.listen(); keep.append(u)
    m = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    attempt(lambda: m.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton('224.1.1.1') + socket.inet_aton('127.0.0.1')))
    keep.append(m)
attempt(sockets)
attempt(lambda: keep.append(os.openpty()))
libc = ctypes.CDLL(None)
for call in (lambda: libc.shmget(0x4242, 4096, 0o1666), lambda: libc.msgget(0x4242, 0o1666), lambda: libc.semget(0x4242, 1, 0o1666), lambda: libc.mq_open(b'/evil', 0o102, 0o666, None)): call()
libc.prctl(15, b'evil'); libc.prctl(29, 999999); libc.prctl(36, 1)
attempt(lambda: open('/proc/self/oom_score_adj', 'w').write('900')); attempt(lambda: open('/proc/self/coredump_filter', 'w').write('0'))
libc.personality(8)
sys.stdin.read(1)
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0: time.sleep(1000)
        os._exit(0)
`;

test('changes everything that a run can change, for the next run of its slot', async () => {
  const ask = () => loot(single, STATE, { stdin: 'mine' });
  await ask();
  const clean = await ask();
  const hosts = () => [read('/proc/sys/net/core/somaxconn'), read('/proc/sys/kernel/hostname')];
  const before = hosts();
  for (const end of ['os._exit(0)', 'os.kill(os.getpid(), 9)', `os.execvp('true', ['true'])`]) {
    const answer = await runPy(single, `${MESS}\n${end}`, { stdin: 'left unread '.repeat(50_000) });
    assert.equal(answer.status, 200, JSON.stringify(answer.body));
    assert.deepEqual(await ask(), clean, end);
  }
  const { status } = await runSh(single, ['/usr/bin/python3', '-c', MESS], { stdin: 'x' });
  assert.equal(status, 200);
  assert.deepEqual(await ask(), clean);
  assert.deepEqual(hosts(), before);
  await assertHealthy(single);
});

test('leaves a flow label that lingers in the network of its slot', async () => {
  const labels = `print(len(open('/proc/net/ip6_flowlabel').read().split('\\n')) - 2)`;
  assert.equal(await inside(single, labels), '0');
  await runPy(
    single,
    `
import socket, struct
s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
s.setsockopt(41, 32, socket.inet_pton(socket.AF_INET6, '::1') + struct.pack('>I', 0x12345) + struct.pack('=BBHHHI', 0, 1, 1, 6, 60, 0))`,
  );
  assert.equal(await inside(single, labels), '0');
});

test('leaves a port in TIME_WAIT: each run serves on 8000, closes first, and the next binds without SO_REUSEADDR', async () => {
  const code = (family: string, host: string) => `
import socket, threading, time
l = socket.socket(socket.${family}); l.bind(('${host}', 8000)); l.listen()
cs = []
for _ in range(20):
    c = socket.socket(socket.${family}); c.connect(('${host}', 8000)); s, _ = l.accept()
    s.sendall(b'x' * 10); s.close(); cs.append(c)
for c in cs: c.recv(100); c.close()
l.close()
again = socket.socket(socket.${family}); again.bind(('${host}', 8000))
def lines(): return open('/proc/net/tcp').read().count('\\n') + open('/proc/net/tcp6').read().count('\\n')
# The last segment may be on its way; TIME_WAIT would last a minute.
end = time.time() + 5
while lines() > 2 and time.time() < end: time.sleep(0.02)
print('served', lines())`;
  for (let round = 0; round < 3; round += 1) {
    assert.equal(await inside(single, code('AF_INET', '127.0.0.1')), 'served 2');
    assert.equal(await inside(single, code('AF_INET6', '::1')), 'served 2');
  }
});

test('leaves a listening socket in a ring of sockets that hold each other, which only the kernel can break', async () => {
  const code = `
import array, os, socket
l = socket.socket(); l.bind(('127.0.0.1', 8000)); l.listen(5)
u = socket.socket(socket.AF_UNIX); u.bind(b'\\0ring'); u.listen()
d = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); d.bind(('127.0.0.1', 8000))
for _ in range(10):
    a, b = socket.socketpair()
    for x in (a, b): x.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [l.fileno(), u.fileno(), d.fileno(), a.fileno(), b.fileno()]))])
    a.close(); b.close()
os.write(1, b'bound'); os._exit(0)`;
  for (let round = 0; round < 5; round += 1) assert.equal(await inside(single, code), 'bound');
  // The sandboxes that wait for the two kinds of runs share the network of their slot.
  // Few at a time: what the kernel has not collected yet counts for the user (unix(7): ETOOMANYREFS).
  const few = code.replace('range(10)', 'range(1)');
  for (let round = 0; round < 5; round += 1) {
    const { body } = await runSh(single, ['/usr/bin/python3', '-c', few]);
    assert.deepEqual([body.stdout, body.stderr], ['bound', '']);
    assert.equal(await inside(single, few), 'bound');
  }
});

test('leaves daemons for the next run of its slot: that one sees no process but its own', async () => {
  const seconds = uniqueSeconds();
  await inside(
    single,
    `
import os, signal
for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        for n in signal.valid_signals():
            try: signal.signal(n, signal.SIG_IGN)
            except OSError: pass
        if os.fork() == 0: os.execvp('sleep', ['sleep', '${seconds}'])
        os._exit(0)
print('planted')`,
  );
  const look = `import os; print(*sorted(p for p in os.listdir('/proc') if p.isdigit()))`;
  assert.equal(await inside(single, look), '1 2');
  const everywhere = readdirSync('/proc').filter((pid) => read(`/proc/${pid}/cmdline`).includes(seconds));
  assert.deepEqual(everywhere, []);
});

test('learns from the next run: hash seed and random numbers are the only state that could be shared', async () => {
  const draw = `import random, os, uuid, tempfile, secrets; print(random.random(), os.urandom(4).hex(), uuid.uuid4(), secrets.token_hex(4), next(tempfile._get_candidate_names()))`;
  const drawn = [await inside(single, draw), await inside(single, draw), await inside(single, draw)].map(
    (line) => line.split(' '),
  );
  for (const column of [0, 1, 2, 3, 4])
    assert.equal(new Set(drawn.map((line) => line[column])).size, 3, `column ${column}`);
  const numpy = `import numpy as np, random; print(np.random.rand(), np.random.default_rng().random(), random.random())`;
  const more = [await inside(loaded, numpy), await inside(loaded, numpy), await inside(loaded, numpy)].map(
    (line) => line.split(' '),
  );
  for (const column of [0, 1, 2])
    assert.equal(new Set(more.map((line) => line[column])).size, 3, `numpy, column ${column}`);
});

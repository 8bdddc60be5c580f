/**
 * Attacks on how a run is born: the zygote, its spares and process 1; what one run leaves to the next of its workspace;
 * reports that init is to get wrong; a zygote that is killed or stopped; a workspace that turns on the warm interpreter.
 */
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import {
  chmodSync,
  chownSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { runPy, runSh, RUN_UID, startServer, type RunAnswer, type Server } from '../support/server.ts';
import { assertHealthy, inside, loot, outcome, py, read, SYSCALL, uniqueSeconds, until } from './attack.ts';

let server: Server;
/** All its runs are of one slot, each in the place of the one before. */
let single: Server;
/** With a package that was loaded ahead, and many others for its sake. */
let loaded: Server;
before(async () => {
  server = await startServer({ env: { NOX_TIMEOUT: '10', NOX_MAX_PROCESSES: '64', NOX_SLOTS: '4' } });
  single = await startServer({ env: { NOX_TIMEOUT: '10', NOX_SLOTS: '1', NOX_MAX_PROCESSES: '64' } });
  loaded = await startServer({ env: { NOX_TIMEOUT: '15', NOX_PYTHON_PRELOAD: 'numpy' } });
});
after(async () => {
  await Promise.all([server.stop(), single.stop(), loaded.stop()]);
});

// ---------------------------------------------------------------- what the attacks here share

const children = (pid: number | undefined): number[] =>
  read(`/proc/${pid}/task/${pid}/children`).split(' ').filter(Boolean).map(Number);

function descendants(pid: number | undefined): number[] {
  const found = pid === undefined ? [] : [pid];
  for (const each of found)
    for (const task of tasks(each))
      found.push(...read(`/proc/${each}/task/${task}/children`).split(' ').filter(Boolean).map(Number));
  return found.slice(1);
}

function tasks(pid: number): string[] {
  try {
    return readdirSync(`/proc/${pid}/task`);
  } catch {
    return [];
  }
}

/** Host pids of the bwrap of a server's zygote, and of the zygote that makes the cells. */
async function zygoteOf(of: Server): Promise<{ bwrap: number; zygote: number }> {
  await inside(of, 'print(1)');
  let found: { bwrap: number; zygote: number } | undefined;
  await until('the zygote, an init and a program stand', () => {
    for (const bwrap of children(of.processes.at(0)?.pid)) {
      const [zygote] = children(bwrap);
      if (zygote !== undefined && children(zygote).length >= 2) found = { bwrap, zygote };
    }
    return found !== undefined;
  });
  assert.ok(found);
  return found;
}

const isAlive = (pid: number): boolean => /^State:\s+[^ZX]/m.test(read(`/proc/${pid}/status`));

function own(path: string): void {
  if (process.getuid?.() === 0) chownSync(path, RUN_UID, RUN_UID);
}

/** Writes files as the server's user would have. */
function plant(of: Server, files: Readonly<Record<string, string>>): void {
  for (const [name, text] of Object.entries(files)) {
    const path = join(of.workspace, name);
    for (let dir = dirname(path); !isThere(dir); dir = dirname(dir)) {
      mkdirSync(dir, { recursive: true });
      own(dir);
    }
    writeFileSync(path, text);
    own(path);
  }
}

const isThere = (path: string): boolean => lstatSync(path, { throwIfNoEntry: false }) !== undefined;

function clean(of: Server): void {
  for (const name of readdirSync(of.workspace))
    rmSync(join(of.workspace, name), { recursive: true, force: true });
}

/** What the system's interpreter makes of a file of the workspace, without a server. */
function bare(of: Server, name: string): { returncode: number | null; stdout: string; stderr: string } {
  const { status, stdout, stderr } = spawnSync('/usr/bin/python3', [join(of.workspace, name)], {
    ...(process.getuid?.() === 0 ? { uid: RUN_UID, gid: RUN_UID } : {}),
    cwd: of.workspace,
    env: { PATH: '/usr/local/bin:/usr/bin:/bin', HOME: '/tmp', LANG: 'C.UTF-8', TMPDIR: '/tmp' },
    encoding: 'utf8',
    timeout: 30_000,
  });
  return { returncode: status, stdout, stderr };
}

/** Runs the same code by the server and bare, as `name` of a workspace with these files. */
async function assertAsBare(
  of: Server,
  files: Readonly<Record<string, string>>,
  code: string,
  name = 'run.py',
): Promise<void> {
  const forget = (text: string) => text.replaceAll(/0x[0-9a-f]{6,}/g, '0x');
  try {
    plant(of, files);
    const { body, status } = await runPy(of, code, name === 'run.py' ? {} : { filename: name });
    assert.equal(status, 200, JSON.stringify(body));
    for (const dir of ['__pycache__', join(dirname(name), '__pycache__')])
      if (!Object.keys(files).some((each) => each.startsWith(dir)))
        rmSync(join(of.workspace, dir), { recursive: true, force: true });
    plant(of, { [name]: code });
    const want = bare(of, name);
    assert.deepEqual(
      { ...body, stdout: forget(body.stdout), stderr: forget(body.stderr) },
      { ...want, stdout: forget(want.stdout), stderr: forget(want.stderr) },
    );
  } finally {
    clean(of);
  }
}

interface Usage {
  readonly wallSeconds: number;
  readonly userSeconds: number;
  readonly systemSeconds: number;
  readonly peakMemoryBytes: number;
  readonly peakProcesses: number;
  readonly stdoutBytes: number;
  readonly stderrBytes: number;
}

const runLines = (of: Server): { outcome: string; usage: Usage }[] =>
  of
    .log()
    .split('\n')
    .filter((line) => line.includes('"msg":"run"'))
    .map((line) => JSON.parse(line) as { outcome: string; usage: Usage });

/** The line of the log that says what a run used. Nothing else may run there meanwhile. */
async function logged(
  of: Server,
  run: () => Promise<RunAnswer>,
): Promise<{ answer: RunAnswer; usage: Usage; outcome: string }> {
  const had = runLines(of).length;
  const answer = await run();
  await until('the run is in the log', () => runLines(of).length > had, 3000);
  const line = runLines(of)[had];
  assert.ok(line);
  return { answer, ...line };
}

// ---------------------------------------------------------------- reaching others

const DESCRIPTORS = `
import json, os
def descriptors():
    found = {}
    for name in os.listdir('/proc/self/fd'):
        try: found[name] = os.readlink('/proc/self/fd/' + name).split(':')[0]
        except OSError: pass
    return found
`;

test('finds a descriptor of the zygote, of init or of another run', async () => {
  const holding = runPy(
    server,
    `import os, time\nopen('held', 'w').close()\nwhile os.path.exists('held'): time.sleep(0.02)`,
  );
  try {
    await until('another run is alive', () => isThere(join(server.workspace, 'held')));
    const code = `${DESCRIPTORS}
r, w = os.pipe()
pid = os.fork()
if pid == 0:
    os.close(r); os.write(w, json.dumps(descriptors()).encode()); os._exit(0)
os.close(w); child = json.loads(os.read(r, 65536)); os.close(r)
child = {n: t for n, t in child.items() if n != str(w)}
print(json.dumps([descriptors(), child]))`;
    const none = { 0: '/dev/null', 1: 'pipe', 2: 'pipe' };
    assert.deepEqual(await loot(server, code), [none, none]);
    const fed = { 0: 'pipe', 1: 'pipe', 2: 'pipe' };
    assert.deepEqual(await loot(server, code, { stdin: 'x' }), [fed, fed]);
    assert.deepEqual(await loot(server, code, { filename: 'sub/other.py' }), [none, none]);
    const { body } = await runSh(server, ['/usr/bin/python3', '-c', code]);
    assert.deepEqual(JSON.parse(body.stdout), [none, none]);
  } finally {
    rmSync(join(server.workspace, 'held'), { force: true });
    await holding;
  }
});

test('looks into process 1, or takes something from it', async () => {
  const got = await loot(
    server,
    `${SYSCALL}
got = []
for name in 'fd fdinfo mem environ maps smaps smaps_rollup numa_maps pagemap root cwd exe auxv io stack syscall personality map_files timers task/1/fd task/1/mem ns/net ns/mnt ns/user attr/current'.split():
    path = '/proc/1/' + name
    for attempt in (os.listdir, os.readlink, lambda p: open(p, 'rb').read(1), lambda p: os.write(os.open(p, os.O_WRONLY), b'1')):
        # A list of descriptors that is empty says nothing.
        try: got.append([name, repr(attempt(path))]) if attempt is not os.listdir or attempt(path) else None
        except OSError as e: pass
for name in 'oom_score_adj oom_adj uid_map gid_map setgroups coredump_filter autogroup comm clear_refs loginuid timerslack_ns sched make-it-fail latency patch_state task/1/comm'.split():
    try: os.write(os.open('/proc/1/' + name, os.O_WRONLY), b'1'); got.append([name, 'written'])
    except OSError: pass
pidfd = os.pidfd_open(1)
data = ctypes.create_string_buffer(64)
iov = (ctypes.c_uint64 * 2)(ctypes.addressof(data), 64)
for what, result in [
    ('pidfd_getfd', [call('pidfd_getfd', pidfd, n, 0) for n in range(8)]),
    ('process_vm_readv', [call('process_vm_readv', 1, ctypes.addressof(iov), 1, ctypes.addressof(iov), 1, 0)]),
    ('process_vm_writev', [call('process_vm_writev', 1, ctypes.addressof(iov), 1, ctypes.addressof(iov), 1, 0)]),
    ('ptrace', [call('ptrace', op, 1, 0, 0) for op in (16, 0x4206)]),
    ('kcmp', [call('kcmp', 1, os.getpid(), 0, 0, 0)]),
    ('setns', [call('setns', pidfd, flag) for flag in (0x20000, 0x40000000, 0x10000000, 0x20000000)]),
    ('process_madvise', [call('process_madvise', pidfd, ctypes.addressof(iov), 1, 21, 0)]),
    ('process_mrelease', [call('process_mrelease', pidfd, 0)]),
    ('migrate_pages', [call('migrate_pages', 1, 0, 0, 0)]),
    ('move_pages', [call('move_pages', 1, 0, 0, 0, 0, 0)]),
    ('get_robust_list', [call('get_robust_list', 1, ctypes.addressof(data), ctypes.addressof(data))]),
    ('prlimit', [call('prlimit64', 1, n, 0, ctypes.addressof(data)) for n in range(16)]),
    ('perf', [call('perf_event_open', ctypes.addressof(data), 1, -1, -1, 0)]),
]:
    if 'ok' in result: got.append([what, result])
print(json.dumps(got))`,
  );
  assert.deepEqual(got, []);
});

test('holds a capability, or is without no_new_privs or the filter: Python, a command, their children', async () => {
  const probe = `import ctypes; print([l.split()[1] for l in open('/proc/self/status') if l.startswith(('Cap', 'NoNewPrivs', 'Seccomp:'))], ctypes.CDLL(None).prctl(27), ctypes.CDLL(None).prctl(21))`;
  const nothing = `['${'0'.repeat(16)}', '${'0'.repeat(16)}', '${'0'.repeat(16)}', '${'0'.repeat(16)}', '${'0'.repeat(16)}', '1', '2'] 0 2`;
  const family = `${probe}\nimport subprocess, sys\nprint(subprocess.run([sys.executable, '-c', ${py(probe)}], capture_output=True, text=True).stdout, end='')`;
  assert.equal(await inside(server, family), `${nothing}\n${nothing}`);
  assert.equal(await inside(server, family, { filename: 'sub/x.py' }), `${nothing}\n${nothing}`);
  const { body } = await runSh(server, ['/usr/bin/python3', '-c', family]);
  assert.equal(body.stdout.trim(), `${nothing}\n${nothing}`);
});

test('makes a namespace or a mount, or enters one', async () => {
  const got = await loot(
    server,
    `${SYSCALL}
got = []
def attempt(name, *args):
    r = call(name, *args)
    if r == 'ok': got.append([name, [str(a) for a in args]])
NEW = {'user': 0x10000000, 'pid': 0x20000000, 'net': 0x40000000, 'mnt': 0x20000, 'uts': 0x4000000, 'ipc': 0x8000000, 'cgroup': 0x2000000, 'time': 0x80}
for name, flag in NEW.items():
    attempt('unshare', flag)
    attempt('unshare', flag | 0x10000000)
    if name != 'time':
        r = libc.syscall(NR['clone'], ctypes.c_long(flag | 17), 0, 0, 0, 0)
        if r == 0: os._exit(0)
        if r > 0: got.append(['clone', name])
    for target in ('self', '1', 'thread-self'):
        try: fd = os.open(f'/proc/{target}/ns/{name}', os.O_RDONLY)
        except OSError: continue
        if name not in ('time',): attempt('setns', fd, flag)
        os.close(fd)
args = (ctypes.c_uint64 * 11)(0x10000000, 0, 0, 0, 17)
r = libc.syscall(NR['clone3'], args, 88)
if r == 0: os._exit(0)
if r > 0: got.append(['clone3'])
attempt('mount', b'none', b'/tmp', b'tmpfs', 0, 0)
attempt('mount', b'/usr', b'/tmp', 0, 4096, 0)
attempt('mount', 0, b'/usr', 0, 32, 0)
for path in (b'/tmp', b'/proc', b'/dev/pts', os.getcwd().encode() + b'/run.py'): attempt('umount2', path, 2)
attempt('open_tree', -100, b'/', 1)
attempt('fsopen', b'tmpfs', 0)
attempt('pivot_root', b'/tmp', b'/tmp')
attempt('chroot', b'/tmp')
attempt('name_to_handle_at', -100, b'/usr', 0, 0, 0)
attempt('sethostname', b'x', 1)
attempt('keyctl', 0, -3, 1)
attempt('add_key', b'user', b'a', b'b', 1, -3)
attempt('bpf', 0, 0, 0)
attempt('userfaultfd', 1)
attempt('io_uring_setup', 1, ctypes.create_string_buffer(256))
for persona in (0x0400000, 0x0040000, 0x0100000, 0x0200000): attempt('personality', persona)
print(json.dumps(got))`,
  );
  assert.deepEqual(got, []);
});

test('maps memory that is writable and executable: in /run_py, in its children, under another name', async () => {
  const probe = `
import ctypes, mmap, os
try: mmap.mmap(-1, 4096, prot=7); print('mmap')
except OSError as e: print(e.errno)
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
page = libc.mmap(None, 4096, 3, 0x22, -1, 0)
print(libc.mprotect(page, 4096, 5), libc.mprotect(page, 4096, 7), libc.mprotect(page, 4096, 4))
libc.syscall(135, ctypes.c_ulong(0x400000))`;
  const twice = `${probe}\nimport subprocess, sys\nprint(subprocess.run([sys.executable, '-c', ${py(probe)}], capture_output=True, text=True).stdout, end='')`;
  const refused = '13\n-1 -1 -1';
  for (const more of [{}, { filename: 'sub/wx.py' }, { fresh: true }])
    assert.equal(await inside(server, twice, more), `${refused}\n${refused}`, JSON.stringify(more));
  const { body } = await runSh(server, ['/usr/bin/python3', '-c', twice]);
  assert.equal(body.stdout.trim(), 'mmap\n0 0 0\nmmap\n0 0 0');
});

test('reads the program of the zygote, or finds what was made for the mount of its code', async () => {
  const got = await loot(
    server,
    `
import json, os
got = []
for path in ('/tmp/.nox', '/run/code', '/newroot', '/oldroot', '/run/.nox', '/tmp/.nox/sitecustomize.py'):
    if os.path.lexists(path): got.append(path)
if os.listdir('/run'): got.append(os.listdir('/run'))
for line in open('/proc/self/mountinfo'):
    at = line.split()[4]
    if at.startswith('/tmp/.nox'):
        try: got.append([at, os.listdir(at)])
        except OSError: pass
for module in list(__import__('sys').modules.values()):
    if 'nox' in str(getattr(module, '__file__', '')).replace('/nox-test-', ''): got.append(str(module))
for number in range(64):
    try: os.fstat(3 + number); got.append(number)
    except OSError: pass
print(json.dumps(got))`,
  );
  assert.deepEqual(got, []);
});

test('writes to a file of /proc that is not its own, or anywhere outside its own places', async () => {
  const got = await loot(
    server,
    `
import json, os
got = []
mine = ('/tmp', '/dev/shm', '/dev/pts', os.getcwd())
for dir, dirs, names in os.walk('/'):
    if dir == '/usr' or dir == '/etc/ssl' or dir.startswith(('/proc/self', '/proc/thread-self', '/proc/%d' % os.getpid())) or dir in mine:
        dirs[:] = []
    if dir not in mine:
        try: os.close(os.open(dir + '/evil', os.O_WRONLY | os.O_CREAT)); got.append(dir)
        except OSError: pass
    if dirs == [] and not dir.startswith(('/proc/sys', '/proc/1/', '/run')): continue
    for name in names:
        path = dir + '/' + name
        if path.startswith(('/dev/', *mine)) or os.path.islink(path): continue
        try: fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        except OSError: continue
        try: os.write(fd, b'0'); got.append(path)
        except OSError: pass
        os.close(fd)
print(json.dumps(sorted(got)))`,
  );
  assert.deepEqual(got, []);
});

/** Two runs at once: the first makes everything that could be found and waits until the second has looked. */
async function together(victim: string, looker: string): Promise<{ found: string; victim: RunAnswer }> {
  const first = runPy(
    server,
    `${victim}
import os, time
open('ready', 'w').close()
while not os.path.exists('looked'): time.sleep(0.01)
after_look()`,
  );
  try {
    await until('the first run is ready', () => isThere(join(server.workspace, 'ready')));
    const found = await inside(server, looker);
    writeFileSync(join(server.workspace, 'looked'), '');
    return { found, victim: await first };
  } finally {
    writeFileSync(join(server.workspace, 'looked'), '');
    await first;
    clean(server);
  }
}

test('meets a simultaneous run: TCP, UDP, abstract sockets, queues, terminals, /tmp, /dev/shm, processes', async () => {
  const { found, victim } = await together(
    `
import os, socket, threading
tcp = socket.socket(); tcp.bind(('0.0.0.0', 8000)); tcp.listen(5); tcp.settimeout(0)
tcp6 = socket.socket(socket.AF_INET6); tcp6.bind(('::1', 8001)); tcp6.listen(5); tcp6.settimeout(0)
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.bind(('127.0.0.1', 8000)); udp.settimeout(0)
multi = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); multi.bind(('', 8002)); multi.settimeout(0)
unix = socket.socket(socket.AF_UNIX); unix.bind(b'\\0nox-meet'); unix.listen(5); unix.settimeout(0)
master, slave = os.openpty()
for path in ('/tmp/secret', '/dev/shm/secret'): open(path, 'w').write('secret')
def after_look():
    for each in (tcp, tcp6, unix):
        try: each.accept(); print('accepted')
        except BlockingIOError: pass
    for each in (udp, multi):
        try: print(each.recv(100))
        except BlockingIOError: pass
    os.set_blocking(master, False)
    try: print(os.read(master, 100))
    except BlockingIOError: pass
`,
    `
import ctypes, os, socket
def attempt(what, action):
    try: print(what, action())
    except OSError: pass
def connect(family, address):
    s = socket.socket(family); s.settimeout(2); s.connect(address); return 'connected'
attempt('tcp', lambda: connect(socket.AF_INET, ('127.0.0.1', 8000)))
attempt('tcp6', lambda: connect(socket.AF_INET6, ('::1', 8001)))
attempt('abstract', lambda: connect(socket.AF_UNIX, b'\\0nox-meet'))
for port in (8000, 8002):
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); udp.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    for to in ('127.0.0.1', '127.255.255.255', '255.255.255.255'):
        try: udp.sendto(b'x', (to, port))
        except OSError: pass
socket.socket().bind(('0.0.0.0', 8000))
for path in ('/tmp/secret', '/dev/shm/secret'): attempt(path, lambda: open(path).read())
for n in range(8): attempt('pts', lambda: os.write(os.open('/dev/pts/%d' % n, os.O_RDWR | os.O_NOCTTY), b'x'))
print(*[p for p in os.listdir('/proc') if p.isdigit() and int(p) > 2])
print(open('/proc/net/unix').read().count('meet'), open('/proc/net/tcp').read().count('1F40'))`,
  );
  assert.deepEqual([found, victim.body.stdout, victim.body.stderr], ['0 0', '', '']);
});

test('signals, slows down or limits a simultaneous run: kill(-1), killpg, PRIO_USER, IOPRIO_WHO_USER, guessed pids', async () => {
  const { found, victim } = await together(
    `
import os
def after_look(): print(os.nice(0), os.getpriority(os.PRIO_PROCESS, 0), os.sched_getaffinity(0) == affinity, os.sched_getscheduler(0))
affinity = os.sched_getaffinity(0)
`,
    `${SYSCALL}
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
for which, who in ((os.PRIO_USER, 0), (os.PRIO_USER, 1000), (os.PRIO_PGRP, 0)):
    try: os.setpriority(which, who, 19)
    except OSError: pass
for who, which in ((1, 1), (2, 0), (3, 0), (3, 1000)): call('ioprio_set', who, which, 3 << 13)
for pid in range(3, 400):
    for number in (9, 15, 19):
        try: os.kill(pid, number); print('signalled', pid)
        except OSError: pass
for group in range(3, 400):
    try: os.killpg(group, 9); print('group', group)
    except OSError: pass
try: os.kill(-1, signal.SIGTERM)
except OSError: pass
print('alive')`,
  );
  assert.deepEqual([found, victim.body.returncode, victim.body.stdout], ['alive', 0, '0 0 True 0\n']);
});

/** Waits in the workspace for descriptors of another run, and uses them when that has ended. */
const keeper = (seconds: number) => `
import array, os, socket, time
s = socket.socket(socket.AF_UNIX); s.bind('meet'); s.listen(1)
c, _ = s.accept()
_, [(_, _, data), *_], *_ = c.recvmsg(10, socket.CMSG_SPACE(64))
fds = array.array('i'); fds.frombytes(data[:8])
time.sleep(${seconds})
for fd in fds: os.write(fd, b'by another run')
os.unlink('meet')`;

test('gives its output to another run through a socket file, so that its answer waits for that one', async () => {
  const other = runPy(server, keeper(4));
  try {
    await until('the other run waits', () => isThere(join(server.workspace, 'meet')));
    const began = performance.now();
    const { body, headers } = await runPy(
      server,
      `
import array, socket, time
s = socket.socket(socket.AF_UNIX); s.connect('meet')
s.sendmsg([b'x'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array('i', [1, 2]))])
print('mine', flush=True)
time.sleep(0.1)`,
    );
    const seconds = (performance.now() - began) / 1000;
    assert.deepEqual([body.stdout, body.stderr, outcome({ headers })], ['mine\n', '', 'ok']);
    assert.ok(seconds < 2, `the answer came after ${seconds.toFixed(1)} s`);
  } finally {
    await other;
    clean(server);
  }
});

// ---------------------------------------------------------------- what is left to the next run

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
import socket, threading
l = socket.socket(socket.${family}); l.bind(('${host}', 8000)); l.listen()
cs = []
for _ in range(20):
    c = socket.socket(socket.${family}); c.connect(('${host}', 8000)); s, _ = l.accept()
    s.sendall(b'x' * 10); s.close(); cs.append(c)
for c in cs: c.recv(100); c.close()
l.close()
again = socket.socket(socket.${family}); again.bind(('${host}', 8000))
print('served', open('/proc/net/tcp').read().count('\\n') + open('/proc/net/tcp6').read().count('\\n'))`;
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

// ---------------------------------------------------------------- confusing init

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

// ---------------------------------------------------------------- the zygote is killed, stopped, led astray

async function withServer(env: Record<string, string>, action: (of: Server) => Promise<void>): Promise<void> {
  const of = await startServer({ env });
  try {
    await action(of);
  } finally {
    await of.stop();
  }
}

for (const victim of ['zygote', 'bwrap'] as const) {
  test(`kills the idle ${victim}: the next request succeeds, at once and later`, async () => {
    await withServer({ NOX_SLOTS: '2' }, async (of) => {
      for (const delay of [200, 20, 0]) {
        const pids = await zygoteOf(of);
        process.kill(pids[victim], 'SIGKILL');
        if (delay > 0) await sleep(delay);
        const answer = await runPy(of, 'print(6 * 7)');
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
    await withServer({ NOX_SLOTS: '2', NOX_TIMEOUT: '10' }, async (of) => {
      const pids = await zygoteOf(of);
      const running = runPy(
        of,
        `import time\nopen('on', 'w').close()\nprint('half', flush=True)\ntime.sleep(3)\nprint('whole')`,
      );
      await until('the run is under way', () => isThere(join(of.workspace, 'on')));
      const victims =
        victim === 'init'
          ? children(pids.zygote).filter((pid) => /run\.py/.test(read(`/proc/${pid}/cmdline`)))
          : [pids[victim]];
      for (const pid of victims) process.kill(pid, 'SIGKILL');
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
  await withServer({ NOX_SLOTS: '2', NOX_TIMEOUT: '8' }, async (of) => {
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
  await withServer({ NOX_SLOTS: '2' }, async (of) => {
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
      await until('everything is dead', () => !all.some(isAlive), 3000);
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
  await withServer({ NOX_SLOTS: '2' }, async (of) => {
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

// ---------------------------------------------------------------- a workspace that turns on the warm interpreter

const SHOUT = `print('taken in', __name__)\n`;
const HOSTILE: Readonly<Record<string, string>> = Object.fromEntries(
  [
    ...[
      'sitecustomize',
      'usercustomize',
      'ctypes',
      'select',
      'socket',
      'os',
      'zipimport',
      'posix',
      '_signal',
      '_socket',
      'gc',
    ],
    ...[
      'site',
      'io',
      'abc',
      'codecs',
      'stat',
      'genericpath',
      'posixpath',
      '_weakref',
      'importlib/__init__',
      'encodings/__init__',
    ],
    ...[
      'encodings/utf_8',
      'ctypes/__init__',
      '_ctypes',
      'struct',
      'types',
      'warnings',
      '_warnings',
      'random',
      'secrets',
    ],
  ].map((name) => [`${name}.py`, SHOUT]),
);
const CONFIGS: Readonly<Record<string, string>> = {
  'python311._pth': '/evil\nimport site\n',
  'python3._pth': '/evil\n',
  'pyvenv.cfg': 'home = /evil\ninclude-system-site-packages = false\n',
  'evil.pth': `import sys; print('pth')\n`,
  'setup.cfg': '[install]\n',
  '.local/lib/python3.11/site-packages/usercustomize.py': SHOUT,
  '.local/lib/python3.11/site-packages/evil.pth': `import sys; print('pth')\n`,
  '__pycache__/sitecustomize.cpython-311.pyc': 'garbage',
  '__pycache__/ctypes.cpython-311.pyc': 'garbage',
  '__pycache__/run.cpython-311.pyc': 'garbage',
};

test('plants modules with the names of what the interpreter loads: nothing is imported that bare Python would not', async () => {
  for (const each of [server, loaded]) {
    const of = each;
    await assertAsBare(
      of,
      { ...HOSTILE, ...CONFIGS },
      `import sys\nprint(sorted(m for m in sys.modules if 'sandbox' in str(getattr(sys.modules[m], '__file__', ''))), sys.path)`,
    );
    await assertAsBare(
      of,
      CONFIGS,
      `import ctypes, select, socket, os, random; print(ctypes.__file__, socket.__file__, sorted(os.environ))`,
    );
    for (const name of [
      'ctypes',
      'select',
      'socket',
      'os',
      'random',
      'usercustomize',
      'gc',
      '_signal',
      'zipimport',
      'struct',
    ])
      await assertAsBare(
        of,
        { [`${name}.py`]: SHOUT },
        `import ${name}\nprint(getattr(${name}, '__file__', None), getattr(${name}, '__name__'))`,
      );
  }
});

test('plants them while the zygote of the workspace is started', async () => {
  await withServer({ NOX_SLOTS: '2', NOX_PYTHON_PRELOAD: 'json decimal' }, async (of) => {
    const files = {
      ...HOSTILE,
      ...CONFIGS,
      'json.py': SHOUT,
      'decimal.py': SHOUT,
      '_decimal.py': SHOUT,
      'numbers.py': SHOUT,
    };
    plant(of, files);
    const { bwrap, zygote } = await zygoteOf(of);
    process.kill(bwrap, 'SIGKILL');
    await until('the zygote is gone', () => !isAlive(zygote));
    await sleep(100);
    assert.equal(
      await inside(
        of,
        `import sys; print(len([m for m in sys.modules if 'sandbox' in str(getattr(sys.modules[m], '__file__', ''))]) - 1)`,
      ),
      '0',
    );
    assert.doesNotMatch(of.log(), /taken in/);
    clean(of);
    await assertAsBare(of, { 'json.py': SHOUT }, `import json, sys; print(json.__file__)`);
    await assertAsBare(
      of,
      { 'numbers.py': SHOUT },
      `import decimal, sys; print(decimal.Decimal(1), decimal.__file__)`,
    );
    await assertAsBare(
      of,
      {},
      `import decimal, json, sys; print(decimal.Decimal(1), json.loads('[1]'), decimal.__spec__.origin, json.__spec__.name, json.__path__)`,
    );
  });
});

test('shadows a package that was loaded ahead, or what that one imports', async () => {
  const use = `import numpy\nprint(numpy.__file__, getattr(numpy, 'arange', str)(3))`;
  await assertAsBare(loaded, {}, use);
  await assertAsBare(loaded, { 'numpy.py': SHOUT }, use);
  await assertAsBare(loaded, { 'numpy/__init__.py': SHOUT }, use);
  await assertAsBare(loaded, { 'numpy/core.py': SHOUT }, use);
  await assertAsBare(loaded, { 'random.py': SHOUT }, `import random; print(random.__file__)`);
  await assertAsBare(loaded, { 'random.py': `${SHOUT}raise SystemExit('no')` }, use);
  await assertAsBare(loaded, { 'secrets.py': `${SHOUT}import sys\nsys.exit(3)` }, use);
});

test('shadows what a package imports from the directory that a link leads to', async () => {
  plant(loaded, { 'sub/random.py': `${SHOUT}raise SystemExit('no')`, 'sub/real.py': '' });
  try {
    await inside(loaded, `import os; os.symlink('sub/real.py', 'link.py')`);
    const code = `import sys\nprint(sys.path[0])\nimport numpy\nprint('numpy')`;
    const { body } = await runPy(loaded, code, { filename: 'link.py' });
    assert.deepEqual(body, bare(loaded, 'link.py'));
  } finally {
    clean(loaded);
  }
});

test('runs in a directory that may be entered and not read', async () => {
  for (const each of [server, loaded]) {
    const of = each;
    plant(of, { 'dark/x.py': `print('old')` });
    try {
      chmodSync(join(of.workspace, 'dark'), 0o311);
      const { body } = await runPy(of, `import sys; print('seen', sys.path[0])`, { filename: 'dark/x.py' });
      chmodSync(join(of.workspace, 'dark'), 0o311);
      assert.deepEqual(body, bare(of, 'dark/x.py'));
    } finally {
      chmodSync(join(of.workspace, 'dark'), 0o755);
      clean(of);
    }
  }
});

for (const [what, make] of [
  ['a link to a file', `os.symlink('other.txt', 'run.py')`],
  ['a link that leads out', `os.symlink('/etc/passwd', 'run.py')`],
  ['a link to itself', `os.symlink('run.py', 'run.py')`],
  ['a FIFO', `os.mkfifo('run.py')`],
  [
    'a directory with a __main__.py',
    `os.mkdir('run.py'); open('run.py/__main__.py', 'w').write('print("wrong")')`,
  ],
  ['a socket', `import socket; socket.socket(socket.AF_UNIX).bind('run.py')`],
  ['a file that may not be read', `open('run.py', 'w').write('print("wrong")'); os.chmod('run.py', 0)`],
  ['a file', `open('run.py', 'w').write('print("wrong")')`],
] as const) {
  test(`makes run.py ${what}`, async () => {
    try {
      await inside(server, `import os\nos.path.lexists('run.py') and os.unlink('run.py')\n${make}`, {
        filename: 'maker.py',
      });
      assert.equal(await inside(server, `print(6 * 7)`), '42');
      assert.equal(await inside(server, `print(open(__file__).read())`), 'print(open(__file__).read())');
    } finally {
      clean(server);
    }
  });
}

test('has 5,000 files in its workspace', async () => {
  const many = Object.fromEntries(Array.from({ length: 5000 }, (_, n) => [`file-${n}.txt`, '']));
  for (const each of [server, loaded]) {
    const of = each;
    try {
      plant(of, many);
      const began = performance.now();
      const name =
        of === loaded ? 'import numpy; print(numpy.arange(3))' : 'import os; print(len(os.listdir(".")))';
      assert.equal(await inside(of, name), of === loaded ? '[0 1 2]' : '5001');
      assert.ok(performance.now() - began < 3000);
    } finally {
      clean(of);
    }
  }
});

test('keeps being what it was asked: arguments, environment, traceback, exit code as bare', async () => {
  for (const each of [server, loaded]) {
    const of = each;
    await assertAsBare(
      of,
      {},
      `import sys, os; print(sys.argv, sys.orig_argv, sys.path, sys.flags, sorted(os.environ.items()), __file__, __name__, sys.executable)`,
    );
    await assertAsBare(of, {}, `def f(): raise ValueError('x')\nf()`);
    await assertAsBare(of, {}, `import atexit, sys\natexit.register(print, 'bye')\nsys.exit(3)`);
    await assertAsBare(of, {}, `import os, sys; sys.stdout.write('x'); os._exit(5)`);
    await assertAsBare(of, {}, `syntax error here`);
    await assertAsBare(of, {}, `print(open('/proc/self/environ').read().strip(chr(0)).split(chr(0)))`);
    await assertAsBare(
      of,
      { 'pkg/mod.py': 'x = 1' },
      `import pkg.mod, sys; print(pkg.mod.x, sys.path[0])`,
      'sub/dir/prog.py',
    );
  }
});

// ---------------------------------------------------------------- honest accounts

test('says what a run has used: half a second of CPU, in itself, in children, in orphans', async () => {
  const burn = `import os, time\ndef burn(s):\n    end = time.process_time() + s\n    while time.process_time() < end: pass\n`;
  for (const [code, least, most] of [
    [`${burn}burn(0.5)`, 0.48, 0.75],
    [`${burn}if os.fork() == 0: burn(0.5); os._exit(0)\nos.wait()`, 0.48, 0.8],
    [
      `${burn}if os.fork() == 0:\n    if os.fork() == 0: burn(0.5); open('done', 'w').close(); os._exit(0)\n    os._exit(0)\nos.wait()\nwhile not os.path.exists('done'): time.sleep(0.01)\ntime.sleep(0.05)`,
      0.48,
      0.9,
    ],
    [
      `${burn}if os.fork() == 0: burn(0.5); os.kill(os.getppid(), 9); time.sleep(9)\ntime.sleep(9)`,
      0.48,
      0.8,
    ],
  ] as const) {
    const { usage } = await logged(single, () => runPy(single, code));
    rmSync(join(single.workspace, 'done'), { force: true });
    const cpu = usage.userSeconds + usage.systemSeconds;
    assert.ok(cpu >= least && cpu <= most, `${cpu} s for ${code}`);
    assert.ok(usage.wallSeconds >= 0.45 && usage.wallSeconds < 8, `${usage.wallSeconds} s of wall time`);
    assert.ok(usage.userSeconds >= 0 && usage.systemSeconds >= 0);
  }
});

test('says what print(1) has used: no more than bare, nothing negative, some memory, one process', async () => {
  for (const each of [single, loaded]) {
    const of = each;
    for (let round = 0; round < 5; round += 1) {
      const { usage, outcome: word } = await logged(of, () => runPy(of, 'print(1)'));
      assert.equal(word, 'ok');
      assert.ok(usage.userSeconds >= 0 && usage.systemSeconds >= 0, JSON.stringify(usage));
      assert.ok(usage.userSeconds + usage.systemSeconds <= 0.05, JSON.stringify(usage));
      assert.ok(usage.peakMemoryBytes > 1e6 && usage.peakMemoryBytes < 1e8, JSON.stringify(usage));
      assert.deepEqual([usage.peakProcesses, usage.stdoutBytes, usage.stderrBytes], [1, 2, 0]);
    }
  }
});

test('says how much memory and how many processes a run had at its peak', async () => {
  const hog = await logged(single, () =>
    runPy(single, `import time\nx = b'x' * (200 << 20)\ntime.sleep(0.3)`),
  );
  assert.ok(
    hog.usage.peakMemoryBytes > 200 * 1024 * 1024 && hog.usage.peakMemoryBytes < 260 * 1024 * 1024,
    JSON.stringify(hog.usage),
  );
  const many = await logged(single, () =>
    runPy(
      single,
      `import os, time\nfor _ in range(9):\n    if os.fork() == 0: time.sleep(0.4); os._exit(0)\ntime.sleep(0.4)`,
    ),
  );
  assert.equal(many.usage.peakProcesses, 10);
});

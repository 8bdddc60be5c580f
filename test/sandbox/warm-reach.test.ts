/** Attacks from a warm run on what is alive beside it: the zygote, process 1, another run. */
import assert from 'node:assert/strict';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { runPy, runSh, startServer, type RunAnswer, type Server } from '../support/server.ts';
import { inside, loot, outcome, py, SYSCALL, until } from './attack.ts';
import { isThere, clean } from './warm.ts';

let server: Server;
before(async () => {
  server = await startServer({ env: { NOX_TIMEOUT: '10', NOX_MAX_PROCESSES: '64', NOX_SLOTS: '4' } });
});
after(async () => {
  await Promise.all([server.stop()]);
});

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
# Nox's Node, which every run is shown, and nothing else.
for path, names in (('/run', ['nox']), ('/run/nox', ['node'])):
    if os.listdir(path) != names: got.append([path, os.listdir(path)])
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

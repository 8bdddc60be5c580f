/** Attacks on the kernel's interfaces: namespaces, capabilities, system calls, executable memory. */
import assert from 'node:assert/strict';
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import { put, RUN_UID, runPy, runSh, startServer, type Server } from '../support/server.ts';
import { inside, loot, outside, py, SYSCALL } from './attack.ts';

let server: Server;
before(async () => {
  server = await startServer();
});
after(() => server.stop());

/** Whether a cgroup counts the memory of runs; without one the filter refuses what nothing would count. */
const cgroup = (): boolean => server.log().includes('cgroup v2 (');

test('starts with a capability, or with the right to gain one', async () => {
  const read = `
import json
status = dict(line.split(':\\t', 1) for line in open('/proc/self/status').read().splitlines())
print(json.dumps({k: v for k, v in status.items() if k.startswith('Cap') or k in ('NoNewPrivs', 'Seccomp')}))`;
  const none = '0000000000000000';
  assert.deepEqual(await loot(server, read), {
    CapInh: none,
    CapPrm: none,
    CapEff: none,
    CapBnd: none,
    CapAmb: none,
    NoNewPrivs: '1',
    Seccomp: '2',
  });
  const { body } = await runSh(server, ['bash', '-c', 'cat /proc/self/status']);
  for (const line of [/^CapBnd:\t0{16}$/m, /^CapEff:\t0{16}$/m, /^NoNewPrivs:\t1$/m, /^Seccomp:\t2$/m]) {
    assert.match(body.stdout, line);
  }
});

test('is the host root, or any user of the host but one', async () => {
  const map = await loot(
    server,
    `import json, os
open('mine', 'w').close()
print(json.dumps([open('/proc/self/uid_map').read().split(), open('/proc/self/gid_map').read().split()]))`,
  );
  // What the one user is outside shows in the owner of a file: the map's middle number is of a namespace between.
  for (const [inner, , count] of map as string[][]) assert.deepEqual([inner, count], ['1000', '1']);
  const { uid, gid } = statSync(join(server.workspace, 'mine'));
  assert.deepEqual([uid, gid], [RUN_UID, RUN_UID]);
  assert.notEqual(uid, 0);
  const got = await inside(
    server,
    `${SYSCALL}
for name in ('setuid', 'setgid', 'setfsuid'):
    for id in (0, 1, 60600, 65534):
        call(name, id)
for id in (0, 65534): call('setresuid', id, id, id); call('setresgid', id, id, id)
print(os.getresuid() + os.getresgid())`,
  );
  assert.equal(got, '(1000, 1000, 1000, 1000, 1000, 1000)');
});

test('gains capabilities: capset, ambient set, file capabilities', async () => {
  const got = await inside(
    server,
    `${SYSCALL}
import struct, shutil
header, all = struct.pack('<Ii', 0x20080522, 0), struct.pack('<6I', *[0xffffffff] * 6)
print(call('capset', header, all), call('prctl', 47, 2, 21, 0, 0), call('prctl', 28, 0, 0, 0, 0))
shutil.copy('/usr/bin/env', '/tmp/env')
try: os.setxattr('/tmp/env', 'security.capability', struct.pack('<5I', 0x02000001, 0xffffffff, 0, 0xffffffff, 0)); print('set')
except OSError as e: print(e.errno in (errno.EPERM, errno.EOPNOTSUPP))`,
  );
  // PR_SET_SECUREBITS to 0 is what they are already.
  assert.match(got, /^EPERM EPERM EPERM\nTrue$/);
});

const NAMESPACES = {
  CLONE_NEWNS: 0x00020000,
  CLONE_NEWCGROUP: 0x02000000,
  CLONE_NEWUTS: 0x04000000,
  CLONE_NEWIPC: 0x08000000,
  CLONE_NEWUSER: 0x10000000,
  CLONE_NEWPID: 0x20000000,
  CLONE_NEWNET: 0x40000000,
  CLONE_NEWTIME: 0x00000080,
} as const;

test('unshares a namespace of its own, by each of the eight flags', async () => {
  const attack = `${SYSCALL}
for flag in ${py(Object.values(NAMESPACES))}: print(call('unshare', flag), nr(NR['unshare'] | 1 << 32, flag), call('unshare', flag | 0x10000000))`;
  assert.equal(outside(`${SYSCALL}\nprint(call('unshare', 0x10000000))`), 'ok');
  assert.deepEqual(new Set((await inside(server, attack)).split(/\s+/)), new Set(['EPERM']));
});

test('clones into a namespace of its own: clone, with the upper 32 bits set too', async () => {
  const attack = (flags: readonly number[]) => `${SYSCALL}
import signal
for flag in ${py(flags)}:
    for extra in (0, 17, 0xdead << 32 | 17):
        ctypes.set_errno(0)
        pid = libc.syscall(ctypes.c_long(NR['clone']), ctypes.c_ulong(flag | extra), 0, 0, 0, 0)
        if pid == 0: os._exit(0)
        print('ok' if pid > 0 else errno.errorcode[ctypes.get_errno()])`;
  assert.match(outside(attack([NAMESPACES.CLONE_NEWUSER])), /^ok$/m);
  assert.deepEqual(
    new Set((await inside(server, attack(Object.values(NAMESPACES)))).split('\n')),
    new Set(['EPERM']),
  );
});

test('clones by clone3, whose flags no filter can see', async () => {
  const attack = `${SYSCALL}
import struct
pid = libc.syscall(ctypes.c_long(NR['clone3']), struct.pack('<8Q', 0x10000000, 0, 0, 0, 17, 0, 0, 0), 64)
if pid == 0: os._exit(0)
print('ok' if pid > 0 else errno.errorcode[ctypes.get_errno()])`;
  assert.equal(outside(attack), 'ok');
  assert.equal(await inside(server, attack), 'ENOSYS');
});

test('enters a namespace of another process by setns', async () => {
  const got = await inside(
    server,
    `${SYSCALL}
results = []
for name in os.listdir('/proc/self/ns'):
    fd = os.open('/proc/self/ns/' + name, os.O_RDONLY)
    results.append(call('setns', fd, 0))
results.append(call('setns', os.pidfd_open(1), 0x20000))
# NS_GET_USERNS and NS_GET_PARENT would hand out a way upwards.
for name in ('user', 'pid', 'net'):
    for request in (0xb701, 0xb702):
        fd = os.open('/proc/self/ns/' + name, os.O_RDONLY)
        r = libc.ioctl(fd, ctypes.c_ulong(request))
        if r >= 0: results.append(call('setns', r, 0))
print(*sorted(set(results)))`,
  );
  assert.equal(got, 'EPERM');
});

test('mounts: tmpfs, bind over /etc, remount writable, move, overlay, by old calls and new', async () => {
  const got = await inside(
    server,
    `${SYSCALL}
os.mkdir('/tmp/m')
results = {
  'tmpfs': call('mount', b't', b'/tmp/m', b'tmpfs', 0, 0),
  'proc': call('mount', b'p', b'/tmp/m', b'proc', 0, 0),
  'bind': call('mount', b'/tmp/m', b'/etc', 0, 4096, 0),
  'remount': call('mount', b'none', b'/usr', 0, 32 | 4096, 0),
  'remount /': call('mount', b'none', b'/', 0, 32, 0),
  'move': call('mount', b'/usr', b'/tmp/m', 0, 8192, 0),
  'shared': call('mount', b'none', b'/', 0, 1 << 20, 0),
  'umount /usr': call('umount2', b'/usr', 2),
  'umount /tmp': call('umount2', b'/tmp', 2),
  'umount workspace': call('umount2', os.getcwd().encode(), 2),
  'chroot': call('chroot', b'/tmp'),
  'pivot_root': call('pivot_root', b'/tmp', b'/tmp/m'),
  'open_tree': call('open_tree', -100, b'/', 1),
  'move_mount': call('move_mount', -100, b'/usr', -100, b'/tmp/m', 0),
  'fsopen': call('fsopen', b'tmpfs', 0),
  'fspick': call('fspick', -100, b'/usr', 0),
  'fsconfig': call('fsconfig', 0, 6, 0, 0, 0),
  'fsmount': call('fsmount', 0, 0, 0),
  'mount_setattr': call('mount_setattr', -100, b'/usr', 0, bytes(32), 32),
}
print({k: v for k, v in results.items() if v != 'EPERM'})`,
  );
  assert.equal(got, '{}');
});

test('makes device nodes: the disk, the memory', async () => {
  const got = await inside(
    server,
    `${SYSCALL}
results = []
for dir in (b'/tmp/', os.getcwd().encode() + b'/'):
    for mode in (0o060666, 0o020666):
        for device in (1 << 8 | 1, 8 << 8, 254 << 8):
            results.append(call('mknodat', -100, dir + b'node', mode, device))
            if 'mknod' in NR: results.append(call('mknod', dir + b'node', mode, device))
print(*set(results))`,
  );
  assert.equal(got, 'EPERM');
});

/**
 * One refused system call each: Python arguments, the error, and whether the server's user could make it outside
 * (where the answer does not hang on how the host is set up).
 */
const CALLS: Readonly<Record<string, readonly [args: string, error: string, control?: 'control']>> = {
  bpf: [`0, bytes(120), 120`, 'EPERM'],
  perf_event_open: [`bytes([1, 0, 0, 0, 128]) + bytes(123), 0, -1, -1, 0`, 'EPERM'],
  add_key: [`b'user', b'nox', b'x', 1, -3`, 'EPERM', 'control'],
  keyctl: [`0, -3, 1`, 'EPERM', 'control'],
  request_key: [`b'user', b'nox', 0, -3`, 'EPERM', 'control'],
  userfaultfd: [`1`, 'EPERM', 'control'],
  io_uring_setup: [`4, ctypes.create_string_buffer(120)`, 'ENOSYS'],
  io_setup: [`1, ctypes.create_string_buffer(8)`, 'ENOSYS', 'control'],
  kexec_load: [`0, 0, 0, 0`, 'EPERM'],
  kexec_file_load: [`-1, -1, 0, 0, 0`, 'EPERM'],
  init_module: [`b'', 0, b''`, 'EPERM'],
  finit_module: [`-1, b'', 0`, 'EPERM'],
  delete_module: [`b'nox', 0`, 'EPERM'],
  open_by_handle_at: [`-100, bytes(16), 0`, 'EPERM'],
  name_to_handle_at: [`-100, b'/usr', bytes(136), bytes(8), 0`, 'EPERM', 'control'],
  quotactl: [`0x800002 << 8, 0, 0, 0`, 'EPERM'],
  swapon: [`b'/tmp/swap', 0`, 'EPERM'],
  swapoff: [`b'/tmp/swap'`, 'EPERM'],
  reboot: [`0xfee1dead, 672274793, 0, 0`, 'EPERM'],
  settimeofday: [`bytes(16), 0`, 'EPERM'],
  clock_settime: [`0, bytes(16)`, 'EPERM'],
  adjtimex: [`bytes([1]) + bytes(207)`, 'EPERM'],
  sethostname: [`b'evil', 4`, 'EPERM'],
  setdomainname: [`b'evil', 4`, 'EPERM'],
  acct: [`b'/tmp/acct'`, 'EPERM'],
  syslog: [`2, ctypes.create_string_buffer(64), 64`, 'EPERM'],
  personality: [`0x0040000`, 'EPERM', 'control'],
  process_vm_readv: [`os.getpid(), 0, 0, 0, 0, 0`, 'EPERM', 'control'],
  process_vm_writev: [`os.getpid(), 0, 0, 0, 0, 0`, 'EPERM', 'control'],
  kcmp: [`os.getpid(), os.getpid(), 0, 0, 0`, 'EPERM', 'control'],
  pidfd_getfd: [`os.pidfd_open(os.getpid()), 0, 0`, 'EPERM', 'control'],
  move_pages: [`0, 0, 0, 0, 0, 0`, 'EPERM', 'control'],
  vmsplice: [`os.pipe()[1], 0, 0, 0`, 'EPERM', 'control'],
  fanotify_init: [`0, 0`, 'EPERM'],
  memfd_secret: [`0`, 'ENOSYS'],
  lookup_dcookie: [`0, 0, 0`, 'EPERM'],
};

for (const [name, [args, error, control]] of Object.entries(CALLS)) {
  test(`calls ${name}`, { skip: !SYSCALL.includes(`"${name}"`) && 'not on this architecture' }, async () => {
    const attack = `${SYSCALL}\nprint(call('${name}', ${args}))`;
    assert.equal(await inside(server, attack), error);
    if (control !== undefined) assert.notEqual(outside(attack), error);
  });
}

test('turns off the randomization of addresses, or has reads imply execution, by any bit of personality', async () => {
  const got = await inside(
    server,
    `${SYSCALL}
print(*{call('personality', 1 << bit) for bit in range(16, 32)}, call('personality', 0xdead << 32 | 0x0040000))`,
  );
  assert.equal(got, 'EPERM EPERM');
});

test('traces: PTRACE_TRACEME, a child, process 1', async () => {
  const attack = `${SYSCALL}
import signal
if os.fork() == 0:
    result = call('ptrace', 0, 0, 0, 0)
    os.write(1, (result + ' ').encode())
    os._exit(0)
os.wait()
child = os.fork()
if child == 0: signal.pause()
print(call('ptrace', 0x4206, child, 0, 0), call('ptrace', 16, 1, 0, 0), call('ptrace', 0x4206, 1, 0, 0))
os.kill(child, 9)`;
  assert.equal(outside(attack), 'ok ok EPERM EPERM');
  assert.equal(await inside(server, attack), 'EPERM EPERM EPERM EPERM');
});

test('reads the memory of process 1 and of its own parent', async () => {
  const attack = `${SYSCALL}
import struct
buffer = ctypes.create_string_buffer(8)
iov = struct.pack('<2Q', ctypes.addressof(buffer), 8)
print(call('process_vm_readv', 1, iov, 1, iov, 1, 0), call('pidfd_getfd', os.pidfd_open(1), 3, 0))
try: open('/proc/1/mem', 'rb'); print('opened')
except PermissionError: print('refused')`;
  assert.equal(await inside(server, attack), 'EPERM EPERM\nrefused');
});

/** getpid by the 32-bit system call table, then exit(42) by the 64-bit one: no compiler needed. */
const INT80 = `
import os, struct
code = bytes.fromhex('b814000000' 'cd80' 'b83c000000' 'bf2a000000' '0f05')
base = 0x400000
elf = b'\\x7fELF\\x02\\x01\\x01' + bytes(9) + struct.pack('<HHIQQQIHHHHHH', 2, 62, 1, base + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0)
elf += struct.pack('<IIQQQQQQ', 1, 5, 0, base, base, 120 + len(code), 120 + len(code), 4096) + code
import tempfile
path = tempfile.mkdtemp() + '/int80'
open(path, 'wb').write(elf)
os.chmod(path, 0o755)
pid = os.posix_spawn(path, [path], {})
status = os.waitpid(pid, 0)[1]
print('exit', os.WEXITSTATUS(status)) if os.WIFEXITED(status) else print('signal', os.WTERMSIG(status))`;

test('makes 32-bit system calls by int 0x80', { skip: process.arch !== 'x64' && 'x86_64 only' }, async () => {
  // A kernel without IA32 emulation answers with SIGSEGV (11) of its own.
  const bare = outside(INT80);
  assert.match(bare, /^(exit 42|signal 11)$/);
  assert.equal(await inside(server, INT80), bare === 'exit 42' ? 'signal 31' : bare);
});

test(
  'makes x32 system calls, whose numbers have bit 30 set',
  { skip: process.arch !== 'x64' && 'x86_64 only' },
  async () => {
    const got = await inside(
      server,
      `${SYSCALL}
print(*{nr(0x40000000 | NR[name], 0x10000000, 0, 0) for name in ('unshare', 'setns', 'mount', 'ptrace', 'bpf', 'getpid')},
      *{nr(0x40000000 | n) for n in range(512, 548)})`,
    );
    assert.equal(got, 'ENOSYS ENOSYS');
  },
);

test('makes system calls that are newer than the filter, or have no number', async () => {
  const got = await inside(
    server,
    `${SYSCALL}
newest = max(NR.values())
print(*{nr(n) for n in list(range(newest + 1, newest + 200)) + [0x7fffffff, 0x80000000, 0xffffffff]})`,
  );
  assert.equal(got, 'ENOSYS');
});

test('types into the terminal: TIOCSTI and TIOCLINUX, with the upper 32 bits set too; line disciplines', async () => {
  const got = await inside(
    server,
    `${SYSCALL}
import pty
master, slave = pty.openpty()
print(*{call('ioctl', fd, high << 32 | request, b'x')
        for fd in (0, slave) for request in (0x5412, 0x541c, 0x5423) for high in (0, 1, 0xffffffff)})
try: os.open('/dev/tty', os.O_RDWR); print('a terminal')
except OSError: print('none')`,
  );
  assert.equal(got, 'EPERM\nnone');
});

test('has the kernel take orders from it in /proc: oom_score_adj below its own, coredump of others', async () => {
  const got = await inside(
    server,
    `
import os
for path, value in (('/proc/self/oom_score_adj', '-1000'), ('/proc/self/oom_adj', '-17'), ('/proc/1/oom_score_adj', '1000'), ('/proc/1/coredump_filter', '255')):
    try: os.write(os.open(path, os.O_WRONLY), value.encode()); print(path)
    except OSError: pass`,
  );
  assert.equal(got, '');
});

test('leaves a core dump', async () => {
  const { body } = await runPy(
    server,
    `
import os, resource, signal
try: resource.setrlimit(resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)
except (OSError, ValueError): pass
os.kill(os.getpid(), signal.SIGSEGV)`,
  );
  assert.equal(body.returncode, -11);
  assert.equal(await inside(server, `import os; print([n for n in os.listdir('.') if 'core' in n])`), '[]');
});

test('raises its own limits', async () => {
  const got = await inside(
    server,
    `
import resource
for name in dir(resource):
    if not name.startswith('RLIMIT_'): continue
    limit = getattr(resource, name)
    hard = resource.getrlimit(limit)[1]
    if hard == resource.RLIM_INFINITY: continue
    try: resource.setrlimit(limit, (hard, hard + 1)); print(name)
    except (OSError, ValueError): pass
import os
try: os.nice(-5); print('nice')
except OSError: pass
for policy in (os.SCHED_FIFO, os.SCHED_RR):
    try: os.sched_setscheduler(0, policy, os.sched_param(1)); print('real time')
    except OSError: pass`,
  );
  assert.equal(got, '');
});

test('maps memory that is writable and executable from Python', async () => {
  const attack = `${SYSCALL}
import mmap
def try_map(prot, flags=0x22, fd=-1):
    ctypes.set_errno(0)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    r = libc.mmap(None, 4096, prot, flags, fd, 0)
    return r, errno.errorcode[ctypes.get_errno()] if r in (None, 2**64 - 1) else 'ok'
page, _ = try_map(3)
print(try_map(7)[1], call('mprotect', page, 4096, 7), call('mprotect', page, 4096, 5), call('pkey_mprotect', page, 4096, 5, -1),
      call('shmat', 0, 0, 0o100000))`;
  assert.match(outside(attack), /^ok ok ok ok/);
  assert.equal(await inside(server, attack), 'EACCES EACCES EACCES EACCES EACCES');
});

test('maps a memfd as executable from Python', async () => {
  const attack = `${SYSCALL}
ctypes.set_errno(0)
fd = libc.syscall(ctypes.c_long(NR['memfd_create']), b'x', 0)
print(errno.errorcode[ctypes.get_errno()] if fd == -1 else 'ok')`;
  assert.equal(outside(attack), 'ok');
  // Where a cgroup counts its memory a memfd is a file like any other, and files can be executed.
  assert.equal(await inside(server, attack), cgroup() ? 'ok' : 'ENOSYS');
});

test('hides from the filter in a program that it starts', async () => {
  const got = await inside(
    server,
    `${SYSCALL}
import subprocess
check = 'import ctypes, errno; l = ctypes.CDLL(None, use_errno=True); l.unshare(0x10000000); print(errno.errorcode[ctypes.get_errno()])'
for args in (['python3', '-c', check], ['setsid', 'python3', '-c', check], ['/lib64/ld-linux-x86-64.so.2', '/usr/bin/python3', '-c', check]):
    if os.path.exists(args[0]) or '/' not in args[0]: print(subprocess.run(args, capture_output=True, text=True).stdout.strip())`,
  );
  assert.deepEqual(new Set(got.split('\n')), new Set(['EPERM']));
});

test('runs the same attacks as a command, as a saved file, and as an uploaded program', async () => {
  const code = `${SYSCALL}\nprint(call('unshare', 0x10000000), call('ptrace', 0, 0, 0, 0), call('keyctl', 0, -3, 1))`;
  await put(server, 'attack.py', code);
  const answers = [
    await runSh(server, ['python3', '-c', code]),
    await runSh(server, 'python3 attack.py'),
    await runPy(server, code, { filename: 'saved/attack.py' }),
    await runSh(server, ['bash', '-c', 'exec setsid --wait python3 attack.py']),
  ];
  for (const { body } of answers)
    assert.deepEqual(body, { returncode: 0, stdout: 'EPERM EPERM EPERM\n', stderr: '' });
});

test('listens in on the system calls of its children by a seccomp listener', async () => {
  const attack = `${SYSCALL}
import struct
allow = ctypes.create_string_buffer(struct.pack('<HBBI', 6, 0, 0, 0x7fff0000))
program = struct.pack('<H6xQ', 1, ctypes.addressof(allow))
libc.prctl(38, 1, 0, 0, 0)
print(call('seccomp', 1, 8, program))`;
  assert.equal(outside(attack), 'ok');
  assert.equal(await inside(server, attack), 'EINVAL');
});

test('stalls the runner by a lease on a file of the workspace', async () => {
  const attack = `
import fcntl, os
fd = os.open('/tmp/nox-leased-%d' % os.getpid(), os.O_CREAT | os.O_RDWR, 0o600)
try: fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK); print('leased')
except OSError as e: print(e.errno)
os.unlink('/tmp/nox-leased-%d' % os.getpid())`;
  assert.equal(outside(attack), 'leased');
  assert.equal(await inside(server, attack), '22');
});

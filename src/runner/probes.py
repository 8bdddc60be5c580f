"""Tries to escape, from inside a real run, and prints one JSON line for each attempt: {"name", "held", "detail"}.

Run by `make validate`. Each probe calls the kernel directly, as an attacker would, and says `held` only when the
kernel refused; a probe that cannot be carried out counts as broken. System call numbers: asm/unistd_64.h for x86_64,
asm-generic/unistd.h for aarch64.
"""
import sys
# Else a file of the workspace could stand in for a module of ours, and say that all is well.
del sys.path[0]
import ctypes, errno, fcntl, json, mmap, os, platform, resource, socket, struct

libc = ctypes.CDLL(None, use_errno=True)
X86 = platform.machine() == 'x86_64'
NR = {
    'bpf': (321, 280), 'perf_event_open': (298, 241), 'keyctl': (250, 219), 'userfaultfd': (323, 282),
    'io_uring_setup': (425, 425), 'kexec_load': (246, 104), 'init_module': (175, 105), 'clone3': (435, 435),
    'process_vm_readv': (310, 270), 'open_by_handle_at': (304, 265), 'pivot_root': (155, 41), 'mount': (165, 40),
    'umount2': (166, 39), 'setns': (308, 268), 'move_mount': (429, 429), 'ptrace': (101, 117),
    'clone': (56, 220), 'reboot': (169, 142), 'chroot': (161, 51),
}
REFUSED = {errno.EPERM, errno.ENOSYS, errno.EACCES, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}


def call(name, *args):
    """-> the errno of a raw system call, 0 if it succeeded"""
    ctypes.set_errno(0)
    words = [ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    result = libc.syscall(ctypes.c_long(NR[name][0 if X86 else 1]), *words)
    return ctypes.get_errno() if result == -1 else 0


def refused(*numbers):
    shown = ', '.join(errno.errorcode.get(n, 'succeeded') for n in numbers)
    return all(n in REFUSED for n in numbers), shown


def errno_of(action):
    try:
        action()
        return 0
    except OSError as error:
        return error.errno


def status(key):
    with open('/proc/self/status') as file:
        return next(line.split()[1] for line in file if line.startswith(key + ':'))


def host_files():
    paths = ['/etc/shadow', '/root', '/home', '/var/log', '/var/lib/dpkg', '/sys/kernel', '/opt/nox/.env', '/etc/default']
    own = os.getcwd()
    seen = [p for p in paths if os.path.lexists(p) and not own.startswith(p + '/')]
    return not seen, ', '.join(seen) or 'none exists'


def server_environment():
    with_secret = [name for name in os.environ if name.startswith('NOX_')]
    return not with_secret and errno_of(lambda: open('/proc/1/environ').read()) == errno.EACCES, ', '.join(os.environ)


def control_channel():
    # The directory can be opened by who has its owner's id; its entries are shown to who may trace it (proc_pid_fd(5)).
    listed = []
    errno_of(lambda: listed.extend(os.listdir('/proc/1/fd')))
    reads = [errno_of(lambda n=n: open('/proc/1/' + n, 'rb').read(1)) for n in ('mem', 'environ', 'maps')]
    writes = [errno_of(lambda n=n: os.open('/proc/1/' + n, os.O_WRONLY)) for n in ('mem', 'clear_refs', 'oom_score_adj')]
    numbers = [*reads, errno_of(lambda: os.readlink('/proc/1/exe')), *writes]
    shown = ', '.join(errno.errorcode.get(n, 'succeeded') for n in numbers)
    return not listed and all(n in REFUSED | {errno.EROFS} for n in numbers), f'{len(listed)} descriptors seen; {shown}'


def write_to_system():
    names = ['/usr/nox-probe', '/etc/nox-probe', '/nox-probe', '/dev/nox-probe', '/run/nox-probe', '/proc/sys/kernel/core_pattern']
    numbers = [errno_of(lambda n=n: os.close(os.open(n, os.O_WRONLY | os.O_CREAT))) for n in names]
    return all(n in REFUSED | {errno.EROFS, errno.ENOENT} for n in numbers), ', '.join(errno.errorcode.get(n, 'succeeded') for n in numbers)


def mounts():
    none, tmp, tmpfs = b'none', b'/tmp', b'tmpfs'
    remount = call('mount', none, b'/usr', None, 32 | 4096, None)
    return refused(call('mount', none, tmp, tmpfs, 0, None), remount, call('umount2', b'/tmp', 2), call('move_mount', -1, b'', -1, b'', 0))


def new_root():
    return refused(call('pivot_root', b'/tmp', b'/tmp'), call('chroot', b'/tmp'))


def namespaces():
    return refused(*[(libc.unshare(flag) and ctypes.get_errno()) or 0 for flag in (0x10000000, 0x20000, 0x40000000, 0x20000000)])


def namespaces_by_clone():
    numbers = []
    for flags in (0x10000000, 0x20000000, 0x40000000):
        n = call('clone', flags | 17, 0, 0, 0, 0)
        numbers.append(n)
    arguments = struct.pack('11Q', 0x10000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0)
    numbers.append(call('clone3', arguments, len(arguments)))
    return refused(*numbers)


def join_namespace():
    fd = os.open('/proc/self/ns/net', os.O_RDONLY)
    number = call('setns', fd, 0)
    os.close(fd)
    return refused(number)


def trace():
    return refused(call('ptrace', 16, 1, 0, 0), call('ptrace', 0, 0, 0, 0), call('process_vm_readv', 1, 0, 0, 0, 0, 0))


def kernel_code():
    return refused(call('bpf', 0, 0, 0), call('init_module', 0, 0, b''), call('kexec_load', 0, 0, 0, 0), call('reboot', 0, 0, 0, 0))


def perf():
    return refused(call('perf_event_open', bytes(128), 0, -1, -1, 0))


def keyrings():
    return refused(call('keyctl', 0, -3, 1, 0, 0))


def fault_handling():
    return refused(call('userfaultfd', 1))


def io_uring():
    return refused(call('io_uring_setup', 1, bytes(120)))


def file_handles():
    return refused(call('open_by_handle_at', -100, bytes(128), 0))


def sockets():
    AF_ALG, AF_PACKET, AF_VSOCK = 38, 17, 40
    kinds = [(AF_PACKET, socket.SOCK_RAW, 0), (AF_VSOCK, socket.SOCK_STREAM, 0), (AF_ALG, socket.SOCK_SEQPACKET, 0),
             (socket.AF_INET, socket.SOCK_RAW, 1), (socket.AF_NETLINK, socket.SOCK_RAW, 9)]
    return refused(*[errno_of(lambda k=k: socket.socket(*k)) for k in kinds])


def network():
    def connect():
        with socket.socket() as s:
            s.settimeout(2)
            s.connect(('192.0.2.1', 80))
    interfaces = [name for _, name in socket.if_nameindex()]
    n = errno_of(connect)
    return interfaces == ['lo'] and n == errno.ENETUNREACH, f'{", ".join(interfaces)}; {errno.errorcode.get(n)}'


def terminal_input():
    fd = os.open('/dev/ptmx', os.O_RDWR | os.O_NOCTTY)
    numbers = [errno_of(lambda r=r: fcntl.ioctl(fd, r, b'x')) for r in (0x5412, 0x541C)]
    os.close(fd)
    return refused(*numbers)


def writable_code():
    rwx = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    numbers = [errno_of(lambda: mmap.mmap(-1, 4096, prot=rwx))]
    page = mmap.mmap(-1, 4096)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    numbers.append(0 if libc.mprotect(ctypes.c_void_p(address), 4096, 5) == 0 else ctypes.get_errno())
    return refused(*numbers)


def privileges():
    caps = [status(k) for k in ('CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb')]
    found = f"caps {set(caps)}, NoNewPrivs {status('NoNewPrivs')}, Seccomp {status('Seccomp')}"
    return all(int(c, 16) == 0 for c in caps) and status('NoNewPrivs') == '1' and status('Seccomp') == '2', found


def host_root():
    with open('/proc/self/uid_map') as file:
        inside, outside, count = map(int, file.read().split())
    return inside != 0 and count == 1 and errno_of(lambda: os.setuid(0)) != 0, f'uid {inside}, one id mapped'


def devices():
    numbers = [errno_of(lambda: os.mknod('/tmp/sda', 0o60666, os.makedev(8, 0)))]
    extra = set(os.listdir('/dev')) - {
        'null', 'zero', 'full', 'random', 'urandom', 'tty', 'stdin', 'stdout', 'stderr', 'fd', 'core', 'shm', 'pts', 'ptmx', 'console'}
    return numbers[0] in REFUSED and not extra, f'{errno.errorcode.get(numbers[0], "succeeded")}; more in /dev: {extra or "none"}'


def other_processes():
    pids = sorted(int(p) for p in os.listdir('/proc') if p.isdigit())
    return pids == [1, os.getpid()], f'sees {pids}'


def descriptors():
    own = os.open('/proc/self/fd', os.O_RDONLY)
    extra = [fd for fd in map(int, os.listdir(own)) if fd not in (0, 1, 2, own) and os.path.exists(f'/proc/self/fd/{fd}')]
    return not extra, f'inherited: {extra or "none"}'


def limits():
    wanted = [resource.RLIMIT_NPROC, resource.RLIMIT_NOFILE, resource.RLIMIT_FSIZE, resource.RLIMIT_CPU]
    hard = [resource.getrlimit(r)[1] for r in wanted]
    return resource.RLIM_INFINITY not in hard and resource.getrlimit(resource.RLIMIT_CORE)[1] == 0, str(hard)


PROBES = [host_files, server_environment, control_channel, write_to_system, mounts, new_root, namespaces,
          namespaces_by_clone, join_namespace, trace, kernel_code, perf, keyrings, fault_handling, io_uring,
          file_handles, sockets, network, terminal_input, writable_code, privileges, host_root, devices,
          other_processes, descriptors, limits]

for probe in PROBES:
    try:
        held, detail = probe()
    except BaseException as error:
        held, detail = False, f'the probe failed: {error!r}'
    print(json.dumps({'name': probe.__name__.replace('_', ' '), 'held': held, 'detail': detail}), flush=True)

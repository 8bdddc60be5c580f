"""
System calls: one at a time by way of the C library, and whole lists of them by a loop of machine code.

Why lists. A process that was copied from an interpreter pays for every page that it touches, and Python touches a
hundred of them to make a handful of calls. What the isolation of a run needs is known in advance: so it is written
down as data, call by call, and made by a loop of 90 bytes that touches its list, and nothing else. It needs no
interpreter, so it runs as well in a process that shares the zygote's memory (clone(2), CLONE_VM), which costs nothing
to make and nothing to end.

An entry of a list is eight 64-bit words: number and flags (the upper half), six arguments, and the result, which the
loop puts there. A call that fails ends the loop, unless the entry is flagged otherwise.
"""
import ctypes
import posix

# The kernel's names and numbers: linux/sched.h, linux/mount.h, linux/prctl.h, asm-generic/fcntl.h, asm/unistd.h.
CLONE_VM, CLONE_PIDFD = 0x100, 0x1000
NEWNS, NEWCGROUP, NEWUTS, NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
NEWUSER, NEWPID, NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MNT_DETACH = 1, 2, 4, 8, 32, 4096, 16384, 2
PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP = 4, 22, 24
O_PATH = 0o10000000
AT_FDCWD = -100
ALL = 0xFFFFFFFF
SIGINT, SIGKILL, SIGPIPE, SIGCHLD, SIGXFSZ, SIG_SETMASK = 2, 9, 13, 17, 25, 2
WALL, WNOHANG = 0x40000000, 1
# linux/mount.h: open_tree(2), move_mount(2).
OPEN_TREE_CLONE, F_EMPTY_PATH, T_EMPTY_PATH = 1, 0x4, 0x40
# capset(2), version 3: a header, then effective, permitted and inheritable, 2 × 32 bits each. Ambient ones follow.
NO_CAPABILITIES = (0x20080522).to_bytes(4, 'little') + bytes(4), bytes(24)

MAY_FAIL, END, AGAIN, GO_TO = 1, 2, 4, 8
ENTRY = 64

MACHINE = posix.uname().machine
NUMBERS = {
    'x86_64': {
        'write': 1, 'close': 3, 'munmap': 11, 'rt_sigaction': 13, 'rt_sigprocmask': 14, 'wait4': 61, 'execve': 59,
        'umask': 95, 'getrusage': 98, 'setsid': 112, 'capset': 126, 'rt_sigtimedwait': 128, 'prctl': 157, 'mount': 165,
        'umount2': 166, 'chdir': 80, 'kill': 62, 'openat': 257, 'mkdirat': 258, 'unshare': 272, 'dup3': 292, 'prlimit64': 302,
        'setns': 308, 'read': 0, 'open_tree': 428, 'close_range': 436,
    },
    'aarch64': {
        'write': 64, 'close': 57, 'munmap': 215, 'rt_sigaction': 134, 'rt_sigprocmask': 135, 'wait4': 260, 'execve': 221,
        'umask': 166, 'getrusage': 165, 'setsid': 157, 'capset': 91, 'rt_sigtimedwait': 137, 'prctl': 167, 'mount': 40,
        'umount2': 39, 'chdir': 49, 'kill': 129, 'openat': 56, 'mkdirat': 34, 'unshare': 97, 'dup3': 24, 'prlimit64': 261,
        'setns': 268, 'read': 63, 'open_tree': 428, 'close_range': 436,
    },
}[MACHINE]

# long run(entry *list): 0 at the end of the list, else the address of the entry that failed.
CODE = {
    'x86_64': """
        53              push %rbx
        48 89 fb        mov  %rdi, %rbx
    loop:
        8b 4b 04        mov  4(%rbx), %ecx
        f6 c1 08        test $8, %cl
        75 44           jnz  go_to
        f6 c1 02        test $2, %cl
        75 45           jnz  end
        8b 03           mov  (%rbx), %eax
        48 8b 7b 08     mov  8(%rbx), %rdi
        48 8b 73 10     mov  16(%rbx), %rsi
        48 8b 53 18     mov  24(%rbx), %rdx
        4c 8b 53 20     mov  32(%rbx), %r10
        4c 8b 43 28     mov  40(%rbx), %r8
        4c 8b 4b 30     mov  48(%rbx), %r9
        0f 05           syscall
        48 89 43 38     mov  %rax, 56(%rbx)
        8b 4b 04        mov  4(%rbx), %ecx
        48 85 c0        test %rax, %rax
        78 0d           js   failed
        74 05           jz   next
        f6 c1 04        test $4, %cl
        75 c4           jnz  loop
    next:
        48 83 c3 40     add  $64, %rbx
        eb be           jmp  loop
    failed:
        f6 c1 01        test $1, %cl
        75 f5           jnz  next
        48 89 d8        mov  %rbx, %rax
        5b              pop  %rbx
        c3              ret
    go_to:
        48 8b 5b 08     mov  8(%rbx), %rbx
        eb ae           jmp  loop
    end:
        31 c0           xor  %eax, %eax
        5b              pop  %rbx
        c3              ret
    """,
    'aarch64': """
        e9 03 00 aa     mov  x9, x0
    loop:
        2a 05 40 b9     ldr  w10, [x9, #4]
        2a 02 18 37     tbnz w10, #3, go_to
        4a 02 08 37     tbnz w10, #1, end
        28 01 40 b9     ldr  w8, [x9]
        20 85 40 a9     ldp  x0, x1, [x9, #8]
        22 8d 41 a9     ldp  x2, x3, [x9, #24]
        24 95 42 a9     ldp  x4, x5, [x9, #40]
        01 00 00 d4     svc  #0
        20 1d 00 f9     str  x0, [x9, #56]
        2a 05 40 b9     ldr  w10, [x9, #4]
        a0 00 f8 b7     tbnz x0, #63, failed
        40 00 00 b4     cbz  x0, next
        8a fe 17 37     tbnz w10, #2, loop
    next:
        29 01 01 91     add  x9, x9, #64
        f2 ff ff 17     b    loop
    failed:
        ca ff 07 37     tbnz w10, #0, next
        e0 03 09 aa     mov  x0, x9
        c0 03 5f d6     ret
    go_to:
        29 05 40 f9     ldr  x9, [x9, #8]
        ed ff ff 17     b    loop
    end:
        00 00 80 d2     mov  x0, #0
        c0 03 5f d6     ret
    """,
}[MACHINE]

c_int, c_long, c_bytes, c_pointer = ctypes.c_int, ctypes.c_long, ctypes.c_char_p, ctypes.c_void_p
libc = ctypes.PyDLL(None, use_errno=True)


def function(name, *argument_types, result=c_int):
    found = libc[name]
    found.argtypes, found.restype = argument_types, result
    return found


clone = function('clone', c_pointer, c_pointer, c_int, c_pointer, c_pointer, c_pointer, c_pointer)
setns = function('setns', c_int, c_int)
unshare = function('unshare', c_int)
mount = function('mount', c_bytes, c_bytes, c_bytes, c_long, c_bytes)
umount2 = function('umount2', c_bytes, c_int)
prctl = function('prctl', c_int, c_long, c_long, c_long, c_long)
prlimit = function('prlimit', c_int, c_int, c_bytes, c_pointer)
getrusage = function('getrusage', c_int, c_pointer)
munmap = function('munmap', c_pointer, ctypes.c_size_t)
wait4 = function('wait4', c_int, c_pointer, c_int, c_pointer)
ioctl = function('ioctl', c_int, c_long, c_pointer)
execve = function('execve', c_bytes, c_pointer, c_pointer)
capset = function('capset', c_bytes, c_bytes)
eventfd = function('eventfd', ctypes.c_uint, c_int)
_syscall = function('syscall', c_long, c_long, c_bytes, c_long, c_bytes, c_long, result=c_long)
_mmap = function('mmap', c_pointer, ctypes.c_size_t, c_int, c_int, c_int, c_long, result=c_pointer)
_mprotect = function('mprotect', c_pointer, ctypes.c_size_t, c_int)
PAGE = 4096


def must(result, what):
    """@raises OSError naming the call, where its result is an error"""
    if result < 0:
        raise OSError(ctypes.get_errno(), '%s: %s' % (what, posix.strerror(ctypes.get_errno())))
    return result


def move_mount(mount, target):
    """Attaches a detached mount to what a descriptor stands for (move_mount(2), which the C library has since 2.36)."""
    return _syscall(429, mount, b'', target, b'', F_EMPTY_PATH | T_EMPTY_PATH)


def map_memory(size, shared):
    """Zeros; `shared`: with every process that is copied from this one."""
    # PROT_READ | PROT_WRITE; MAP_ANONYMOUS with MAP_SHARED or MAP_PRIVATE
    address = _mmap(None, size, 1 | 2, 0x20 | (1 if shared else 2), -1, 0)
    if address == c_pointer(-1).value:
        raise OSError(ctypes.get_errno(), 'mmap')
    return address


def load():
    """@returns the address of the loop, as a number and as a function of Python"""
    code = b''.join(bytes.fromhex(line[:23].strip()) for line in CODE.split('\n') if line[:8] == '        ')
    address = map_memory(PAGE, shared=False)
    ctypes.memmove(address, code, len(code))
    must(_mprotect(address, PAGE, 1 | 4), 'mprotect')  # PROT_READ | PROT_EXEC: never both written and run
    return address, ctypes.PYFUNCTYPE(c_pointer, c_pointer)(address)


class Hole:
    """An argument that is known when the list is used."""

    def __init__(self, name):
        self.name = name


class List:
    """System calls as they are written down, once; a Copy is what is run."""

    def __init__(self):
        self.names, self.words, self.holes, self.marks = [], [], {}, {}
        self.kept = []  # what arguments point to
        self.image = None

    def add(self, name, *arguments, flags=0):
        """@param arguments numbers; bytes, which are passed by their address with a NUL behind them; holes"""
        at = len(self.words)
        self.names.append(name)
        self.words += [NUMBERS[name] | flags << 32, *[0] * 7]
        for which, argument in enumerate(arguments, at + 1):
            if isinstance(argument, Hole):
                self.holes.setdefault(argument.name, []).append(which)
            elif isinstance(argument, bytes):
                self.kept.append(ctypes.create_string_buffer(argument))
                self.words[which] = ctypes.addressof(self.kept[-1])
            else:
                self.words[which] = argument & 0xFFFFFFFFFFFFFFFF

    def write_file(self, path, text, descriptor):
        """@param descriptor the lowest that is free, which open(2) returns"""
        self.add('openat', AT_FDCWD, path, posix.O_WRONLY)
        self.add('write', descriptor, text, len(text))
        self.add('close', descriptor)

    def mark(self, name):
        """The place of the next entry."""
        self.marks[name] = len(self.words) // 8

    def go_to(self, hole):
        """From here on at an address that is filled in."""
        self.names.append('')
        self.holes[hole.name] = [len(self.words) + 1]
        self.words += [GO_TO << 32, *[0] * 7]


class Copy:
    """A list in memory, as the loop takes it."""

    def __init__(self, source, **values):
        count = len(source.words)
        if source.image is None:
            source.image = (ctypes.c_uint64 * (count + 8))(*source.words)
            source.image[count] = END << 32
        self.source = source
        self.memory = (ctypes.c_uint64 * (count + 8)).from_buffer_copy(source.image)
        self.address = ctypes.addressof(self.memory)
        self.fill(**values)

    def fill(self, **values):
        for name, value in values.items():
            for which in self.source.holes[name]:
                self.memory[which] = value

    def at(self, mark):
        return self.address + self.source.marks[mark] * ENTRY

    def errors(self):
        """Of each call: 0, or the number of its error."""
        return [max(0, -result) for result in (ctypes.c_int64 * len(self.memory)).from_buffer(self.memory)[7:-8:8]]

    def failure(self):
        """`mount: Operation not permitted`, of the first call that failed and must not; None if there is none."""
        for at, (name, error) in enumerate(zip(self.source.names, self.errors())):
            if error and not self.memory[at * 8] >> 32 & MAY_FAIL:
                return '%s: %s' % (name, posix.strerror(error))
        return None


def keep(*objects):
    """For ever: in a copy, what becomes free is taken apart, and costs a page or two."""
    for each in objects:
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))

"""
Process 2 of a run: what joins the cell, waits for its plan, and becomes the program.

Python code runs in a copy of the zygote, made by fork: it joins its cell by a list of calls, waits for its plan, and
does the rest in Python. Its standard descriptors stand from the start: the plan comes through descriptor 0, and what
follows it there is the program's standard input. A command is joined and executed by one list of calls, in a process
that shares the zygote's memory until execve(2).
"""
import ctypes
import gc
import os
import posix
import sys

import _signal
import nox_memory
from nox_calls import (
    ALL, AT_FDCWD, MAY_FAIL, MNT_DETACH, MS_NODEV, MS_NOSUID, MS_REMOUNT, NEWCGROUP, NEWIPC, NEWNET, NEWNS, NEWUSER,
    NEWUTS, NO_CAPABILITIES, O_PATH, OPEN_TREE_CLONE, PR_CAPBSET_DROP, PR_SET_DUMPABLE, PR_SET_SECCOMP, SIG_SETMASK,
    SIGINT, SIGPIPE, SIGXFSZ, Copy, Hole, List, c_bytes, c_pointer, capset, execve, function, getrusage, mount,
    move_mount, munmap, must, prctl, prlimit, unshare,
)

ARGV = [os.fsencode(each) for each in sys.orig_argv]
PROGRAM = sys.orig_argv[1]
# Descriptors of a copy that waits: the runner's socket, the file for the code and its mount, the cgroups of runs, the
# workspace.
CONTROL, CODE_FILE, CGROUPS, CODE_MOUNT, WORKSPACE = 3, 4, 5, 6, 7
CODE = b'/run/code'
REHEARSAL = '/tmp/run.py'
CODE_ROOM = 131072
PLAN_MAX = 1 << 20
LAST_CAPABILITY = int(open('/proc/sys/kernel/cap_last_cap').read())
NAMESPACES = NEWUSER | NEWNS | NEWIPC | NEWUTS | NEWNET
# Done ahead in every copy: a page that is shared with the zygote costs when it is first written to.
TOUCHING = compile(
    'import sys\ndef f(*a, **k):\n    try:\n        return [str(x) for x in a]\n    except Exception as e:\n        raise\n'
    'f(1, 2.5, b"")\nclass C:\n    x = f"{1}"\n',
    PROGRAM,
    'exec',
)


class Plan:
    """What a run is: see plan.ts."""

    def __init__(self, fields):
        self.kind, self.script, self.code, self.tmp, self.limits, self.stdin, self.cgroup, env, argv, files = fields
        self.env, self.argv = env.split(b'\0'), argv.split(b'\0')
        files = cut_fields(files)
        # Relative to the workspace, or absolute.
        self.files = list(zip(files[::2], files[1::2]))


def rlimits(limits):
    """[(resource, struct rlimit64: soft, hard)]"""
    rows = [row.split(b':') for row in limits.split(b',')]
    return [(int(r), int(s).to_bytes(8, 'little') + int(h).to_bytes(8, 'little')) for r, s, h in rows]


def tmpfs_options(size):
    # An inode costs about 1 KiB of kernel memory and no byte of `size`.
    return b'mode=755,size=%d,nr_inodes=%d' % (size + CODE_ROOM, 1024 + size // 16384)


def join(calls, event, after):
    """
    The first calls of any program: into the cell when it is finished, with no descriptor but these.

    @param event the lowest free descriptor; after: from which on all are closed
    """
    calls.add('setns', Hole('init'), NAMESPACES)
    for number, name in enumerate(('stdin', 'stdout', 'stderr')):
        calls.add('dup3', Hole(name), number, 0)
    calls.add('dup3', Hole('event'), event, 0)
    calls.add('dup3', Hole('cgroups'), event + 1, 0)
    calls.add('close_range', after, ALL, 0)
    calls.add('read', event, bytes(8), 8)  # eventfd(2)
    calls.add('close', event)
    calls.add('setsid')


def leave_capabilities(calls):
    for capability in range(LAST_CAPABILITY + 1):
        calls.add('prctl', PR_CAPBSET_DROP, capability, 0, 0, 0)


class Filter:
    """struct sock_fprog: a length in instructions of 8 bytes, and a pointer."""

    def __init__(self, code):
        self.code = ctypes.create_string_buffer(code, len(code))
        self.header = (ctypes.c_uint64 * 2)(len(code) // 8, ctypes.addressof(self.code))
        self.address = ctypes.addressof(self.header)

    def install(self):
        must(prctl(PR_SET_SECCOMP, 2, self.address, 0, 0), 'prctl PR_SET_SECCOMP')


class Program:
    def __init__(self, settings, packages, ending):
        self.settings, self.packages, self.ending = settings, packages, ending
        self.copy_filter, self.command_filter = Filter(settings.copy_filter), Filter(settings.command_filter)
        self.joining = Copy(self.joining_calls())
        self.command_calls = {remount: self.calls_of_command(remount) for remount in (False, True)}
        # Warm up what CPython makes when it is first used, lest every copy makes it.
        compile('try:\n    1\nexcept Exception: pass', '', 'exec')

    def joining_calls(self):
        """All that can be done before there is a plan."""
        calls = List()
        join(calls, event=4, after=6)
        calls.add('openat', AT_FDCWD, CODE, posix.O_WRONLY | posix.O_CLOEXEC)
        calls.add('open_tree', AT_FDCWD, CODE, OPEN_TREE_CLONE | posix.O_CLOEXEC)
        calls.add('umount2', b'/run', MNT_DETACH)
        calls.add('openat', AT_FDCWD, self.settings.workspace, O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
        calls.add('chdir', self.settings.workspace)
        leave_capabilities(calls)
        calls.add('prctl', PR_SET_DUMPABLE, 1, 0, 0, 0)  # a program may look at itself
        for resource, values in rlimits(self.settings.limits):
            calls.add('prlimit64', 0, resource, values, 0)
        calls.add('prctl', PR_SET_SECCOMP, 2, self.copy_filter.address, 0, 0)
        return calls

    def calls_of_command(self, remount):
        calls = List()
        join(calls, event=3, after=5)
        calls.add('chdir', self.settings.workspace)
        if remount:
            calls.add('mount', 0, b'/tmp', 0, MS_REMOUNT | MS_NOSUID | MS_NODEV, Hole('tmp'))
        calls.add('umount2', b'/run', MNT_DETACH)
        if self.settings.cgroups:
            calls.add('openat', 4, Hole('cgroup'), posix.O_WRONLY)
            calls.add('write', 3, b'0', 1)
            calls.add('close', 3)
            calls.add('unshare', NEWCGROUP)
        calls.add('close', 4)
        leave_capabilities(calls)
        calls.add('capset', *NO_CAPABILITIES)
        for resource, _ in rlimits(self.settings.limits):
            calls.add('prlimit64', 0, resource, Hole('limit%d' % resource), 0)
        for signal in (SIGPIPE, SIGXFSZ):
            calls.add('rt_sigaction', signal, bytes(32), 0, 8)
        calls.add('prctl', PR_SET_SECCOMP, 2, self.command_filter.address, 0, 0)
        calls.add('getrusage', 0, Hole('usage'))
        # Last: one that a signal ends before its usage is noted would pass for a cell that is broken, and be run again.
        calls.add('rt_sigprocmask', SIG_SETMASK, bytes(8), 0, 8)
        calls.go_to(Hole('execution'))
        return calls

    # ---------------------------------------------------------------- a copy of the zygote

    def become(self, loop, tell, usage, shared):
        """
        In a copy of the zygote. Returns where the interpreter is to go on with the program; else executes, or ends.

        @param usage where init's report will find what was used before the program began; shared: the memory around it
        """
        try:
            if loop(self.joining.address):
                raise OSError(self.joining.failure())
            self.touch()
            plan = Plan(take_fields(0))
            if int(plan.tmp) != self.settings.tmp or len(plan.code) > CODE_ROOM // 2:
                options = tmpfs_options(int(plan.tmp) + len(plan.code))
                must(mount(None, b'/tmp', None, MS_REMOUNT | MS_NOSUID | MS_NODEV, options), 'mount /tmp')
            if plan.kind == b'rehearsal':
                self.prepare_rehearsal()
            elif self.settings.scratch:
                for path, data in [*plan.files, (plan.script, plan.code)]:
                    write_file(path, data)
            elif not self.placed(plan):
                tell('no_place')
                posix._exit(0)
            if plan.cgroup:
                group = posix.open(plan.cgroup, posix.O_WRONLY | posix.O_CLOEXEC, dir_fd=CGROUPS)
                posix.write(group, b'0')
                must(unshare(NEWCGROUP), 'unshare')
            must(capset(*NO_CAPABILITIES), 'capset')
            if plan.limits != self.settings.limits:
                for resource, values in rlimits(plan.limits):
                    must(prlimit(0, resource, values, None), 'prlimit')
            if plan.stdin == b'null':
                posix.dup2(posix.open('/dev/null', posix.O_RDONLY), 0)
            must(getrusage(0, usage), 'getrusage')
            must(munmap(*shared), 'munmap')
            _signal.pthread_sigmask(_signal.SIG_SETMASK, [])
        except BaseException as error:
            tell('broken', repr(error).replace('\n', ' '))
            posix._exit(1)
        posix.closerange(3, 1 << 20)
        try:
            if plan.kind in (b'python', b'rehearsal') and self.go_on(plan):
                return
        except BaseException as error:
            posix.write(2, b'nox: the interpreter could not be continued: %s\n' % repr(error).encode())
            posix._exit(125)
        execute(plan)

    def touch(self):
        for hook in sys.path_hooks:
            try:
                hook(PROGRAM)
            except ImportError:
                pass
        exec(TOUCHING, {'__name__': 'touch'})

    def placed(self, plan):
        """Mounts the code over a file of the workspace; false where that is gone. No link is followed."""
        rest = memoryview(plan.code)
        while rest:
            rest = rest[posix.write(CODE_FILE, rest) :]
        *parents, name = plan.script.split(b'/')
        directory = WORKSPACE
        try:
            for parent in parents:
                directory = posix.open(parent, O_PATH | posix.O_DIRECTORY | posix.O_NOFOLLOW, dir_fd=directory)
            target = posix.open(name, O_PATH | posix.O_NOFOLLOW, dir_fd=directory)
            regular = posix.fstat(target).st_mode & 0o170000 == 0o100000
            # Unlinked since it was opened: ENOENT. And it must stand where the interpreter will look for it.
            if not regular or move_mount(CODE_MOUNT, target) < 0:
                return False
            return posix.fstat(CODE_FILE)[1:3] == posix.stat(plan.script, dir_fd=WORKSPACE)[1:3]
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return False

    def go_on(self, plan):
        """False where only a new interpreter would do what bare Python does."""
        argv = [os.fsdecode(each) for each in plan.argv]
        program = argv[1]
        # As CPython finds sys.path[0].
        real = os.path.realpath(program) if self.packages.modules else program
        if self.packages.shadowed(real[: real.rindex('/')]):
            return False
        if program != PROGRAM and not rename_program(program):
            return False
        sys.argv[:] = argv[1:]
        sys.orig_argv[:] = argv
        if plan.stdin == b'pipe':
            open_stdin()
        _signal.signal(SIGINT, _signal.default_int_handler)
        self.ending.watch_input()
        ctypes.set_errno(0)
        # What is here by now is nothing of the program's.
        gc.freeze()
        main_module_for_gc(gc_track)
        return True

    def rehearsal(self):
        """The plan of a run of the zygote's own."""
        argv = b'\0'.join([ARGV[0], REHEARSAL.encode()])
        tmp = b'%d' % self.settings.tmp
        return pack_fields([b'rehearsal', b'', b'', tmp, self.settings.limits, b'null', b'', b'', argv, b''])

    def prepare_rehearsal(self):
        """Its program, where it needs no place in the workspace. At its end it tells which pages it has written."""
        with open(REHEARSAL, 'wb') as file:
            file.write(nox_memory.TYPICAL + self.packages.exercise().encode())
        self.ending.at_end.append(nox_memory.tell_own_pages)

    def freeze(self):
        """In the zygote: nothing that is alive now is ever looked at by the collector of a copy."""
        main_module_for_gc(gc_untrack)
        gc.collect()
        # What the first has freed is kept for new objects; at its end every copy would give it back.
        gc.collect()
        gc.freeze()

    # ---------------------------------------------------------------- a command

    def command(self, plan, usage, **descriptors):
        """The calls that join a cell, write files and execute a command: three lists, and what they point to."""
        remount = int(plan.tmp) != self.settings.tmp
        rows = rlimits(plan.limits)
        kept = [ctypes.create_string_buffer(values) for _, values in rows]
        limits = {'limit%d' % resource: ctypes.addressof(each) for (resource, _), each in zip(rows, kept)}
        values = dict(limits, usage=usage, **descriptors)
        for name, text in (('tmp', tmpfs_options(int(plan.tmp)) if remount else b''), ('cgroup', plan.cgroup)):
            if name in self.command_calls[remount].holes:
                kept.append(ctypes.create_string_buffer(text))
                values[name] = ctypes.addressof(kept[-1])
        arguments = (c_bytes * (len(plan.argv) + 1))(*plan.argv, None)
        variables = (c_bytes * (len(plan.env) + 1))(*plan.env, None)
        execution = List()
        for path in candidates(plan):
            execution.add('execve', path, ctypes.addressof(arguments), ctypes.addressof(variables), flags=MAY_FAIL)
        second = Copy(execution)
        files = file_calls(plan.files)
        between = None if files is None else Copy(files, execution=second.address)
        after = second if between is None else between
        first = Copy(self.command_calls[remount], execution=after.address, **values)
        return first, between, second, (kept, arguments, variables, plan)


def parents_of(path):
    """Of `a/b/c`: `a`, `a/b`."""
    names = path.split(b'/')
    return [b'/'.join(names[:count]) for count in range(1, len(names)) if names[count - 1]]


def write_file(path, data):
    for parent in parents_of(path):
        try:
            posix.mkdir(parent, 0o755)
        except FileExistsError:
            pass
    descriptor = posix.open(path, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC, 0o644)
    rest = memoryview(data)
    while rest:
        rest = rest[posix.write(descriptor, rest) :]
    posix.close(descriptor)


def file_calls(files):
    """The same for a process that has no interpreter. It has given up all rights by then."""
    if not files:
        return None
    calls = List()
    for path, data in files:
        for parent in parents_of(path):
            calls.add('mkdirat', AT_FDCWD, parent, 0o755, flags=MAY_FAIL)
        calls.add('openat', AT_FDCWD, path, posix.O_WRONLY | posix.O_CREAT | posix.O_TRUNC, 0o644)
        # The lowest that is free.
        calls.add('write', 3, data, len(data))
        calls.add('close', 3)
    calls.go_to(Hole('execution'))
    return calls


def candidates(plan):
    """As execvp(3) finds a command."""
    name = plan.argv[0]
    if b'/' in name:
        return [name]
    path = next((each[5:] for each in plan.env if each.startswith(b'PATH=')), b'/bin:/usr/bin')
    return [directory + b'/' + name for directory in path.split(b':')]


def take_fields(descriptor):
    """A 32-bit length, then fields, each with a 32-bit length before it."""
    data = posix.read(descriptor, 4)
    if len(data) < 4:
        raise EOFError('the plan was cut short')
    size = int.from_bytes(data, 'big')
    data = posix.read(descriptor, size)
    while len(data) < size:
        piece = posix.read(descriptor, min(size - len(data), PLAN_MAX))
        if not piece:
            raise EOFError('the plan was cut short')
        data += piece
    return cut_fields(data)


def cut_fields(data):
    fields, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], 'big')
        fields.append(data[at + 4 : at + 4 + size])
        at += 4 + size
    return fields


def pack_fields(fields):
    return b''.join(len(field).to_bytes(4, 'big') + field for field in fields)


def execute(plan):
    for signal in (SIGPIPE, SIGXFSZ, SIGINT):
        _signal.signal(signal, _signal.SIG_DFL)
    arguments = (c_bytes * (len(plan.argv) + 1))(*plan.argv, None)
    execve(plan.argv[0], arguments, (c_bytes * (len(plan.env) + 1))(*plan.env, None))
    reason = posix.strerror(ctypes.get_errno()).encode()
    posix.write(2, b'nox: cannot execute %s: %s\n' % (plan.argv[0], reason))
    posix._exit(126)


def open_stdin():
    """As create_stdio of CPython's pylifecycle.c does; what stands there was made for /dev/null."""
    io = sys.modules['io']
    old = sys.stdin
    raw = io.open(0, 'rb', -1, closefd=False)
    raw.raw.name = '<stdin>'
    stream = io.TextIOWrapper(raw, old.encoding, old.errors, '\n', raw.raw.isatty(), False)
    stream.mode = 'r'
    sys.stdin = sys.__stdin__ = stream


gc_track, gc_untrack = ctypes.pythonapi.PyObject_GC_Track, ctypes.pythonapi.PyObject_GC_UnTrack
gc_track.argtypes = gc_untrack.argtypes = [c_pointer]
gc_track.restype = gc_untrack.restype = None


def main_module_for_gc(operation):
    """
    What is alive at gc.freeze() is never collected. That is right for all that is ours and wrong for the program's
    module, at whose end everything of the program is: it sits the freeze out.
    """
    for each in (sys.modules['__main__'], vars(sys.modules['__main__'])):
        if gc.is_tracked(each) == (operation is gc_untrack):
            operation(c_pointer(id(each)))


def rename_program(path):
    """
    Changes what the interpreter will open, and whose directory it will put first in sys.path: `run_filename` and
    `argv[0]` of its PyConfig (a public struct, whose layout changes between versions; so its words are searched for
    the two, reading by way of /proc/self/mem, which refuses a bad address instead of ending the process).
    """
    get_config = ctypes.pythonapi._PyInterpreterState_GetConfig
    get_config.restype = ctypes.c_void_p
    get_config.argtypes = [ctypes.c_void_p]
    get_interpreter = ctypes.pythonapi.PyInterpreterState_Get
    get_interpreter.restype = ctypes.c_void_p
    config = get_config(get_interpreter())
    old = bytes(ctypes.create_unicode_buffer(PROGRAM))
    memory = posix.open('/proc/self/mem', posix.O_RDONLY | posix.O_CLOEXEC)

    def read(address, size):
        try:
            return posix.pread(memory, size, address) if 4096 <= address < 1 << 63 else b''
        except (OSError, OverflowError):
            return b''

    def word(address):
        return int.from_bytes(read(address, 8), 'little')

    data = bytes(ctypes.create_unicode_buffer(path))
    malloc = ctypes.pythonapi.PyMem_RawMalloc
    malloc.restype, malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
    found = {}
    for address in range(config, config + 1024, 8):
        pointer = word(address)
        if read(pointer, len(old)) == old:
            found.setdefault('run_filename', []).append(address)
        elif word(address - 8) == 1 and read(word(pointer), len(old)) == old:
            found.setdefault('argv', []).append(pointer)
    posix.close(memory)
    places = found.get('run_filename', []), found.get('argv', [])
    if len(places[0]) != 1 or len(places[1]) != 1:
        return False
    for (address,) in places:
        new = malloc(len(data))
        ctypes.memmove(new, data, len(data))
        ctypes.c_void_p.from_address(address).value = new
    return True


def blank_environment(names):
    """Takes them out of the environment, and out of /proc/self/environ as well: NULs stay."""
    environ = os.environ
    getenv = function('getenv', c_bytes, result=c_pointer)
    for name in names:
        value = getenv(name.encode())
        size = len(ctypes.string_at(value))
        del environ[name]
        ctypes.memset(value - len(name) - 1, 0, len(name) + 1 + size)

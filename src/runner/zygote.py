"""The zygote: an interpreter that stopped just before it would have opened its program, and is copied for each run.

Theory of operation

    runner ─spawns─▶ bwrap ─▶ zygote (pid 1 of the workspace's sandbox)
                                 ├─clone─▶ init (pid 1 of a run's namespaces) ─fork─▶ the program (pid 2)
                                 └─clone─▶ init ─fork─▶ a spare: isolated already, waits for its plan

The runner starts `python3 WORKSPACE/run.py`, with this file in front of it as `sitecustomize`: the last thing that
the interpreter imports before it opens the program. Here the zygote stays, making spares when it is told to. In a
spare that has been given a program, `main` returns: the interpreter goes on, opens WORKSPACE/run.py and runs it by
its own code, with no frame of ours below it, and ends by its own code. So arguments, flags, tracebacks, exit codes,
threads and the order of the end are Python's, not an imitation. What was imported for us is out of sys.modules.

A command (a shell, a program, a new interpreter) is born the same way, and then executed instead.

Descriptor 3, of zygote and inits only, is a socket to the runner. In, after a length and the fields of `Settings`:
    spare LANE SERIAL old|new    make one; the runs of a lane come one after another and share a network namespace,
                                 the old one or a new one
    opened SERIAL          the runner has opened its ends of the spare's pipes, or will not
    kill SERIAL            end every process of it
Out:
    up                     the packages are loaded
    spare SERIAL PID PLAN STDOUT STDERR       pid and descriptors as they are in the zygote
    no_spare SERIAL REASON                    it could not be made
    begun SERIAL           from here on code of the client may run
    end SERIAL exit|signal NUMBER USER SYSTEM MAXRSS clean|dirty
                           no process of the run is alive but its init; a socket of it may be left where it is dirty
    no_place SERIAL        the file on which the code was to be mounted is gone, by another run's doing
    broken SERIAL REASON   a step of the isolation failed; no code of a client has run
    gone SERIAL            init is dead, and with it (pid_namespaces(7)) all that was in its namespaces
    failed REASON          the zygote itself cannot go on

Who trusts whom. The zygote runs no code of a client and imports nothing from a workspace. A run sees neither the
zygote nor another run: other pid, mount, ipc, uts and network namespaces. Of its own it sees init, which ignores its
signals (pid 1), is not dumpable (no ptrace, no /proc/1/fd), has no capability, and does nothing but wait. A spare has
its namespaces, mounts and descriptors before it has a plan; then it places the code, gives up its last capabilities,
takes on its limits and its filter, says `begun`, and only then becomes the program.

Every step either succeeds or ends the spare: there is no path past a failed one.
"""
import sys

CONTROL = 3
HERE = __file__[: __file__.rindex('/')]


def main():
    """Returns in a process that is to run Python code; True if the host has a sitecustomize of its own."""
    import posix
    import _weakref

    # The names of the kernel: sched.h, linux/mount.h, linux/prctl.h, linux/fcntl.h, asm/unistd.h.
    NEWNS, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET = 0x20000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
    MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND, MS_REC, MNT_DETACH = 2, 4, 8, 32, 4096, 16384, 2
    PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_CAPBSET_DROP = 4, 22, 24
    O_PATH, O_NOFOLLOW = 0o10000000, posix.O_NOFOLLOW
    SIGCHLD, SIGINT, SIGPIPE, SIGXFSZ, SIGKILL = 17, 2, 13, 25, 9
    NR = {
        'x86_64': {'clone': 56, 'capset': 126, 'openat2': 437},
        'aarch64': {'clone': 220, 'capset': 91, 'openat2': 437},
    }[posix.uname().machine]

    environ = sys.modules['os'].environ
    own_modules = hide_ourselves(environ)
    host_customizes = True
    try:
        import sitecustomize  # noqa: F401 — the host's, as if we were not there
    except ImportError:
        host_customizes = False
    import_usercustomize()
    base = {name: module for name, module in sys.modules.items() if name != '__main__'}
    importers = dict(sys.path_importer_cache)

    import ctypes
    import gc
    import select
    import _signal
    import _socket

    # Made here once: in a copy every new object costs a page.
    libc = ctypes.PyDLL(None, use_errno=True)
    c_int, c_long, c_bytes, c_pointer = ctypes.c_int, ctypes.c_long, ctypes.c_char_p, ctypes.c_void_p

    def function(name, *argument_types, result=c_int):
        found = libc[name]
        found.argtypes, found.restype = argument_types, result
        return found

    c_clone = function('syscall', *[c_long] * 6, result=c_long)
    c_openat2 = function('syscall', c_long, c_long, c_bytes, c_bytes, c_long, result=c_long)
    c_capset = function('syscall', c_long, c_bytes, c_bytes, result=c_long)
    c_prctl = function('prctl', c_int, c_long, c_long, c_long, c_long)
    c_mount = function('mount', c_bytes, c_bytes, c_bytes, c_long, c_bytes)
    c_umount = function('umount2', c_bytes, c_int)
    c_unshare = function('unshare', c_int)
    c_setns = function('setns', c_int, c_int)
    c_ioctl = function('ioctl', c_int, c_long, c_pointer)
    c_prlimit = function('prlimit', c_int, c_int, c_bytes, c_pointer)
    c_getrusage = function('getrusage', c_int, c_pointer)
    c_execvpe = function('execvpe', c_bytes, c_pointer, c_pointer)
    c_getenv = function('getenv', c_bytes, result=c_pointer)
    gc_track, gc_untrack = ctypes.pythonapi.PyObject_GC_Track, ctypes.pythonapi.PyObject_GC_UnTrack
    gc_track.argtypes = gc_untrack.argtypes = [c_pointer]
    gc_track.restype = gc_untrack.restype = None
    usage_buffer = (c_long * 18)()
    # struct open_how: RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS
    open_how = b''.join(n.to_bytes(8, sys.byteorder) for n in (O_PATH | O_NOFOLLOW | posix.O_CLOEXEC, 0, 0x08 | 0x04 | 0x02))
    # capset(2), version 3: effective, permitted, inheritable, 2 × 32 bits each; ambient follows.
    no_capabilities = (0x20080522).to_bytes(4, sys.byteorder) + bytes(4), bytes(24)
    LAST_CAPABILITY = int(read_file('/proc/sys/kernel/cap_last_cap'))

    def must(result, what):
        if result < 0:
            raise OSError(ctypes.get_errno(), '%s: %s' % (what, posix.strerror(ctypes.get_errno())))
        return result

    def mount(source, target, kind, flags, data=None):
        if c_mount(source, target, kind, flags, data) < 0:
            must(-1, 'mount on ' + target.decode())

    def prctl(operation, first=0, second=0):
        if c_prctl(operation, first, second, 0, 0) < 0:
            must(-1, 'prctl %d' % operation)

    def tell(text):
        posix.write(CONTROL, text.encode() + b'\n')

    def install_filter(program):
        # struct sock_fprog: a length in instructions of 8 bytes, and a pointer.
        code = ctypes.create_string_buffer(program, len(program))
        header = (ctypes.c_uint64 * 2)(len(program) // 8, ctypes.addressof(code))
        prctl(PR_SET_SECCOMP, 2, ctypes.addressof(header))

    def tmpfs_options(size):
        # An inode costs about 1 KiB of kernel memory and no byte of `size`.
        return b'mode=1777,size=%d,nr_inodes=%d' % (size, 1024 + size // 16384)

    # ---------------------------------------------------------------- the packages

    def preload(names):
        """Imports them, then takes all traces out of the interpreter: a run finds them where it imports them."""
        filters = sys.modules['_warnings'].filters
        before = list(filters), list(sys.meta_path), list(sys.path), dict(environ)
        for name in names:
            __import__(name)
        after = list(filters), list(sys.meta_path)
        filters[:], sys.meta_path[:], sys.path[:] = before[:3]
        for name in set(environ) - set(before[3]):
            del environ[name]
        environ.update(before[3])
        return [[item for item in new if item not in old] for new, old in zip(after, before)]

    def serve(stash, additions):
        """Makes `import` find the modules of `stash`, where it would have loaded the same file."""
        from importlib.machinery import PathFinder

        class Served:
            def __init__(self, module):
                self.module, self.spec = module, module.__spec__

            def create_module(self, spec):
                return self.module

            def exec_module(self, module):
                module.__spec__ = self.spec
                prefix = self.spec.name + '.'
                for name, each in stash.items():
                    if name.startswith(prefix):
                        sys.modules.setdefault(name, each)

        find_spec = PathFinder.find_spec
        from_spec = type(sys.__spec__)

        def find(cls, fullname, path=None, target=None):
            spec = find_spec(fullname, path, target)
            module = stash.get(fullname)
            if spec is None or module is None or spec.origin != getattr(module.__spec__, 'origin', None):
                return spec
            filters, finders = additions
            sys.modules['_warnings'].filters[:0] = filters
            sys.modules['_warnings']._filters_mutated()
            sys.meta_path.extend(finders)
            additions[:] = [], []
            served = from_spec(fullname, Served(module), origin=spec.origin)
            served.submodule_search_locations = spec.submodule_search_locations
            return served

        PathFinder.find_spec = classmethod(find)

    def reseed():
        """Everything that was seeded when a package was loaded. `random` does it itself, at the fork."""
        numpy = stash.get('numpy.random')
        if numpy is not None:
            numpy.seed()
        process = stash.get('multiprocessing.process')
        if process is not None:
            process.current_process().authkey = posix.urandom(32)
        threading = stash.get('threading')
        if threading is not None:
            threading.main_thread()._set_native_id()

    def shadowed(directory):
        """Whether the workspace has a module of a name that was loaded from elsewhere, or may have one."""
        if not stash:
            return False
        try:
            with posix.scandir(directory) as entries:
                for count, entry in enumerate(entries):
                    if count == SHADOW_ENTRIES or entry.name.split('.', 1)[0] in stash_roots:
                        return True
        except OSError:
            return True
        return False

    # ---------------------------------------------------------------- the end of a run

    def end_quickly():
        """
        At its end the interpreter takes every module apart, also those that no run has touched, which costs more than
        a small program. Two places in Py_FinalizeEx are heard of by objects that die there: what sys.__interactivehook__
        refers to is dropped first of all, after threads, atexit and a flush; sys.stdout last, when the program's own
        modules are gone. At the first, the modules from before the program go out of sys.modules, so that only its
        own are taken apart. At the second nothing is left that a program could notice: if it certainly ended without
        SystemExit and without exception, which is exit code 0, the process may end. In doubt the interpreter goes on.
        """
        main_module = sys.modules['__main__']
        quick, sentinels = [], []
        dunders, loader = set(vars(main_module)), id(main_module.__loader__)
        main_id, out_id, excepthook = id(main_module), id(sys.stdout), sys.excepthook
        # Of the program's own is only a number here, lest it live longer; and every name that the program could change
        # or take away is bound now.
        del main_module
        # The C library's exit: it flushes its own streams, as at any end.
        this, modules, exit_now, is_finalizing = sys, sys.modules, libc['exit'], sys.is_finalizing
        word_at = ctypes.c_uint64.from_address
        identity, size_of, names_in, as_list, has, each_of, objects, type_of = id, len, vars, list, hasattr, map, gc.get_objects, type

        def contents(module):
            names = names_in(module)
            # PyDictObject's ma_version_tag (PEP 509): one word that every change of the dict changes.
            return word_at(identity(names) + 24).value if tagged else as_list(each_of(identity, names.values()))

        probe = {'a': 1}
        tag = word_at(id(probe) + 24).value
        probe['a'] = 2
        tagged = word_at(id(probe) + 24).value != tag

        def ended_well():
            main_module, out = modules['__main__'], this.stdout
            names = names_in(main_module)
            # By now sys.last_type is None in any case, but it was put there after ps2, or by the exception.
            attributes = as_list(names_in(this))
            at = attributes.index('ps1')
            after = attributes[at + 1 : at + 3]
            return (
                identity(main_module) == main_id
                # The interpreter takes the two out after the program; not when that ended by SystemExit.
                and '__file__' not in names
                and '__cached__' not in names
                and dunders <= names.keys()
                # There was a program: its loader is not the one from before.
                and identity(names['__loader__']) != loader
                and (after == ['ps2', 'last_type'] or after == ['ps2', 'last_exc'])
                and this.excepthook is excepthook
                # What runs at exit could hide an exception.
                and 'atexit' not in modules
                and identity(out) == out_id
                and out is this.__stdout__
                and not out.closed
                # It is flushed already; where that failed it is code 120.
                and out.flush() is None
            )

        def first(_):
            if not is_finalizing():
                return
            try:
                if ended_well():
                    quick.append(True)
                # A module into which the program has put something is taken apart as ever.
                for name, module, before in ours:
                    if modules.get(name) is module and contents(module) == before:
                        del modules[name]
                for name, module, size in preloaded:
                    if modules.get(name) is module and size_of(names_in(module)) == size:
                        del modules[name]
            except:  # noqa: E722 — without a name that could be gone
                pass

        def second(_):
            # Something that waits for its end, a file for its last bytes: then the interpreter goes on.
            if quick and True not in [has(type_of(each), '__del__') for each in objects()]:
                for stream in (out(), err()):
                    if stream is not None:
                        stream.flush()
                exit_now(0)

        ours = [(name, module, contents(module)) for name, module in base.items() if name not in ('sys', 'builtins')]
        preloaded = [(name, module, len(vars(module))) for name, module in stash.items()]
        sentinels.append(_weakref.ref(sys.__interactivehook__, first))
        out, err = _weakref.ref(sys.stdout, second), _weakref.ref(sys.stderr)
        keep(sentinels)

        def watch_input():
            # A package may hold on to sys.stdout; sys.stdin goes just before it.
            if stash:
                sentinels.append(_weakref.ref(sys.stdin, second))

        return watch_input

    def main_module_for_gc(operation):
        """
        What is alive at gc.freeze() is never collected. That is right for all that is ours and wrong for the program's
        module, at whose end everything of the program is: it sits the freeze out.
        """
        for each in (sys.modules['__main__'], vars(sys.modules['__main__'])):
            if gc.is_tracked(each) == (operation is gc_untrack):
                operation(c_pointer(id(each)))

    def keep(*objects):
        for each in objects:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(each))

    # ---------------------------------------------------------------- another name than run.py

    def rename_program(path):
        """
        Changes what the interpreter will open, and whose directory it will put first in sys.path: `run_filename` and
        `argv[0]` of its PyConfig (a public struct, whose layout changes between versions; so its words are searched
        for the two, reading by way of /proc/self/mem, which refuses a bad address instead of ending the process).
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

    # ---------------------------------------------------------------- init and the program

    def enter_namespaces():
        """What clone has begun. The workspace keeps its place if that is below what is mounted here."""
        for path, text in ((b'setgroups', b'deny'), (b'uid_map', b'1000 1000 1'), (b'gid_map', b'1000 1000 1')):
            with_file = posix.open(b'/proc/self/' + path, posix.O_WRONLY)
            posix.write(with_file, text)
            posix.close(with_file)
        hidden = [(path, posix.open(path, O_PATH | posix.O_CLOEXEC)) for path in shown if path.startswith(HIDING)]
        mount(b'proc', b'/proc', b'proc', MS_NOSUID | MS_NODEV | MS_NOEXEC)
        mount(b'devpts', b'/dev/pts', b'devpts', MS_NOSUID | MS_NOEXEC, b'newinstance,ptmxmode=0666,mode=620')
        for where in (b'/tmp', b'/dev/shm'):
            mount(b'tmpfs', where, b'tmpfs', MS_NOSUID | MS_NODEV, tmpfs_options(tmp_bytes))
        for path, directory in hidden:
            make_directories(path)
            mount(b'/proc/self/fd/%d' % directory, path, None, MS_BIND | MS_REC)
            posix.close(directory)
        mount(b'tmpfs', b'/run', b'tmpfs', MS_NOSUID | MS_NODEV, tmpfs_options(CODE_ROOM))
        posix.chdir(workspace)
        for capability in range(LAST_CAPABILITY + 1):
            if c_prctl(PR_CAPBSET_DROP, capability, 0, 0, 0) < 0:
                must(-1, 'prctl PR_CAPBSET_DROP')

    def make_directories(path):
        names = path.split(b'/')
        for count in range(3, len(names) + 1):
            try:
                posix.mkdir(b'/'.join(names[:count]))
            except FileExistsError:
                pass

    def drop_capabilities():
        must(c_capset(NR['capset'], *no_capabilities), 'capset')

    def place_code(name, code):
        """Mounts the code over a file of the workspace; false where that is gone. No link is followed."""
        size = len(code) + CODE_ROOM
        if len(code) > CODE_ROOM // 2:
            mount(None, b'/run', None, MS_REMOUNT | MS_NOSUID | MS_NODEV, tmpfs_options(size))
        source = posix.open(b'/run/code', posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL, 0o644)
        rest = memoryview(code)
        while rest:
            rest = rest[posix.write(source, rest) :]
        posix.close(source)
        root = posix.open(workspace, O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
        target = c_openat2(NR['openat2'], root, name, open_how, len(open_how))
        posix.close(root)
        if target < 0:
            return False
        path = b'/proc/self/fd/%d' % target
        regular = posix.stat(path).st_mode & 0o170000 == 0o100000
        # Unlinked since it was opened: ENOENT.
        placed = regular and c_mount(b'/run/code', path, None, MS_BIND, None) == 0
        posix.close(target)
        # And it stands where the interpreter will look for it.
        return placed and posix.stat(b'/run/code')[1:3] == posix.stat(workspace + b'/' + name)[1:3]

    def placed(name, code):
        try:
            return place_code(name, code)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return False

    def read_exactly(descriptor, size):
        pieces = []
        while size > 0:
            piece = posix.read(descriptor, min(size, 1 << 20))
            if not piece:
                raise EOFError('the plan was cut short')
            pieces.append(piece)
            size -= len(piece)
        return b''.join(pieces)

    def take_fields(descriptor):
        """A 32-bit length, then fields, each with a 32-bit length before it."""
        data = read_exactly(descriptor, int.from_bytes(read_exactly(descriptor, 4), 'big'))
        fields, at = [], 0
        while at < len(data):
            size = int.from_bytes(data[at : at + 4], 'big')
            fields.append(data[at + 4 : at + 4 + size])
            at += 4 + size
        return fields

    def usage_times(who):
        c_getrusage(who, ctypes.addressof(usage_buffer))
        user, user_rest, system, system_rest, max_rss = usage_buffer[:5]
        return user * 1000000 + user_rest, system * 1000000 + system_rest, max_rss

    def be_init(serial, plan_in, stdout, stderr):
        """
        Process 1 of the run: starts the program's process, waits, reports. Everything else is done there, because each
        page that is written to is copied, and here it would be copied twice. Returns in the program only.
        """
        try:
            prctl(PR_SET_DUMPABLE, 0)
            used_in, used_out = posix.pipe()
            program = posix.fork()
            if program == 0:
                return be_program(serial, plan_in, used_out, stdout, stderr)
            drop_capabilities()
            close_all_but(CONTROL, used_in)
            while True:
                pid, each = posix.wait()
                if pid == program:
                    break
            try:
                posix.kill(-1, SIGKILL)
                while True:
                    posix.wait()
            except OSError:
                pass  # ESRCH: nobody else; ECHILD: all reaped, and with them all their times
            posix.set_blocking(used_in, False)
            # What went by before there was a program; if it did not come to that, it has said why.
            before = posix.read(used_in, 100).split()
            if not before:
                posix._exit(0)
            user, system, max_rss = usage_times(-1)
            code, signal = each >> 8, each & 127
            how = 'signal %d' % signal if signal else 'exit %d' % code
            times = max(0, user - int(before[0])), max(0, system - int(before[1])), max_rss
            # A socket in a message that nobody took is collected when the kernel finds the time.
            state = 'clean' if b'sockets: used 0\n' in read_file('/proc/net/sockstat') else 'dirty'
            tell('end %s %s %d %d %d %s' % (serial, how, *times, state))
            posix._exit(0)
        except BaseException as error:
            tell('broken %s %s' % (serial, repr(error).replace('\n', ' ')))
            posix._exit(1)

    def be_program(serial, plan_in, used_out, stdout, stderr):
        """Process 2: isolates itself, waits for its plan, gives up what it needed for that, and becomes the program."""
        try:
            prctl(PR_SET_DUMPABLE, 1)  # a program may look at itself
            posix.setsid()
            close_all_but(CONTROL, plan_in, used_out, stdout, stderr)
            enter_namespaces()
            posix.dup2(stdout, 1)
            posix.dup2(stderr, 2)
            null = posix.open('/dev/null', posix.O_RDONLY)
            posix.dup2(null, 0)
            reseed()
            touch()
            kind, script, code, tmp, limits, strict, stdin, env, argv = take_fields(plan_in)
            if int(tmp) != tmp_bytes:
                for where in (b'/tmp', b'/dev/shm'):
                    mount(None, where, None, MS_REMOUNT | MS_NOSUID | MS_NODEV, tmpfs_options(int(tmp)))
            if script and not placed(script, code):
                tell('no_place ' + serial)
                posix._exit(0)
            must(c_umount(b'/run', MNT_DETACH), 'umount')
            drop_capabilities()
            argv = argv.split(b'\0')
            for limit in limits.decode().split(','):
                resource, soft, hard = limit.split(':')
                pair = int(soft).to_bytes(8, sys.byteorder) + int(hard).to_bytes(8, sys.byteorder)
                must(c_prlimit(0, int(resource), pair, None), 'prlimit ' + limit)
            install_filter(filters[strict])
            if stdin == b'pipe':
                posix.dup2(plan_in, 0)
            tell('begun ' + serial)
            posix.write(used_out, b'%d %d' % usage_times(0)[:2])
        except BaseException as error:
            tell('broken %s %s' % (serial, repr(error).replace('\n', ' ')))
            posix._exit(1)
        close_all_but()
        try:
            if kind == b'python' and become_python(argv, stdin):
                return True
        except BaseException as error:
            posix.write(2, b'nox: the interpreter could not be continued: %s\n' % repr(error).encode())
            posix._exit(125)
        become_command(argv, env)

    def touch():
        """
        Does ahead what the interpreter will do with the program. A page that is shared with the zygote costs microseconds
        when it is first written to; now nobody waits for it.
        """
        for hook in sys.path_hooks:
            try:
                hook(PROGRAM)
            except ImportError:
                pass
        exec(compile(TOUCHING, PROGRAM, 'exec'), {'__name__': 'touch'})

    def close_all_but(*kept):
        last = 2
        for each in sorted(kept):
            posix.closerange(last + 1, each)
            last = each
        posix.closerange(last + 1, 1 << 20)

    def become_python(argv, stdin):
        argv = [sys.modules['os'].fsdecode(each) for each in argv]
        program = argv[1]
        # As CPython finds sys.path[0].
        real = sys.modules['os'].path.realpath(program) if stash else program
        if shadowed(real[: real.rindex('/')]):
            return False
        if program != PROGRAM and not rename_program(program):
            return False
        sys.argv[:] = argv[1:]
        sys.orig_argv[:] = argv
        if stdin == b'pipe':
            open_stdin()
        _signal.signal(SIGINT, _signal.default_int_handler)
        watch_input()
        ctypes.set_errno(0)
        main_module_for_gc(gc_track)
        return True

    def open_stdin():
        """As create_stdio of CPython's pylifecycle.c does; what stands there was made for /dev/null."""
        io = sys.modules['io']
        old = sys.stdin
        raw = io.open(0, 'rb', -1, closefd=False)
        raw.raw.name = '<stdin>'
        stream = io.TextIOWrapper(raw, old.encoding, old.errors, '\n', raw.raw.isatty(), False)
        stream.mode = 'r'
        sys.stdin = sys.__stdin__ = stream

    def become_command(argv, env):
        for signal in (SIGPIPE, SIGXFSZ, SIGINT):
            _signal.signal(signal, _signal.SIG_DFL)
        arguments = (c_bytes * (len(argv) + 1))(*argv, None)
        variables = env.split(b'\0')
        c_execvpe(argv[0], arguments, (c_bytes * (len(variables) + 1))(*variables, None))
        error = ctypes.get_errno()
        if error == ENOENT:
            posix.write(2, b'nox: command not found: %s\n' % argv[0])
        else:
            posix.write(2, b'nox: cannot execute %s: %s\n' % (argv[0], posix.strerror(error).encode()))
        posix._exit(127 if error == ENOENT else 126)  # as sh(1) does

    # ---------------------------------------------------------------- the zygote

    TOUCHING = 'import sys\ndef f(*a, **k):\n    try:\n        return [str(x) for x in a]\n    except Exception as e:\n        raise\nf(1, 2.5, b"")\nclass C:\n    x = f"{1}"\n'
    CODE_ROOM = 131072
    SHADOW_ENTRIES = 1000
    HIDING = (b'/tmp/', b'/dev/shm/')
    PROGRAM = sys.orig_argv[1]
    ENOENT = 2
    stash, stash_roots = {}, set()
    lanes = {}  # lane → descriptor of its network namespace
    children = {}  # descriptor of a pidfd → (serial, pid)
    handed = {}  # serial → descriptors of which the runner has not yet opened its own

    def network_of(lane, wanted):
        """
        One network namespace for all runs of a lane: two runs at the same time never share one, and making one for
        each run would cost more than the rest. A connection that lingers would be seen by the next run: there is none.
        """
        if wanted == 'new' and lane in lanes:
            posix.close(lanes.pop(lane))
        if lane not in lanes:
            must(c_unshare(NEWNET), 'unshare of the network')
            bring_loopback_up()
            lanes[lane] = posix.open('/proc/self/ns/net', posix.O_RDONLY | posix.O_CLOEXEC)
        else:
            must(c_setns(lanes[lane], NEWNET), 'setns of the network')

    def bring_loopback_up():
        # netdevice(7): struct ifreq, SIOCSIFFLAGS = 0x8914, IFF_UP | IFF_RUNNING.
        request = ctypes.create_string_buffer(b'lo'.ljust(16, b'\0') + (0x41).to_bytes(2, 'little'), 40)
        interface = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
        must(c_ioctl(interface.fileno(), 0x8914, request), 'ioctl SIOCSIFFLAGS')
        interface.close()
        with_file = posix.open('/proc/sys/net/ipv4/tcp_max_tw_buckets', posix.O_WRONLY)
        posix.write(with_file, b'0')
        posix.close(with_file)

    def make_spare(lane, serial, network):
        """Returns in the program only."""
        pipes = []
        try:
            network_of(lane, network)
            for _ in range(3):
                pipes += posix.pipe()
            plan_in, plan_out, stdout_in, stdout, stderr_in, stderr = pipes
            flags = NEWUSER | NEWPID | NEWNS | NEWIPC | NEWUTS | SIGCHLD
            # A raw clone: no thread is alive here that the C library would have to be told of, and init needs none.
            pid = must(c_clone(NR['clone'], flags, 0, 0, 0, 0), 'clone')
        except OSError as error:
            # The machine is short of something; the runs that are alive need not suffer for it.
            for each in pipes:
                posix.close(each)
            tell('no_spare %s %s' % (serial, error))
            return False
        if pid == 0:
            is_zygote.clear()
            return be_init(serial, plan_in, stdout, stderr)
        posix.close(stdout)
        posix.close(stderr)
        handed[serial] = plan_in, plan_out, stdout_in, stderr_in
        pidfd = sys.modules['os'].pidfd_open(pid)
        children[pidfd] = serial, pid
        poll.register(pidfd, select.POLLIN)
        tell('spare %s %d %d %d %d' % (serial, pid, plan_out, stdout_in, stderr_in))
        return False

    def reap(pidfd):
        serial, pid = children.pop(pidfd)
        poll.unregister(pidfd)
        posix.close(pidfd)
        posix.waitpid(pid, 0)
        tell('gone ' + serial)

    def serve_runner():
        """Returns in the program only."""
        rest = b''
        while True:
            for descriptor, _ in poll.poll():
                if descriptor in children:
                    reap(descriptor)
                    continue
                data = posix.read(CONTROL, 65536)
                if not data:
                    posix._exit(0)
                *lines, rest = (rest + data).split(b'\n')
                for line in lines:
                    command, *words = line.decode().split(' ')
                    if command == 'spare':
                        if make_spare(*words):
                            return
                    elif command == 'opened':
                        for each in handed.pop(words[0], ()):
                            posix.close(each)
                    elif command == 'kill':
                        for serial, pid in children.values():
                            if serial == words[0]:
                                posix.kill(pid, SIGKILL)

    def leave_threads_behind():
        """
        A package may have started threads (numpy does, for its linear algebra). The C library's fork tells packages of
        it, the raw clone of make_spare would not: so the zygote goes on in a fork, and process 1 waits for its end.
        """
        if posix.fork() != 0:
            posix.close(CONTROL)
            posix.wait()
            posix._exit(1)

    is_zygote = {True}
    try:
        # KeyboardInterrupt is for programs: with a handler, pid 1 could be interrupted from inside its namespace.
        _signal.signal(SIGINT, _signal.SIG_DFL)
        posix.umask(0o022)
        workspace, shown, tmp, open_filter, strict_filter, packages = take_fields(CONTROL)
        filters = {b'open': open_filter, b'strict': strict_filter}
        shown = [workspace] + [path for path in shown.split(b'\0') if path]
        tmp_bytes = int(tmp)
        blank_environment(ctypes, c_getenv, own_modules)
        additions = preload(packages.decode().split())
        sys.path_importer_cache.clear()
        sys.path_importer_cache.update(importers)
        for name in [name for name in sys.modules if name not in base and name != '__main__']:
            stash[name] = sys.modules.pop(name)
        keep(dict(stash), libc)
        if packages:
            stash_roots.update(name.split('.')[0] for name in stash)
            serve(stash, additions)
        else:
            stash = {}
        keep(base)
        watch_input = end_quickly()
        if len(posix.listdir('/proc/self/task')) > 1:
            leave_threads_behind()
        poll = select.poll()
        poll.register(CONTROL, select.POLLIN)
        main_module_for_gc(gc_untrack)
        gc.collect()
        gc.freeze()
        tell('up %d' % posix.getpid())
        serve_runner()
    except BaseException as error:
        if is_zygote:
            tell('failed ' + repr(error).replace('\n', ' '))
        posix._exit(1)
    return host_customizes


def read_file(path):
    with sys.modules['io'].open(path, 'rb') as file:
        return file.read()


def hide_ourselves(environ):
    """Nothing in the interpreter is to show that this file was imported."""
    sys.path.remove(HERE)
    sys.path_importer_cache.pop(HERE, None)
    del sys.modules['sitecustomize']
    removed = [name for name in ('PYTHONPATH', 'PWD') if name in environ]
    return removed


def import_usercustomize():
    """What site would do after us, and then only once: looking for a module that is not there takes its time."""
    site = sys.modules['site']
    original = site.execusercustomize
    if site.ENABLE_USER_SITE:
        original()

    def done():
        site.execusercustomize = original

    site.execusercustomize = done


def blank_environment(ctypes, getenv, names):
    """Takes them out of the environment, and out of /proc/self/environ as well: NULs stay."""
    environ = sys.modules['os'].environ
    for name in names:
        value = getenv(name.encode())
        size = len(ctypes.string_at(value))
        del environ[name]
        ctypes.memset(value - len(name) - 1, 0, len(name) + 1 + size)


if not main():
    raise ImportError(name='sitecustomize')

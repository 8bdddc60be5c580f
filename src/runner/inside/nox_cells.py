"""Cells: their namespaces, who is in them, and what becomes of them. The zygote's side of the runner's socket."""
import ctypes
import posix
import select

import _signal
import _socket
import nox_calls
import nox_memory
from nox_calls import (
    ALL, AT_FDCWD, CLONE_PIDFD, CLONE_VM, MAY_FAIL, AGAIN, MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REC,
    MS_REMOUNT, NEWIPC, NEWNET, NEWNS, NEWPID, NEWUSER, NEWUTS, O_PATH, SIGCHLD, SIGINT, SIGKILL, WALL, WNOHANG, Copy, Hole, List,
    must,
)
from nox_program import CODE, Filter, Plan, candidates, cut_fields, take_fields, tmpfs_options

# Places that a run has of its own: what of the workspace lies below one is mounted there again.
HIDING = (b'/tmp/', b'/dev/shm/')
# Descriptors below this are the zygote's for ever, so that those of a cell can be moved there in a copy.
FIRST_FREE = 10
STACK = 512
# struct rusage: user and system time in seconds and microseconds, then the most resident memory in KiB.
Rusage = ctypes.c_long * 18
USAGE, MAXRSS = ctypes.sizeof(Rusage), 4
# Each has a place where its program notes what was used before it began.
CELLS_MAX = 4096
RUSAGE_CHILDREN = -1
ENOEXEC, EACCES = 8, 13


class Settings:
    """What the runner says first; see zygote.ts."""

    def __init__(self, descriptor):
        fields = take_fields(descriptor)
        workspace, scratch, shown, tmp, limits, cgroups, base_filter, copy_filter, command_filter, packages = fields
        self.workspace = workspace
        # Each run has an empty workspace of its own, which vanishes with it.
        self.scratch = scratch == b'scratch'
        self.shown = [workspace] + [path for path in shown.split(b'\0') if path]
        self.tmp = int(tmp)
        # Of a run that asks for no less.
        self.limits = limits
        self.cgroups = cgroups
        self.base_filter, self.copy_filter, self.command_filter = base_filter, copy_filter, command_filter
        self.packages = packages.decode()


def leave_threads_behind(control):
    """
    A package may have started threads (numpy does, for its linear algebra). A fork has none, and the C library's tells
    packages of it: so the zygote goes on in one, and process 1 waits for its end.
    """
    if posix.fork() != 0:
        posix.close(control)
        posix.wait()
        posix._exit(1)


def isolation_calls(settings):
    """What init does: from a process in new namespaces to a cell in which a program can be started, and its own life."""
    calls = List()
    calls.add('dup3', Hole('event'), 3, 0)
    calls.add('close_range', 4, ALL, 0)
    identity = b'1000 %d 1' % posix.getuid()
    group = b'1000 %d 1' % posix.getgid()
    for path, text in ((b'setgroups', b'deny'), (b'uid_map', identity), (b'gid_map', group)):
        calls.write_file(b'/proc/self/' + path, text, descriptor=4)
    hidden = [path for path in settings.shown if path.startswith(HIDING)]
    for path in hidden:
        calls.add('openat', AT_FDCWD, path, O_PATH)
    places = [(path, b'/proc/self/fd/%d' % descriptor) for descriptor, path in enumerate(hidden, 4)]
    if settings.scratch:
        places = [each for each in places if each[0] != settings.workspace] + [(settings.workspace, b'/run/workspace')]
    calls.add('mount', b'proc', b'/proc', b'proc', MS_NOSUID | MS_NODEV | MS_NOEXEC, 0)
    # Some files of a process can be written without leave to trace it.
    calls.add('mount', b'/proc/1', b'/proc/1', 0, MS_BIND, 0)
    calls.add('mount', 0, b'/proc/1', 0, MS_BIND | MS_REMOUNT | MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC, 0)
    devpts = b'newinstance,ptmxmode=0666,mode=620'
    calls.add('mount', b'devpts', b'/dev/pts', b'devpts', MS_NOSUID | MS_NOEXEC, devpts)
    # One file system for all that is to vanish: each costs to be made and unmade.
    calls.add('umask', 0)
    calls.add('mount', b'tmpfs', b'/run', b'tmpfs', MS_NOSUID | MS_NODEV, tmpfs_options(settings.tmp))
    for source, target in ((b'/run/tmp', b'/tmp'), (b'/run/shm', b'/dev/shm')):
        calls.add('mkdirat', AT_FDCWD, source, 0o1777)
        calls.add('mount', source, target, 0, MS_BIND, 0)
    calls.add('umask', 0o022)
    if settings.scratch:
        calls.add('mkdirat', AT_FDCWD, b'/run/workspace', 0o755)
    for path, source in places:
        names = path.split(b'/')
        for count in range(3, len(names) + 1):
            parent = b'/'.join(names[:count])
            if path.startswith(HIDING) and parent + b'/' not in HIDING:
                calls.add('mkdirat', AT_FDCWD, parent, 0o755, flags=MAY_FAIL)
        calls.add('mount', source, path, 0, MS_BIND | MS_REC, 0)
    calls.add('openat', AT_FDCWD, CODE, posix.O_WRONLY | posix.O_CREAT | posix.O_EXCL, 0o644)
    # The cell is finished (eventfd(2)): its program may go on.
    calls.add('write', 3, (1).to_bytes(8, 'little'), 8)
    calls.add('close_range', 0, ALL, 0)
    # SIGCHLD is blocked, so that none is missed between the two.
    calls.mark('reap')
    calls.add('wait4', -1, 0, WALL | WNOHANG, 0, flags=MAY_FAIL | AGAIN)
    calls.add('rt_sigtimedwait', (1 << SIGCHLD - 1).to_bytes(8, 'little'), 0, 0, 8, flags=MAY_FAIL)
    calls.go_to(Hole('next'))
    # Where the program has left something behind: its end, and its times, which are told when it has been waited for.
    calls.mark('finish')
    calls.add('kill', -1, SIGKILL, flags=MAY_FAIL)
    calls.add('wait4', -1, 0, WALL, 0, flags=MAY_FAIL | AGAIN)
    calls.add('getrusage', RUSAGE_CHILDREN, Hole('orphans'))
    return calls


def times_of(usage):
    """User and system time in microseconds."""
    return [usage[0] * 1000000 + usage[1], usage[2] * 1000000 + usage[3]]


class Cell:
    def __init__(self, serial, lane):
        self.serial, self.lane = serial, lane
        self.init = self.program = 0
        # Descriptors: pidfds, the event, the mount namespace; of the pipes, the program's ends and the runner's.
        self.init_fd = self.program_fd = self.event = self.mounts = None
        self.pipes, self.ours = {}, []
        self.plan = self.status = self.isolation = self.joining = self.files = self.execution = None
        self.times, self.memory = [0, 0], 0
        self.reported = self.killed = False
        self.orphans = Rusage()
        self.kept = []

    def failure(self):
        """Of the calls that were made for it; a program that is a copy tells its own."""
        for calls in (self.isolation, self.joining, self.files):
            if calls is not None and calls.failure() is not None:
                return calls.failure()
        return None

    def execution_errors(self):
        """The error of each attempt to execute the command, if all have failed."""
        errors = [] if self.execution is None else self.execution.errors()
        return errors if all(errors) else []

    def close_pipes(self):
        for each in self.pipes.values():
            posix.close(each)
        self.pipes = {}

    def close(self):
        self.close_pipes()
        for each in (self.init_fd, self.program_fd, self.event, self.mounts, *self.ours):
            if each is not None:
                posix.close(each)


class Zygote:
    def __init__(self, control, settings, program):
        self.is_zygote = True
        self.control, self.settings, self.program = control, settings, program
        # KeyboardInterrupt is for programs: with a handler, process 1 could be interrupted from inside its namespace.
        _signal.signal(SIGINT, _signal.SIG_DFL)
        # One for a program that is not begun yet waits until it is (nox_program.py).
        _signal.pthread_sigmask(_signal.SIG_BLOCK, _signal.valid_signals())
        # The usual one, or the server's if that lets the group write: what runs make is then for both of its users.
        posix.umask(posix.umask(0o022) & 0o022)
        self.null = posix.open('/dev/null', posix.O_RDONLY | posix.O_CLOEXEC)
        while self.null < FIRST_FREE:
            self.null = posix.dup(self.null)
        self.home = posix.open('/proc/self/ns/pid', posix.O_RDONLY | posix.O_CLOEXEC)
        self.cgroups = self.null
        if settings.cgroups:
            self.cgroups = posix.open(settings.cgroups, O_PATH | posix.O_DIRECTORY | posix.O_CLOEXEC)
        self.loop_address, self.loop = nox_calls.load()
        self.isolation = isolation_calls(settings)
        self.usage_size = USAGE * CELLS_MAX
        self.usage = nox_calls.map_memory(self.usage_size, shared=True)
        self.usage_free = list(range(CELLS_MAX))
        self.waited = Rusage()
        self.lanes = {}  # lane → descriptors of its network namespace and of that namespace's count of sockets
        self.lane = None
        self.cells = {}
        self.watched = {}  # pidfd → cell
        self.rest = b''
        self.poll = select.poll()
        self.poll.register(control, select.POLLIN)
        self.memory = nox_memory.Memory()
        Filter(settings.base_filter).install()

    def write_file(self, path, text):
        descriptor = posix.open(path, posix.O_WRONLY)
        posix.write(descriptor, text)
        posix.close(descriptor)

    def tell(self, *words):
        posix.write(self.control, ' '.join(map(str, words)).encode() + b'\n')

    # ---------------------------------------------------------------- what the runner says

    def serve(self):
        """Returns in a copy that is to run Python code."""
        self.tell('up', posix.getpid())
        while True:
            ready = [descriptor for descriptor, _ in self.poll.poll()]
            self.reap_all(ready)
            # Last: by what it brings about, the number of a descriptor may stand for another one.
            if self.control in ready and self.hear():
                return

    def reap_all(self, ready):
        for descriptor in ready:
            if descriptor in self.watched:
                self.reap(descriptor)

    def hear(self):
        data = posix.read(self.control, 1 << 16)
        if not data:
            posix._exit(0)
        self.rest += data
        while True:
            line, newline, rest = self.rest.partition(b'\n')
            if not newline:
                return False
            word, *words = line.decode().split(' ')
            behind = int(words[1]) if word == 'command' else 0
            if len(rest) < behind:
                return False
            self.rest = rest[behind:]
            if self.obey(word, words, rest[:behind]):
                return True

    def obey(self, word, words, data):
        if word == 'cell':
            return self.make_cell(*words)
        if word == 'pin':
            return self.rehearse()
        if word == 'ping':
            self.tell('pong')
            return False
        cell = self.cells.get(words[0])
        if cell is None:
            return False
        if word == 'opened':
            for each in cell.ours:
                posix.close(each)
            cell.ours = []
        elif word == 'program':
            return self.fork_program(cell)
        elif word == 'command':
            self.start_command(cell, Plan(cut_fields(data)))
        elif word == 'kill':
            self.kill(cell)
        elif word == 'signal' and cell.program_fd in self.watched:
            posix.kill(cell.program, int(words[1]))
        return False

    # ---------------------------------------------------------------- births

    def network_of(self, lane, wanted):
        """
        One network namespace for all runs of a lane: two runs at the same time never share one, and making one for
        each run would cost more than the rest. A connection that lingers would be seen by the next run: there is none.
        """
        if wanted == 'new' and lane in self.lanes:
            for each in self.lanes.pop(lane):
                posix.close(each)
            self.lane = None
        if lane == self.lane:
            return
        self.lane = None
        if lane in self.lanes:
            must(nox_calls.setns(self.lanes[lane][0], NEWNET), 'setns of the network')
        else:
            must(nox_calls.unshare(NEWNET), 'unshare of the network')
            # netdevice(7): struct ifreq, SIOCSIFFLAGS = 0x8914, IFF_UP | IFF_RUNNING.
            request = ctypes.create_string_buffer(b'lo'.ljust(16, b'\0') + (0x41).to_bytes(2, 'little'), 40)
            interface = _socket.socket(_socket.AF_INET, _socket.SOCK_DGRAM)
            must(nox_calls.ioctl(interface.fileno(), 0x8914, request), 'ioctl SIOCSIFFLAGS')
            interface.close()
            self.write_file('/proc/sys/net/ipv4/tcp_max_tw_buckets', b'0')
            paths = '/proc/self/ns/net', '/proc/self/net/sockstat'
            self.lanes[lane] = [posix.open(path, posix.O_RDONLY | posix.O_CLOEXEC) for path in paths]
        self.lane = lane

    def make_cell(self, lane, serial, network, kind):
        cell = Cell(serial, lane)
        try:
            self.network_of(lane, network)
            if not self.usage_free:
                raise OSError('more than %d cells' % CELLS_MAX)
            plan_in, plan_out = posix.pipe()
            cell.pipes['stdin'], cell.ours = plan_in, [plan_out]
            for name in ('stdout', 'stderr'):
                reader, cell.pipes[name] = posix.pipe()
                cell.ours.append(reader)
            cell.event = must(nox_calls.eventfd(0, 0), 'eventfd')
            cell.isolation = Copy(self.isolation, event=cell.event, orphans=ctypes.addressof(cell.orphans))
            cell.isolation.fill(next=cell.isolation.at('reap'))
            flags = CLONE_VM | CLONE_PIDFD | NEWUSER | NEWPID | NEWNS | NEWIPC | NEWUTS | SIGCHLD
            cell.init, cell.init_fd = self.clone(flags, cell.isolation.address, cell)
        except OSError as error:
            # The machine is short of something; the runs that are alive need not suffer for it.
            cell.close()
            self.tell('no_cell', serial, error)
            return False
        cell.slot = self.usage_free.pop()
        self.cells[serial] = cell
        self.watch(cell, cell.init_fd)
        try:
            # Held until the end has been told, lest taking down the mounts delays it.
            cell.mounts = posix.open('/proc/%d/ns/mnt' % cell.init, posix.O_RDONLY | posix.O_CLOEXEC)
        except OSError:
            pass  # init is dead, which will be heard of
        self.tell('cell', serial, cell.init, *cell.ours)
        return kind == 'python' and self.fork_program(cell)

    def clone(self, flags, calls, cell):
        """A process that shares our memory and makes calls. Its stack is the cell's, lest it is freed."""
        stack = ctypes.create_string_buffer(STACK)
        top = ctypes.addressof(stack) + STACK - 16 & ~15
        pidfd = ctypes.c_int(-1)
        pid = nox_calls.clone(self.loop_address, top, flags, calls, ctypes.addressof(pidfd), None, None)
        must(pid, 'clone')
        cell.kept.append(stack)
        return pid, pidfd.value

    def watch(self, cell, pidfd):
        self.watched[pidfd] = cell
        self.poll.register(pidfd, select.POLLIN)

    def forget(self, pidfd):
        self.poll.unregister(pidfd)
        return self.watched.pop(pidfd)

    def usage_of(self, cell):
        return self.usage + cell.slot * USAGE

    def fork_program(self, cell):
        """Returns true in a copy that is to run Python code."""
        stdin, stdout, stderr = (cell.pipes[name] for name in ('stdin', 'stdout', 'stderr'))
        descriptors = dict(init=cell.init_fd, stdin=stdin, stdout=stdout, stderr=stderr, event=cell.event)
        self.program.joining.fill(cgroups=self.cgroups, **descriptors)
        try:
            must(nox_calls.setns(cell.init_fd, NEWPID), 'setns of the pid namespace')
            pid = posix.fork()
        except OSError as error:
            self.fail(cell, error)
            return False
        if pid == 0:
            self.is_zygote = False

            def tell(word, *more):
                self.tell(word, cell.serial, *more)

            self.program.become(self.loop, tell, self.usage_of(cell), (self.usage, self.usage_size))
            return True
        must(nox_calls.setns(self.home, NEWPID), 'setns of the own pid namespace')
        cell.program = pid
        cell.program_fd = posix.pidfd_open(pid)
        self.watch(cell, cell.program_fd)
        cell.close_pipes()
        return False

    def start_command(self, cell, plan):
        stdin = cell.pipes['stdin'] if plan.stdin == b'pipe' else self.null
        descriptors = dict(init=cell.init_fd, event=cell.event, cgroups=self.cgroups, stdin=stdin)
        descriptors.update((name, cell.pipes[name]) for name in ('stdout', 'stderr'))
        first, files, second, kept = self.program.command(plan, self.usage_of(cell), **descriptors)
        try:
            must(nox_calls.setns(cell.init_fd, NEWPID), 'setns of the pid namespace')
            cell.program, cell.program_fd = self.clone(CLONE_VM | CLONE_PIDFD | SIGCHLD, first.address, cell)
        except OSError as error:
            self.fail(cell, error)
            return
        finally:
            must(nox_calls.setns(self.home, NEWPID), 'setns of the own pid namespace')
        self.watch(cell, cell.program_fd)
        cell.plan, cell.joining, cell.files, cell.execution = plan, first, files, second
        cell.kept.append(kept)

    def rehearse(self):
        """
        A run that nobody has asked for, number 0, to learn which pages are written: by it, and by us while it waits, so
        we do for another cell all that is done for any. Returns true in a copy that is to run Python code.
        """
        if self.memory.ring < 0 or self.lane is None:
            return False
        for serial in ('0', '00'):
            if self.make_cell(self.lane, serial, 'old', 'python'):
                return True
        if '0' in self.cells and '00' in self.cells:
            self.kill(self.cells['00'])
            self.wait_for('00')
            plan_out, stdout, _ = self.cells['0'].ours
            plan = self.program.rehearsal()
            posix.write(plan_out, len(plan).to_bytes(4, 'big') + plan)
            self.cells['0'].ours.remove(stdout)
            self.wait_for('0')
            _, found, data = posix.read(stdout, 1 << 16).partition(nox_memory.MARK)
            posix.close(stdout)
            if found:
                self.memory.pin(int.from_bytes(data[at : at + 8], 'little') for at in range(0, len(data), 8))
        for serial in ('0', '00'):
            if serial in self.cells:
                self.kill(self.cells[serial])
        return False

    def wait_for(self, serial):
        while serial in self.cells:
            self.reap_all([descriptor for descriptor, _ in self.poll.poll()])

    # ---------------------------------------------------------------- deaths

    def fail(self, cell, reason):
        self.tell('broken', cell.serial, str(reason).replace('\n', ' '))
        self.kill(cell)

    def kill(self, cell):
        cell.killed = True
        if cell.init_fd in self.watched:
            posix.kill(cell.init, SIGKILL)

    def reap(self, pidfd):
        cell = self.watched.pop(pidfd)
        self.poll.unregister(pidfd)
        if pidfd == cell.program_fd:
            cell.status = self.wait(cell.program)
            cell.times, cell.memory = times_of(self.waited), self.waited[MAXRSS]
            if self.is_script(cell):
                return
            # SIGKILL may have come with the end of init, which its own status tells.
            if cell.status != SIGKILL and self.is_alone(cell):
                # To wait for the end of init would take longer.
                self.report(cell)
                self.kill(cell)
            else:
                cell.isolation.fill(next=cell.isolation.at('finish'))
                posix.kill(cell.init, SIGCHLD)
        else:
            # Without a program: one could not outlive it, and its pid is not free before it has been waited for.
            status = self.wait(cell.init)
            if not cell.reported:
                if status != 0 and not cell.killed:
                    self.tell('broken', cell.serial, 'process 1 of the run was killed')
                cell.times = [sum(pair) for pair in zip(cell.times, times_of(cell.orphans))]
                self.report(cell)
            self.bury(cell)

    def wait(self, pid):
        """The status of a process that has ended. Not by os.wait4, which loads a module where programs would see it."""
        status = ctypes.c_int()
        must(nox_calls.wait4(pid, ctypes.addressof(status), 0, ctypes.addressof(self.waited)), 'wait4')
        return status.value

    def is_alone(self, cell):
        """
        Whether nothing of the cell is alive but init, and never was but for the program and those it has waited for: an
        orphan is init's child, and one that init has waited for has had a page fault (proc_pid_stat(5): cminflt).
        """
        try:
            path = '/proc/%d/task/%d/' % (cell.init, cell.init)
            with open(path + 'children', 'rb', buffering=0) as children, open(path + 'stat', 'rb', buffering=0) as stat:
                return not children.read(64) and stat.read(512).rpartition(b')')[2].split()[8] == b'0'
        except OSError:
            return False

    def is_script(self, cell):
        """What the kernel does not know how to execute is one for the shell, to execvp(3)."""
        errors = cell.execution_errors()
        if ENOEXEC not in errors:
            return False
        path = candidates(cell.plan)[errors.index(ENOEXEC)]
        cell.plan.argv = [b'/bin/sh', path, *cell.plan.argv[1:]]
        posix.close(cell.program_fd)
        self.start_command(cell, cell.plan)
        return True

    def report(self, cell):
        """Nothing of it is alive that could have been made by the program."""
        cell.reported = True
        failure = cell.failure()
        if failure is not None:
            self.tell('broken', cell.serial, failure)
        began = Rusage.from_address(self.usage_of(cell))
        ran = any(began)
        user, system = (max(0, all - before) for all, before in zip(cell.times, times_of(began)))
        errors = cell.execution_errors()
        if cell.status is None:
            how = 'none 0'
        elif errors:
            how = 'errno %d' % (EACCES if EACCES in errors else errors[-1])
        else:
            how = 'signal %d' % (cell.status & 127) if cell.status & 127 else 'exit %d' % (cell.status >> 8)
        # A socket in a message that nobody took is collected when the kernel finds the time.
        clean = b'sockets: used 0\n' in posix.pread(self.lanes[cell.lane][1], 512, 0)
        state = 'clean' if clean else 'dirty', 'ran' if ran else 'idle'
        self.tell('end', cell.serial, how, user, system, cell.memory, *state)

    def bury(self, cell):
        ctypes.memset(self.usage_of(cell), 0, USAGE)
        self.usage_free.append(cell.slot)
        del self.cells[cell.serial]
        cell.close()

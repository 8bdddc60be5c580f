"""
The zygote: an interpreter that stopped just before it would have opened its program, and is copied for each run.

Theory of operation

    runner ─spawns─▶ bwrap ─▶ zygote (process 1 of the workspace's sandbox)
                                 ├─clone─▶ init (process 1 of a run's namespaces, shares the zygote's memory)
                                 └─fork──▶ the program (process 2 there)

The runner starts `python3 WORKSPACE/run.py`, with our sitecustomize in front of it: the last thing that the
interpreter imports before it opens the program. Here the zygote stays. In a copy of it that has been given Python
code, `main` returns: the interpreter goes on, opens WORKSPACE/run.py and runs it by its own code, with no frame of
ours below it, and ends by its own code. So arguments, flags, tracebacks, exit codes, threads and the order of the end
are Python's, not an imitation. What was imported for us is out of sys.modules.

A run lives in a cell: pid, mount, ipc, uts and user namespaces of its own, with their mounts. A cell is made ahead.
Its process 1, init, is made with the namespaces, isolates them and then only reaps orphans; it is a list of system
calls (nox_calls.py) that needs no interpreter, so it shares the zygote's memory and costs no copy. The program is
made by fork, ahead as well where Python is expected (nox_program.py), and joins the cell; a command needs no copy of
an interpreter either: a second list of calls joins the cell and executes it.

The end. The program is the zygote's child, so that its exit status and its rusage come first hand. When it has ended,
init is killed, and the kernel ends every other process of the namespace and waits for it (pid_namespaces(7)). Orphans
are init's children, and so their times are in its own.

Descriptor 3 is a socket to the runner. In, after a length and the fields of `Settings`, lines, some with bytes behind:
    cell LANE SERIAL old|new python|bare
                           make one; the runs of a lane come one after another and share a network namespace, the old
                           one or a new one; with a program that waits for code, or without
    opened SERIAL          the runner has opened its ends of the cell's pipes
    program SERIAL         Python code is to come through the pipe of a bare cell
    command SERIAL LENGTH  execute a command: the plan is in the bytes that follow
    kill SERIAL            end every process of it
    signal SERIAL NUMBER   to its program
    ping                   answered by `pong`
    pin                    there is time to learn which pages a run writes (nox_memory.py)
Out:
    up PID                 the packages are loaded
    cell SERIAL INIT PLAN STDOUT STDERR       pid and descriptors as they are in the zygote
    no_cell SERIAL REASON                     it could not be made
    no_place SERIAL        the file on which the code was to be mounted is gone, by another run's doing
    broken SERIAL REASON   a step of the isolation failed; no code of a client has run
    end SERIAL exit|signal|errno|none NUMBER USER SYSTEM MAXRSS clean|dirty ran|idle
                           nothing of it is alive. errno: of execve(2); none: there was no program; times in
                           microseconds, memory in KiB; dirty: a socket may be left; ran: code of the client may have run
    failed REASON          the zygote itself cannot go on

Who trusts whom. The zygote runs no code of a client and imports nothing from a workspace. A run sees neither the
zygote nor another run. Of its own it sees init: its signals do not reach it (process 1), and as init holds all
capabilities of the run's user namespace and the run none, it cannot be traced or read (ptrace(2)); /proc/1 is
read-only. The program joins a cell that is finished, takes its plan, places the code, gives up its last capabilities,
takes on its limits and the rest of its filter (the zygote lives under most of it already), and only then becomes what
the client sent. Every step either succeeds or ends the run: there is no path past a failed one.
"""
import posix
import sys

CONTROL = 3
HERE = __file__[: __file__.rindex('/')]


def main():
    """Returns in a process that is to run Python code; True if the host has a sitecustomize of its own."""
    environ = sys.modules['os'].environ
    sys.path.remove(HERE)
    sys.path_importer_cache.pop(HERE, None)
    del sys.modules['sitecustomize'], sys.modules['nox_zygote']
    host_customizes = True
    try:
        import sitecustomize  # noqa: F401 — the host's, as if we were not there
    except ImportError:
        host_customizes = False
    import_usercustomize()
    base = {name: module for name, module in sys.modules.items() if name != '__main__'}
    importers = dict(sys.path_importer_cache)
    zygote = None
    try:
        sys.path.insert(0, HERE)
        import nox_calls
        import nox_cells
        import nox_ending
        import nox_packages
        import nox_program
        sys.path.remove(HERE)
        for module in (nox_calls, nox_cells, nox_ending, nox_packages, nox_program):
            del sys.modules[module.__name__]

        settings = nox_cells.Settings(CONTROL)
        nox_program.blank_environment([name for name in ('PYTHONPATH', 'LD_BIND_NOW', 'PWD') if name in environ])
        packages = nox_packages.Packages(settings.packages)
        sys.path_importer_cache.clear()
        sys.path_importer_cache.update(importers)
        packages.hide(base)
        ending = nox_ending.end_quickly(base, packages.modules)
        program = nox_program.Program(settings, packages, ending)
        if len(posix.listdir('/proc/self/task')) > 1:
            nox_cells.leave_threads_behind(CONTROL)
        zygote = nox_cells.Zygote(CONTROL, settings, program)
        nox_calls.keep(base, zygote)
        program.freeze()
        zygote.serve()
    except BaseException as error:
        try:
            if zygote is None or zygote.is_zygote:
                posix.write(CONTROL, b'failed %s\n' % repr(error).replace('\n', ' ').encode())
        finally:
            posix._exit(1)
    return host_customizes


def import_usercustomize():
    """What site would do after us, and then only once: looking for a module that is not there takes its time."""
    site = sys.modules['site']
    original = site.execusercustomize
    if site.ENABLE_USER_SITE:
        original()

    def done():
        site.execusercustomize = original

    site.execusercustomize = done

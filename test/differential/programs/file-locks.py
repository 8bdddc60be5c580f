import errno
import fcntl
import os
import tempfile

with tempfile.NamedTemporaryFile() as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    other = open(file.name)
    try:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        print(errno.errorcode[error.errno])
    fcntl.flock(file, fcntl.LOCK_UN)
    fcntl.lockf(file, fcntl.LOCK_EX)
    pid = os.fork()
    if pid == 0:
        try:
            with open(file.name, 'r+') as mine:
                fcntl.lockf(mine, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os._exit(error.errno)
        os._exit(0)
    print(errno.errorcode[os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])])
    flags = fcntl.fcntl(file, fcntl.F_GETFD)
    print(bool(flags & fcntl.FD_CLOEXEC))

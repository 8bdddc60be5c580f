import fcntl
import os
import stat
import sys

for name in sorted(os.listdir('/proc/self/fd'), key=int):
    try:
        info = os.fstat(int(name))
    except OSError:
        continue
    fd = int(name)
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    # The null device is opened for reading, or for both, by whoever starts a program.
    print(fd, stat.filemode(info.st_mode)[0], fd > 0 and flags & os.O_ACCMODE, bool(flags & os.O_NONBLOCK), os.get_inheritable(fd))
print(os.open('/dev/null', os.O_RDONLY))
print(repr(sys.stdin.buffer), sys.stdin.fileno(), sys.stdout.fileno(), sys.stderr.fileno())

import os
import tempfile

with tempfile.NamedTemporaryFile() as file:
    os.utime(file.name, (1_000_000, 2_000_000.5))
    status = os.stat(file.name)
    print(status.st_atime, status.st_mtime, status.st_size)
    os.posix_fallocate(file.fileno(), 0, 1000)
    print(os.stat(file.name).st_size, os.path.getmtime(file.name) != status.st_mtime)
    print(os.statvfs('/tmp').f_namemax, os.pathconf('/tmp', 'PC_NAME_MAX'), os.sysconf('SC_PAGESIZE'))

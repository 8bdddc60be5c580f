import os
import sys
import tempfile

with tempfile.TemporaryDirectory() as directory:
    path = f'{directory}/script'
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o755)
    os.write(descriptor, b'#!/bin/bash\necho "executed: $# $1"\n')
    os.close(descriptor)
    descriptor = os.open(path, os.O_RDONLY)
    print(os.get_inheritable(descriptor))
    read, write = os.pipe()
    print(os.sendfile(write, descriptor, 0, 11), os.read(read, 20))
    event = os.eventfd(3)
    print(os.eventfd_read(event))
    os.unlink(path)
# The script has no name any more.
os.set_inheritable(descriptor, True)
sys.stdout.flush()
os.execve(f'/proc/self/fd/{descriptor}', ['x', 'argument'], {})

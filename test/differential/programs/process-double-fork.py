import os

read, write = os.pipe()
first = os.fork()
if first == 0:
    os.setsid()
    print(os.getsid(0) == os.getpid() == os.getpgrp(), flush=True)
    if os.fork() > 0:
        os._exit(0)
    os.close(read)
    os.write(write, b'grandchild: %d\n' % (os.getsid(0) != os.getpid()))
    os._exit(0)
os.close(write)
print(os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]), flush=True)
while chunk := os.read(read, 100):
    os.write(1, chunk)
try:
    os.wait()
except ChildProcessError:
    print('no child left')

import ctypes
import os
import signal

libc = ctypes.CDLL(None)
ready, done = os.pipe(), os.pipe()
pid = os.fork()
if pid == 0:
    inner = os.fork()
    if inner == 0:
        libc.prctl(1, signal.SIGUSR1)
        signal.signal(signal.SIGUSR1, lambda *_: (os.write(done[1], b'parent died'), os._exit(0)))
        os.write(ready[1], b'r')
        while True:
            signal.pause()
    os.read(ready[0], 1)
    os._exit(0)
os.waitpid(pid, 0)
print(os.read(done[0], 100))

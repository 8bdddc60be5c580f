import os
import signal
import time

signal.signal(signal.SIGALRM, lambda *_: print('tick', flush=True))
signal.setitimer(signal.ITIMER_REAL, 0.05)
start = time.monotonic()
time.sleep(0.15)
print(time.monotonic() - start >= 0.15)
read, write = os.pipe()
signal.setitimer(signal.ITIMER_REAL, 0.05)
pid = os.fork()
if pid == 0:
    time.sleep(0.15)
    os.write(write, b'restarted')
    os._exit(0)
print(os.read(read, 100))
os.waitpid(pid, 0)

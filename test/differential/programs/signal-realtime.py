import os
import signal

got = []
for number in range(signal.SIGRTMIN, signal.SIGRTMIN + 4):
    signal.signal(number, lambda number, frame: got.append(number - signal.SIGRTMIN))
    os.kill(os.getpid(), number)
print(got)
signal.signal(signal.SIGRTMAX, signal.SIG_DFL)
os.kill(os.getpid(), signal.SIGRTMAX)

import os
import signal
import socket

left, right = socket.socketpair()
left.setblocking(False)
right.setblocking(False)
signal.set_wakeup_fd(right.fileno())
signal.signal(signal.SIGUSR1, lambda *_: print('handled'))
os.kill(os.getpid(), signal.SIGUSR1)
print(list(left.recv(10)))

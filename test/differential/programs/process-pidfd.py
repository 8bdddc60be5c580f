import os
import select
import signal

pid = os.fork()
if pid == 0:
    signal.pause()
descriptor = os.pidfd_open(pid)
print(select.select([descriptor], [], [], 0)[0])
signal.pidfd_send_signal(descriptor, signal.SIGTERM)
print(select.select([descriptor], [], [], 5)[0] == [descriptor])
print(os.waitid(os.P_PIDFD, descriptor, os.WEXITED).si_status)

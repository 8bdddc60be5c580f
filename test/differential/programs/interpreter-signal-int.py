import os
import signal
import time

try:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)
except KeyboardInterrupt as error:
    print('interrupted', error)
print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
if os.fork() == 0:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)
print(os.WTERMSIG(os.wait()[1]))

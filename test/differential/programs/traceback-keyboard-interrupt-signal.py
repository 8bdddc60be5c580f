import os
import signal
import time


def sleep():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(5)


print('one', flush=True)
try:
    sleep()
except KeyboardInterrupt:
    print('caught', flush=True)
sleep()

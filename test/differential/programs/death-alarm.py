import signal
import time

signal.alarm(1)
print('before', flush=True)
time.sleep(10)

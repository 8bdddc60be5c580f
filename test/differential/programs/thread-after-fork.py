import os
import threading
import warnings

# From Python 3.12 on a warning here contains the process id.
warnings.simplefilter('ignore')
stop = threading.Event()
thread = threading.Thread(target=stop.wait, name='other')
thread.start()
print(threading.active_count(), flush=True)
pid = os.fork()
if pid == 0:
    print('child', threading.active_count(), threading.current_thread().name, flush=True)
    os._exit(0)
os.waitpid(pid, 0)
stop.set()
thread.join()
print(threading.active_count())

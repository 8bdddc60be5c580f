import os
import signal
import threading

print('before', flush=True)
threading.Thread(target=lambda: signal.pthread_kill(threading.get_ident(), signal.SIGUSR2)).start()
threading.Event().wait(5)

import os
import threading

print('printed and flushed', flush=True)
threading.Thread(target=lambda: os._exit(12)).start()
threading.Event().wait(5)

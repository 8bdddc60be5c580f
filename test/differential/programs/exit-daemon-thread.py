import threading
import time


def forever():
    while True:
        time.sleep(0.01)


threading.Thread(target=forever, daemon=True).start()
ended = threading.Event()
threading.Thread(target=lambda: (ended.wait(), time.sleep(0.05), print('joined at exit'))).start()
print('main ends')
ended.set()

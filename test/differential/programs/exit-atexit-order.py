import atexit
import threading
import weakref


class Thing:
    pass


thing = Thing()
weakref.finalize(thing, print, 'finalize')
atexit.register(print, 'registered 1')
atexit.register(print, 'registered 2')
gone = atexit.register(lambda: print('unregistered'))
atexit.unregister(gone)
atexit.register(lambda: atexit.register(print, 'registered while exiting'))
ended = threading.Event()
threading.Timer(0.05, lambda: (ended.wait(), print('timer thread'))).start()
print('end of main')
ended.set()

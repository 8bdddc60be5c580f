import sys
import threading


def hook(args):
    print('hook', args.exc_type.__name__, args.exc_value, args.thread.name)


threading.excepthook = hook
thread = threading.Thread(target=lambda: 1 / 0, name='lambda')
thread.start()
thread.join()
quiet = threading.Thread(target=lambda: sys.exit('exit in a thread is silent'))
quiet.start()
quiet.join()
print('end')

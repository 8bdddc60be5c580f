import faulthandler
import signal
import sys

print(faulthandler.is_enabled())
faulthandler.enable()
print(faulthandler.is_enabled())


def here():
    faulthandler.dump_traceback(sys.stderr, all_threads=False)


here()
faulthandler.register(signal.SIGUSR1, all_threads=False)
signal.raise_signal(signal.SIGUSR1)
faulthandler.unregister(signal.SIGUSR1)
faulthandler.disable()
print(faulthandler.is_enabled(), flush=True)

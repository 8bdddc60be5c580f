import multiprocessing
import os
import signal
import sys


def leave(how):
    how()


if __name__ == '__main__':
    multiprocessing.set_start_method('fork')
    for how in (
        lambda: None,
        lambda: sys.exit(3),
        lambda: sys.exit('message'),
        lambda: os._exit(5),
        lambda: os.kill(os.getpid(), signal.SIGKILL),
        lambda: {}['missing'],
    ):
        process = multiprocessing.Process(target=leave, args=(how,), name='child')
        process.start()
        process.join()
        print(process.exitcode, flush=True)
    sleeper = multiprocessing.Process(target=signal.pause)
    sleeper.start()
    sleeper.terminate()
    sleeper.join()
    print(sleeper.exitcode, multiprocessing.active_children())

from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
import multiprocessing
import os


def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


if __name__ == '__main__':
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context('fork')) as pool:
        print(list(pool.map(fib, range(15))))
        print(repr(pool.submit(int, 'x').exception()))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('fork')) as pool:
        try:
            pool.submit(os._exit, 1).result()
        except BrokenProcessPool as error:
            print(error)

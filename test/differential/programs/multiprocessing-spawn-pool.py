import multiprocessing
import os.path
import sys


def square(n):
    return n * n


def where(_):
    return os.path.basename(sys.argv[0]), sys.path[0] == os.getcwd(), os.path.basename(__file__)


if __name__ == '__main__':
    with multiprocessing.get_context('spawn').Pool(2) as pool:
        print(pool.map(square, range(10)))
        print(pool.map(where, range(1)))

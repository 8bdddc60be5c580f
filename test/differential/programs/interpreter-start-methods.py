import multiprocessing
import pickle
import sys
from concurrent.futures import ProcessPoolExecutor


class Point:
    def __init__(self, x):
        self.x = x

    def __reduce__(self):
        return Point, (self.x,)


def double(point):
    return Point(point.x * 2)


def report(queue):
    queue.put((multiprocessing.current_process().name, multiprocessing.parent_process().name, sys.argv[1:], __name__.lstrip('_')))


if __name__ == '__main__':
    print(multiprocessing.get_all_start_methods(), multiprocessing.get_start_method(True), multiprocessing.current_process().name)
    print(pickle.loads(pickle.dumps(Point(3))).x, pickle.dumps(double)[:60])
    for method in ('fork', 'spawn', 'forkserver'):
        context = multiprocessing.get_context(method)
        queue = context.Queue()
        process = context.Process(target=report, args=[queue], name='child')
        process.start()
        print(method, queue.get(timeout=20))
        process.join()
        print(process.exitcode)
        with ProcessPoolExecutor(1, mp_context=context) as pool:
            print([point.x for point in pool.map(double, [Point(1), Point(2)])])

import multiprocessing
import os


def work(n, queue):
    queue.put((n, n * n, multiprocessing.current_process().name))


if __name__ == '__main__':
    multiprocessing.set_start_method('fork')
    queue = multiprocessing.Queue()
    processes = [multiprocessing.Process(target=work, args=(n, queue)) for n in range(4)]
    for process in processes:
        process.start()
    print(sorted(queue.get() for _ in processes))
    for process in processes:
        process.join()
    print([process.exitcode for process in processes], multiprocessing.current_process().name, multiprocessing.parent_process())

import multiprocessing


def work(n):
    print('in child', n, __name__, flush=True)
    raise SystemExit(n)


if __name__ == '__main__':
    multiprocessing.set_start_method('forkserver')
    for n in (0, 3):
        process = multiprocessing.Process(target=work, args=(n,))
        process.start()
        process.join()
        print(process.exitcode, flush=True)

import multiprocessing


def work(shared, lock, n):
    with lock:
        shared['total'] = shared.get('total', 0) + n


if __name__ == '__main__':
    context = multiprocessing.get_context('fork')
    with context.Manager() as manager:
        shared, lock = manager.dict(), manager.Lock()
        processes = [context.Process(target=work, args=(shared, lock, n)) for n in range(5)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        print(dict(shared), list(manager.list([1, 2])))
        try:
            shared['missing']
        except KeyError as error:
            print(error)

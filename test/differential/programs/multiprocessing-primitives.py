import multiprocessing


def work(value, array, lock, semaphore, event, barrier):
    with semaphore:
        for _ in range(100):
            with value.get_lock():
                value.value += 1
        with lock:
            array[0] += 1
    barrier.wait()
    event.set()


if __name__ == '__main__':
    context = multiprocessing.get_context('fork')
    value, array = context.Value('i', 0), context.Array('d', [0.0, 1.5])
    event, barrier = context.Event(), context.Barrier(3)
    arguments = (value, array, context.Lock(), context.Semaphore(2), event, barrier)
    processes = [context.Process(target=work, args=arguments, daemon=True) for _ in range(3)]
    for process in processes:
        process.start()
    print(event.wait(10))
    for process in processes:
        process.join()
    print(value.value, array[:], [process.exitcode for process in processes])

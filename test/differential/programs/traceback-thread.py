import threading


def work(n):
    raise ValueError(f'thread {n}')


for n in range(3):
    thread = threading.Thread(target=work, args=(n,), name=f'worker-{n}')
    thread.start()
    thread.join()
print('main goes on')

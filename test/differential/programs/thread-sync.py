import threading

barrier = threading.Barrier(4)
semaphore = threading.BoundedSemaphore(2)
condition = threading.Condition()
event = threading.Event()
seen = []
local = threading.local()


def work(n):
    local.n = n
    barrier.wait()
    with semaphore:
        with condition:
            seen.append(local.n)
            condition.notify_all()
    event.wait()


threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
for thread in threads:
    thread.start()
with condition:
    condition.wait_for(lambda: len(seen) == 4)
event.set()
for thread in threads:
    thread.join()
print(sorted(seen), hasattr(local, 'n'))
try:
    semaphore.release()
except ValueError as error:
    print(error)

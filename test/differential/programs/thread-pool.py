from concurrent.futures import ThreadPoolExecutor, as_completed, wait

with ThreadPoolExecutor(4, thread_name_prefix='pool') as pool:
    print(list(pool.map(lambda n: n**2, range(10))))
    futures = [pool.submit(lambda n=n: 10 // n) for n in range(3)]
    done, pending = wait(futures)
    print(len(done), len(pending), sorted(str(future.exception()) for future in as_completed(futures)))
    futures[0].result()

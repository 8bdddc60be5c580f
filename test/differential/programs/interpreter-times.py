import os
import resource
import time

usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(usage.ru_utime, usage.ru_stime, usage.ru_maxrss, usage.ru_minflt)
times = os.times()
print(times.children_user, times.children_system, times.user < 1)
print(time.process_time() < 1, time.thread_time() < 1)
sum(range(1_000_000))
print(time.process_time() > 0)

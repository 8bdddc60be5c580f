import os
import resource

nice = os.nice(0)
print(os.nice(2) - nice, os.sched_getscheduler(0) == os.SCHED_OTHER)
print(oct(os.umask(0o077)), oct(os.umask(0o022)))
usage = resource.getrusage(resource.RUSAGE_SELF)
print(usage.ru_maxrss > 1000, usage.ru_utime >= 0, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
print(os.getuid() == os.geteuid() != 0, os.getgid() == os.getegid() != 0)
print(os.getpid() != 1, os.getpgid(0) == os.getpgrp(), os.times().user >= 0, os.cpu_count() > 0)
resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
try:
    files = [open('/dev/null') for _ in range(30)]
except OSError as error:
    print(error)

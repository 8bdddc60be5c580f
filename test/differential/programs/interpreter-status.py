import os

SAME = ('Umask', 'State', 'TracerPid', 'Threads', 'NoNewPrivs_', 'CapEff', 'CapPrm', 'CapInh', 'CapAmb')
for line in open('/proc/self/status'):
    if line.startswith(SAME):
        print(line, end='')
print(os.getpriority(os.PRIO_PROCESS, 0), os.sched_getscheduler(0), open('/proc/self/oom_score_adj').read())
print(os.getcwd() == os.path.dirname(os.path.abspath(__file__)), os.readlink('/proc/self/root'), open('/proc/self/wchan').read())
print(os.access('/proc/self/mem', os.R_OK), os.stat('/proc/self').st_uid == os.getuid(), len(os.listdir('/proc/self/fd')))

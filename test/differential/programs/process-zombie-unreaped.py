import os
import time

pid = os.fork()
if pid == 0:
    os._exit(3)
info = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
print(info.si_status, info.si_code == os.CLD_EXITED)
print([line.split()[1] for line in open(f'/proc/{pid}/status') if line.startswith('State')])
print('leaves it')

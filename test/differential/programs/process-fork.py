import os
import sys

print('buffered text is doubled by fork')
pid = os.fork()
if pid == 0:
    print('child')
    sys.exit(7)
done, status = os.waitpid(pid, 0)
print('parent', done == pid, os.waitstatus_to_exitcode(status))

import os

pids = []
for n in range(10):
    pid = os.fork()
    if pid == 0:
        os._exit(n)
    pids.append(pid)
codes = {}
while True:
    try:
        pid, status = os.wait()
    except ChildProcessError as error:
        print(error)
        break
    codes[pids.index(pid)] = os.waitstatus_to_exitcode(status)
print(sorted(codes.items()))

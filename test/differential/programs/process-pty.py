import os
import pty

pid, master = pty.fork()
if pid == 0:
    os.execvp('bash', ['bash', '-c', 'tty | sed "s/[0-9]*$/N/"; test -t 0 && test -t 1 && echo terminal'])
output = b''
while True:
    try:
        chunk = os.read(master, 1000)
    except OSError:
        break
    if not chunk:
        break
    output += chunk
print(output, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

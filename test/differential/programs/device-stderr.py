import os

with open('/dev/stderr', 'w') as file:
    file.write('to stderr\n')
with open('/dev/stdout', 'w') as file:
    file.write('to stdout\n')
with open('/dev/fd/2', 'w') as file:
    file.write('to fd 2\n')
with open('/proc/self/fd/1', 'w') as file:
    file.write('to fd 1\n')
os.system('echo shell >/dev/stderr; echo shell >/dev/stdout; echo x | cat /dev/stdin')
os.system('echo tee | tee /dev/stderr')

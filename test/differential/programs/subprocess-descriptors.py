import os
import subprocess

read, write = os.pipe()
script = 'echo hidden >&%d' % write
print(subprocess.run(['bash', '-c', script], stderr=subprocess.DEVNULL).returncode)
print(subprocess.run(['bash', '-c', script], pass_fds=[write]).returncode)
os.close(write)
print(os.read(read, 100))
print(subprocess.check_output(['bash', '-c', 'ls /proc/self/fd'], close_fds=True, text=True))

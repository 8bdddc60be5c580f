import subprocess
import sys

print(subprocess.check_output(['sort', '-n'], text=True), end='')
print(repr(sys.stdin.read()))

import subprocess
import sys

code = '''
import subprocess, sys
depth = int(sys.argv[1])
print('depth', depth, flush=True)
if depth:
    sys.exit(subprocess.run([sys.executable, '-c', sys.argv[2], str(depth - 1), sys.argv[2]]).returncode + 1)
'''
print(subprocess.run([sys.executable, '-c', code, '3', code]).returncode)

import subprocess
import sys

CODE = '''
import os, signal, sys
print(sys.flags, sys.path, sorted(set(sys.modules) - {'sitecustomize'}), sorted(os.environ), sys.argv, sys.orig_argv[1:2])
print(os.listdir('/proc/self/fd'), [n for n in range(1, 65) if signal.getsignal(n) == signal.SIG_IGN], sys.stdin.read())
'''
for options in ([], ['-I'], ['-E', '-s'], ['-S']):
    result = subprocess.run([sys.executable, *options, '-c', CODE, 'argument'], input='given', capture_output=True, text=True)
    print(options, result.returncode, result.stdout, result.stderr)
print(subprocess.run([sys.executable, __file__, 'x'], capture_output=True, text=True).stdout[:20] if len(sys.argv) == 1 else 'not again')

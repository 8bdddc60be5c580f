import pickle
import subprocess
import sys


class Point:
    pass


code = 'import pickle, sys; pickle.load(sys.stdin.buffer)'
result = subprocess.run([sys.executable, '-c', code], input=pickle.dumps(Point()), capture_output=True)
print(result.returncode, result.stderr.decode().splitlines()[-1])

import subprocess
import sys

print('one', flush=True)
subprocess.run(['echo', 'two'])
subprocess.run(['bash', '-c', 'echo three >&2'])
subprocess.run(['bash', '-c', 'cat; echo eof'])
print('four', flush=True)
subprocess.run([sys.executable, '-c', 'import sys; print("five", sys.argv, flush=True); sys.stderr.write("six\\n")', 'a b', 'é'])

import subprocess
import sys

for code in ('import os; os.kill(os.getpid(), 9)', 'import os; os.abort()', 'raise KeyboardInterrupt', 'import sys; sys.exit(139)'):
    print(subprocess.run([sys.executable, '-c', code], stderr=subprocess.DEVNULL).returncode)
print(subprocess.run('kill -9 $$', shell=True).returncode)
print(subprocess.run('sh -c "kill -15 \\$\\$"; echo $?', shell=True, capture_output=True, text=True).stdout)

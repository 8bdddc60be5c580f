import subprocess
import sys

print(subprocess.run([sys.executable, '-m', 'differential_module', 'x'], capture_output=True, text=True))
print(subprocess.run([sys.executable, '-m', 'differential_module.nothing'], capture_output=True, text=True).returncode)

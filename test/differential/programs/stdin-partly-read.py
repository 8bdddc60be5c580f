import os
import subprocess

print(os.read(0, 6))
print(subprocess.check_output(['head', '-n', '1']))

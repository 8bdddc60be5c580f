import re
import subprocess
import sys

code = '''
from multiprocessing import shared_memory
shared_memory.SharedMemory(create=True, size=100).close()
print('left behind: the tracker cleans up and warns', flush=True)
'''
result = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
print(result.returncode, result.stdout, re.sub(r'/psm_\w+', '/psm', result.stderr))

import os
import sys

print('kept: flushed', flush=True)
sys.stderr.write('kept: standard error is written line by line\n')
sys.stderr.write('kept: without a newline')
os.write(1, b'kept: written directly\n')
print('lost: in the buffer')
os._exit(3)

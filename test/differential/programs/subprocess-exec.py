import os
import sys

print('before', flush=True)
print('lost: exec throws the buffer away')
os.execvp('bash', ['bash', '-c', 'echo "exec: $1"; exit 8', 'name', 'argument'])

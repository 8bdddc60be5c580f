import sys

sys.stdout.buffer.write(bytes(range(128)) * 2000)
sys.stderr.buffer.write(bytes(range(256)))

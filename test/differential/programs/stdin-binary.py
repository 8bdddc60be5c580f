import sys

data = sys.stdin.buffer.read()
print(data)
print(data.decode().splitlines())

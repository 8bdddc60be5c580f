import sys

print(repr(sys.stdin.read()), sys.stdin.isatty(), sys.stdin.fileno(), sys.stdin.name, sys.stdin.mode)
print(list(sys.stdin), sys.stdin.readline() == '')
input('prompt> ')

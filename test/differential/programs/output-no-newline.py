import sys

print('no newline at the end', end='')
print('nor here', end='', file=sys.stderr)

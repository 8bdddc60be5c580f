import os

print(sorted(filter(None, open('/proc/self/environ', 'rb').read().split(b'\0'))))
print(sorted(os.environ.items()))
print(os.environb[b'HOME'], os.getenv('PYTHONPATH'), os.path.expanduser('~'), os.path.expandvars('$LANG'))

import sys

raw = sys.stdout.detach()
raw.write(b'detached\n')
raw.flush()
try:
    print('fails')
except ValueError as error:
    sys.stderr.write(f'{error}\n')

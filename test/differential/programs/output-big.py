import sys

for n in range(60_000):
    sys.stdout.write(f'line {n} {"x" * 40}\n')

import sys

for n in range(5):
    print('out', n)
    print('err', n, file=sys.stderr)
sys.stdout.writelines(['a', 'b\n'])
print('x', 'y', sep='\0', end='\n\n', flush=True)

import subprocess

print('begin', flush=True)
for letter in 'abc':
    subprocess.run(f'head -c 500000 /dev/zero | tr "\\0" {letter}; echo', shell=True)
print('end')

import os
import stat

for name in ('null', 'zero', 'full', 'random', 'urandom', 'tty'):
    mode = os.stat(f'/dev/{name}').st_mode
    print(name, stat.S_ISCHR(mode))
print(open('/dev/zero', 'rb').read(4), len(open('/dev/urandom', 'rb').read(100)), len(os.getrandom(16)))
open('/dev/null', 'w').write('gone')
try:
    with open('/dev/full', 'w') as file:
        file.write('x')
except OSError as error:
    print(error)
for name in ('stdin', 'stdout', 'stderr', 'fd'):
    print(name, os.readlink(f'/dev/{name}'))
print(os.path.isdir('/dev/shm'), os.access('/dev/shm', os.W_OK), os.path.isdir('/dev/pts'))

import os

for path in ('/usr/bin/differential', '/differential', '/etc/differential', '/proc/sys/kernel/hostname', '/sys/differential'):
    try:
        with open(path, 'w') as file:
            file.write('x')
        print(path, 'could be written')
    except OSError as error:
        print(path, 'refused')

import os
import resource
import subprocess

print(resource.getrlimit(resource.RLIMIT_CORE), resource.getrlimit(resource.RLIMIT_AS), resource.getrlimit(resource.RLIMIT_RTPRIO))
for name, value in (('NOFILE', 64), ('CPU', 7), ('FSIZE', 1 << 20), ('STACK', 1 << 20), ('AS', 1 << 30)):
    limit = getattr(resource, f'RLIMIT_{name}')
    resource.setrlimit(limit, (value, resource.getrlimit(limit)[1]))
    print(name, resource.getrlimit(limit)[0])
print(subprocess.run(['bash', '-c', 'ulimit -Sn; ulimit -St; ulimit -Sf; ulimit -Ss'], capture_output=True, text=True).stdout.split())
try:
    bytes(2 << 30)
except MemoryError:
    print('MemoryError')
os.closerange(3, 100)

import os

with os.popen('echo from popen; exit 3') as stream:
    print(stream.read())
    print(stream.close() >> 8)
print(os.system('exit 4') >> 8, os.system('kill -9 $$'), os.waitstatus_to_exitcode(os.system('true')))
print(os.spawnvp(os.P_WAIT, 'bash', ['bash', '-c', 'exit 6']))
pid = os.posix_spawnp('bash', ['bash', '-c', 'echo spawned; exit 7'], os.environ)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))

import os
import signal
import subprocess

process = subprocess.Popen(['bash', '-c', 'sleep 10 & sleep 10 & echo ready; wait'], start_new_session=True, stdout=-1)
process.stdout.readline()
print(os.getpgid(process.pid) == process.pid == os.getsid(process.pid))
os.killpg(process.pid, signal.SIGTERM)
print(process.wait(), process.stdout.read())
process.stdout.close()

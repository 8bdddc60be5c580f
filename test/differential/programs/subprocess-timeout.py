import subprocess

try:
    subprocess.run(['sleep', '10'], timeout=0.1)
except subprocess.TimeoutExpired as error:
    print(error.cmd, round(error.timeout, 1))
process = subprocess.Popen(['sleep', '10'])
print(process.poll())
process.terminate()
print(process.wait())
process = subprocess.Popen(['bash', '-c', 'trap "" TERM; echo ready; exec sleep 10'], stdout=subprocess.PIPE)
process.stdout.readline()
process.terminate()
process.kill()
print(process.wait(), process)
process.stdout.close()

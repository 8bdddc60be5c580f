import subprocess
import sys

code = 'import sys\nfor n in range(100000): print(n)'
producer = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
print(producer.stdout.readline())
producer.stdout.close()
print(producer.stderr.read())
print(producer.wait())

import subprocess

subprocess.run(['bash', '-c', 'echo out; echo err >&2; exit 9'], check=True)

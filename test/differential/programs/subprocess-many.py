import subprocess

processes = [subprocess.Popen(['bash', '-c', f'exit {n}']) for n in range(20)]
print([process.wait() for process in processes])

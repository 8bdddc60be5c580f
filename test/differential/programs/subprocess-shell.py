import subprocess

print(subprocess.check_output('echo one; echo two >&2; exit 0', shell=True, stderr=subprocess.STDOUT, text=True))
print(subprocess.call('exit 3', shell=True), subprocess.getstatusoutput('echo x; exit 4'), subprocess.getoutput('echo "$HOME"'))
subprocess.run('no-such-command-here', shell=True)
try:
    subprocess.run(['no-such-command-here'])
except FileNotFoundError as error:
    print(error)

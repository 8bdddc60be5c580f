import subprocess

with subprocess.Popen(['bash', '-c', 'cat; echo error >&2; exit 5'], stdin=-1, stdout=-1, stderr=-1) as process:
    out, err = process.communicate(b'x' * 300_000)
print(len(out), err, process.returncode)

import os
import subprocess

print(sorted(os.environ.items()))
print(subprocess.run(['env'], env={'A': '1', 'ü': 'ö'}, capture_output=True, text=True).stdout)
os.environ['NEW'] = 'new'
os.putenv('RAW', 'raw')
print(subprocess.check_output(['bash', '-c', 'echo $NEW $RAW $LANG $HOME $TMPDIR $PATH'], text=True))
print(subprocess.check_output(['bash', '-c', 'echo $NEW'], text=True, cwd='/usr', env={}))

import subprocess

for options in ({'cwd': '/nonexistent'}, {'executable': '/nonexistent'}, {'stdin': open('/dev/null'), 'input': b''}):
    try:
        subprocess.run(['true'], **options)
    except Exception as error:
        print(type(error).__name__, error)
print(subprocess.run(['true']).check_returncode())
try:
    subprocess.run(['/etc'])
except PermissionError as error:
    print(error)

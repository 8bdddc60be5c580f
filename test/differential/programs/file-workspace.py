import os
import pathlib
import shutil

directory = pathlib.Path('differential_file_workspace')
directory.mkdir()
try:
    (directory / 'one').write_text('1\n')
    (directory / 'two').write_bytes(b'\xff' * 10)
    os.replace(directory / 'one', directory / 'three')
    print(sorted(os.listdir(directory)), (directory / 'three').read_text(), (directory / 'two').stat().st_size)
    print(oct(directory.stat().st_mode), oct((directory / 'two').stat().st_mode), directory.stat().st_uid == os.getuid())
    with open(directory / 'sparse', 'wb') as file:
        file.truncate(1 << 20)
    print((directory / 'sparse').stat().st_size)
    os.chmod(directory / 'two', 0)
    try:
        open(directory / 'two')
    except PermissionError as error:
        print(error)
finally:
    shutil.rmtree(directory)
print(directory.exists(), os.getcwd() == os.path.dirname(os.path.abspath(__file__)))

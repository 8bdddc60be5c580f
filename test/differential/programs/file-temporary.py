import os
import stat
import tempfile

print(tempfile.gettempdir(), os.access('/tmp', os.W_OK), os.path.expanduser('~'))
with tempfile.NamedTemporaryFile('w+', suffix='.txt') as file:
    file.write('abc')
    file.seek(1)
    print(file.read(), oct(stat.S_IMODE(os.stat(file.name).st_mode)), file.name.startswith('/tmp/'))
print(os.path.exists(file.name))
with tempfile.SpooledTemporaryFile(10) as file:
    file.write(b'x' * 20)
    print(file.tell())
descriptor, name = tempfile.mkstemp()
os.write(descriptor, b'12345')
os.ftruncate(descriptor, 2)
print(os.pread(descriptor, 10, 0), os.stat(name).st_size, os.stat(name).st_nlink)
os.unlink(name)
print(os.pread(descriptor, 10, 0), os.fstat(descriptor).st_nlink)

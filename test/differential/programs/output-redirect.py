import contextlib
import io
import os
import sys
import tempfile

buffer = io.StringIO()
with contextlib.redirect_stdout(buffer), contextlib.redirect_stderr(sys.stdout):
    print('captured')
    print('also', file=sys.stderr)
print(repr(buffer.getvalue()))
with tempfile.TemporaryFile() as file:
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(file.fileno(), 1)
    os.system('echo into the file')
    os.dup2(saved, 1)
    file.seek(0)
    print(file.read())
sys.stdout = open(1, 'w', closefd=False, buffering=1)
print('line buffered')
os._exit(0)

import io
import os
import stat
import sys

for stream in (sys.stdin, sys.stdout, sys.stderr):
    print(stream.line_buffering, stream.write_through, stream.newlines, stream.name, stream.isatty(), type(stream.buffer).__name__)
print(sys.stdout.seekable(), stat.S_ISFIFO(os.fstat(1).st_mode), stat.S_ISFIFO(os.fstat(2).st_mode), os.isatty(1))
print(io.DEFAULT_BUFFER_SIZE, sys.stdout.mode, sys.stderr.mode, sys.stdout is sys.__stdout__)
print(os.get_inheritable(1), os.get_blocking(0), os.get_blocking(1), os.get_blocking(2))
try:
    sys.stdout.seek(0)
except io.UnsupportedOperation as error:
    print(error)
try:
    os.get_terminal_size()
except OSError as error:
    print(error.strerror)
import shutil

print(shutil.get_terminal_size())

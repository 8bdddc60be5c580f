import os
import sys

for stream in (sys.stdin, sys.stdout, sys.stderr):
    print(stream, stream.encoding, stream.errors, stream.newlines, stream.line_buffering, stream.write_through, stream.mode, stream.closed)
    print(stream.buffer, stream.buffer.raw, stream.isatty(), stream.seekable(), stream.readable(), stream.writable(), stream.buffer.raw.closefd)
print(sys.stdin is sys.__stdin__, sys.stdout is sys.__stdout__, sys.stderr is sys.__stderr__)
print(repr(sys.stdin.readline()), repr(sys.stdin.read(3)), repr(sys.stdin.buffer.read(2)), repr(sys.stdin.read()))
print(os.fstat(0).st_rdev == os.stat('/dev/null').st_rdev)

import errno
import os
import traceback

for call in (
    lambda: open('/nonexistent/file'),
    lambda: os.mkdir('/proc'),
    lambda: os.rename('/tmp/nonexistent-a', '/tmp/nonexistent-b'),
    lambda: open('/'),
    lambda: open('/usr/bin/env/x'),
    lambda: os.kill(1 << 22, 0),
    lambda: os.read(99, 1),
):
    try:
        call()
    except OSError as error:
        print(type(error).__name__, errno.errorcode[error.errno], error)
        traceback.print_exc(limit=1)

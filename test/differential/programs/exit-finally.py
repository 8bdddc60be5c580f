import atexit
import sys

atexit.register(print, 'atexit')
try:
    try:
        sys.exit(5)
    finally:
        print('finally')
except SystemExit as error:
    print('code', error.code)
    raise

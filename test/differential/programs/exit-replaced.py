import sys

try:
    sys.exit(5)
finally:
    sys.exit(6)

import __main__
import sys

print(__main__ is sys.modules['__main__'], __main__.__dict__ is globals(), __main__.__name__)


def f():
    return 1


print(__main__.f is f, f.__module__, f.__qualname__)
import differential_looks_at_main

print(differential_looks_at_main.seen())

import builtins
import sys

print(sorted(vars(builtins)))
print(repr(exit), repr(quit), type(help).__name__, repr(copyright)[:20], __build_class__, hasattr(builtins, '_'))
sys.displayhook(5)
print(builtins._, __import__ is builtins.__import__, open is sys.modules['io'].open, breakpoint.__module__)
print(__debug__, callable(input), type(__loader__).__name__)

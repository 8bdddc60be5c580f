import importlib
import pathlib
import sys

sys.dont_write_bytecode = True
path = pathlib.Path('differential_reloaded.py')
path.write_text('value = 1\n')
try:
    importlib.invalidate_caches()
    import differential_reloaded

    print(differential_reloaded.value)
    path.write_text('value = 22\n')
    print(importlib.reload(differential_reloaded).value)
finally:
    path.unlink()

import sys

print([getattr(finder, '__name__', finder) for finder in sys.meta_path])
print([getattr(hook, '__qualname__', hook) for hook in sys.path_hooks])
print({path: type(finder).__name__ for path, finder in sys.path_importer_cache.items()})
find_spec = sys.meta_path[-1].find_spec
print(find_spec.__qualname__, find_spec.__code__.co_filename, find_spec.__module__)
print(sorted(sys.path_importer_cache.keys() - set(sys.path)))
print(find_spec('json').origin, find_spec('no_such_module'))

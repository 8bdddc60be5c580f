"""Packages that are loaded ahead: out of sight, until a program imports them."""
import atexit
import os
import posix
import sys

import nox_calls

SHADOW_ENTRIES = 1000
# What programs do with a package first, where that touches more than its import does.
EXERCISES = {
    'numpy': 'numpy.arange(3).sum()',
    'pandas': 'pandas.Series([1, 2]).sum(); pandas.DataFrame({"a": [1, 2], "b": [0.5, 1.5]}).mean()',
}


class Packages:
    """@param names separated by spaces"""

    def __init__(self, names):
        filters = sys.modules['_warnings'].filters
        environ = os.environ
        before = list(filters), list(sys.meta_path), list(sys.path), dict(environ)
        register, self.at_exit = atexit.register, []
        atexit.register = self.hear_of_end
        for name in names.split():
            __import__(name)
        atexit.register = register
        after = list(filters), list(sys.meta_path)
        filters[:], sys.meta_path[:], sys.path[:] = before[:3]
        for name in set(environ) - set(before[3]):
            del environ[name]
        environ.update(before[3])
        # What they put in front of the warning filters, and behind the finders of modules.
        self.additions = [[item for item in new if item not in old] for new, old in zip(after, before)]
        self.names = names.split()
        self.modules, self.roots = {}, set()
        self.unused = True

    def hear_of_end(self, function, *arguments, **named):
        self.at_exit.append((function, arguments, named))
        return function

    def hide(self, base):
        """Takes what is not in `base` out of sys.modules, ours as well; what was asked for can be imported again."""
        loaded = {}
        for name in [name for name in sys.modules if name not in base and name != '__main__']:
            loaded[name] = sys.modules.pop(name)
        nox_calls.keep(dict(loaded))
        if not self.names:
            return
        self.modules = loaded
        self.roots = {name.split('.')[0] for name in loaded}
        self.serve()

    def serve(self):
        """Makes `import` find them where it would have loaded the same file."""
        from importlib.machinery import PathFinder

        modules, first_use = self.modules, self.first_use

        class Served:
            def __init__(self, module):
                self.module, self.spec = module, module.__spec__

            def create_module(self, spec):
                return self.module

            def exec_module(self, module):
                module.__spec__ = self.spec
                prefix = self.spec.name + '.'
                for name, each in modules.items():
                    if name.startswith(prefix):
                        sys.modules.setdefault(name, each)

        find_spec = PathFinder.find_spec
        from_spec = type(sys.__spec__)

        def find(cls, fullname, path=None, target=None):
            spec = find_spec(fullname, path, target)
            module = modules.get(fullname)
            if spec is None or module is None or spec.origin != getattr(module.__spec__, 'origin', None):
                return spec
            first_use()
            served = from_spec(fullname, Served(module), origin=spec.origin)
            served.submodule_search_locations = spec.submodule_search_locations
            return served

        PathFinder.find_spec = classmethod(find)

    def first_use(self):
        """
        What the packages did when they were loaded is done when the program imports one: to the warning filters, to the
        finders of modules, for the end. And whatever was seeded then is seeded anew; `random` does it itself, at the fork.
        """
        if not self.unused:
            return
        self.unused = False
        filters, finders = self.additions
        sys.modules['_warnings'].filters[:0] = filters
        sys.modules['_warnings']._filters_mutated()
        sys.meta_path.extend(finders)
        for function, arguments, named in self.at_exit:
            atexit.register(function, *arguments, **named)
        numpy = self.modules.get('numpy.random')
        if numpy is not None:
            numpy.seed()
        process = self.modules.get('multiprocessing.process')
        if process is not None:
            process.current_process().authkey = posix.urandom(32)
        threading = self.modules.get('threading')
        if threading is not None:
            threading.main_thread()._set_native_id()

    def exercise(self):
        """A program that uses what was loaded."""
        lines = [line for name in self.names for line in ('import ' + name, EXERCISES.get(name, ''))]
        return '\n'.join(lines) + '\n'

    def shadowed(self, directory):
        """Whether the workspace has a module of a name that was loaded from elsewhere, or may have one."""
        if not self.modules:
            return False
        try:
            with posix.scandir(directory) as entries:
                for count, entry in enumerate(entries):
                    if count == SHADOW_ENTRIES or entry.name.split('.', 1)[0] in self.roots:
                        return True
        except OSError:
            return True
        return False

import inspect
import linecache
import sys


def function(a, *, b=1):
    """Documented."""
    return a + b


class Class:
    def method(self):
        return function(1)


print(inspect.getsource(function), inspect.getsource(Class.method), inspect.getsourcelines(Class)[1])
print(inspect.getsourcefile(function) == inspect.getfile(Class) == __file__ == function.__code__.co_filename)
print(inspect.getmodule(function).__name__, inspect.getmodule(Class) is sys.modules['__main__'], inspect.getdoc(function))
print(linecache.getline(__file__, 1), len(inspect.stack()), inspect.signature(function))
print(inspect.getsource(sys.modules['__main__']) == open(__file__).read())

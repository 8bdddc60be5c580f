import inspect
import linecache


def function(a, *, b: int = 2):
    """Docs."""
    # a comment
    return a + b


class Thing:
    def method(self):
        return 'ünï'


print(inspect.getsource(function))
print(inspect.getsource(Thing.method))
print(inspect.getsource(Thing))
print(inspect.getsourcelines(function)[1], inspect.signature(function), inspect.getdoc(function), inspect.getcomments(Thing))
print(repr(linecache.getline(__file__, 2)), inspect.getsourcefile(function) == __file__)
print(inspect.getmodule(function).__name__, function.__code__.co_filename == __file__, function.__code__.co_firstlineno)
print(inspect.getfile(Thing) == __file__)

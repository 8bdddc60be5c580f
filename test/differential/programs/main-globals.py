print(list(globals()))
print(__name__, __doc__, __package__, __spec__, __file__ == __import__('sys').argv[0], __import__('os').path.isabs(__file__))
print(type(__loader__).__name__, __loader__.name, __loader__.path == __file__, type(__builtins__).__name__)
print(globals().get('__annotations__'), globals().get('__cached__', 'none'), dir() == sorted(globals()))
x: int = 1
print(__annotations__)

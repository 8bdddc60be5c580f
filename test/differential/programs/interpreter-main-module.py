import builtins
import sys

main = sys.modules['__main__']
print(list(vars(main)), main.__spec__, main.__doc__, main.__package__, main.__builtins__ is builtins)
print(type(main.__loader__).__name__, main.__loader__.name, main.__loader__.path == main.__file__, main.__cached__, main.__annotations__)
print(sys.getrefcount(main) < 6, main.__file__ == sys.argv[0])
x: int = 1
print(__annotations__)

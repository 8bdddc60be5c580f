import differential_package
from differential_package import answer
from differential_package.sub import relative

print(answer, relative(), differential_package.__name__, differential_package.__package__)
print(differential_package.DATA)
print(differential_package.sub.__package__, differential_package.__path__ == [differential_package.__file__.rsplit('/', 1)[0]])

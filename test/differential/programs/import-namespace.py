import importlib.util

import differential_namespace.part

print(differential_namespace.part.NAME, differential_namespace.__file__)
print(importlib.util.find_spec('differential_namespace.missing'))
from differential_namespace import missing

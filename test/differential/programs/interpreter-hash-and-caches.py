import functools
import re
import sys

print(sys.flags.hash_randomization, hash(1), hash((1, 2)), hash(2.5), hash(''))
print(sys.intern('differential ' + 'name') is sys.intern('differential name'))
print(len(re._cache) if 're' in sys.modules else 0, functools.lru_cache(lambda: 1).cache_info())
print(type(sys.getallocatedblocks()), sys.getsizeof([]), sys.getsizeof({}), sys.getsizeof(globals()) > 100)

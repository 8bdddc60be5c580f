"""
>>> 1 + 1
2
>>> 1 + 1
3
>>> {}['x']
Traceback (most recent call last):
KeyError: 'x'
"""
import doctest

print(doctest.testmod())

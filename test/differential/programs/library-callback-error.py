import ctypes
import sys

callback = ctypes.CFUNCTYPE(ctypes.c_int)


def fails():
    raise ValueError('in a C callback')


sys.unraisablehook = lambda u: print('unraisable:', u.exc_type.__name__, u.exc_value)
print(callback(fails)())

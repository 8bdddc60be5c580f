import ctypes
import ctypes.util

libc = ctypes.CDLL(None, use_errno=True)
for name in ('syscall', 'prctl', 'mount', 'getenv', 'prlimit', 'getrusage'):
    function = getattr(libc, name)
    print(name, function.argtypes, function.restype)
print(ctypes.pythonapi.Py_IncRef.argtypes, ctypes.pythonapi.PyMem_RawMalloc.restype, ctypes.get_errno())
print(ctypes._endian.__name__, ctypes.cdll._dll if hasattr(ctypes.cdll, '_dll') else sorted(vars(ctypes.cdll)), sorted(vars(ctypes.pythonapi)))
print(libc.getpid() > 0, ctypes.CFUNCTYPE(ctypes.c_int)(lambda: 7)() if False else 'no callback')

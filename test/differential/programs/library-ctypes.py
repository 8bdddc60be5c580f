import ctypes

libc = ctypes.CDLL(None, use_errno=True)
compare = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int), ctypes.POINTER(ctypes.c_int))
numbers = (ctypes.c_int * 5)(5, 1, 4, 2, 3)
libc.qsort(numbers, 5, 4, compare(lambda a, b: a[0] - b[0]))
print(list(numbers), libc.abs(-7), libc.strlen(b'hello'))


class Pair(ctypes.Structure):
    _fields_ = [('a', ctypes.c_uint8), ('b', ctypes.c_uint32)]


print(ctypes.sizeof(Pair), bytes(Pair(1, 2)))
print(libc.open(b'/nonexistent', 0), ctypes.get_errno())
libc.printf(b'%d from C\n', ctypes.c_int(5))
libc.puts(b'C buffers its own')
libc.fflush(None)
print('python')
libc.puts(b'flushed at exit')

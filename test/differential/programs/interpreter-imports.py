import sys

for name in ('ctypes', 'select', 'socket', 'gc', '_signal', '_socket', 'importlib', 'importlib.machinery', 'threading', 'random', 'ssl', 'uuid', 'decimal', 'json', 'typing', 'multiprocessing', 'site', 'sitecustomize_differential'):
    before = set(sys.modules)
    try:
        module = __import__(name, fromlist=['x'])
    except ImportError as error:
        print(name, error)
        continue
    print(name, name in before, sorted(set(sys.modules) - before), getattr(module, '__file__', None), module.__spec__.origin, type(module.__loader__).__name__, module.__name__)
print(ctypes_value := __import__('ctypes').c_int(5), __import__('ctypes').CDLL(None).abs(-4), __import__('ctypes').get_errno())
import importlib
import os
import select
import socket

print(importlib.reload(os) is os, importlib.reload(socket) is socket, importlib.reload(importlib.import_module('ctypes')).sizeof(__import__('ctypes').c_long))
left, right = socket.socketpair()
left.send(b'x')
print(select.select([right], [], [], 1)[0] == [right], select.poll().poll(0), select.epoll().poll(0))

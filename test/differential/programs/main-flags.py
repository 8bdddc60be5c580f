import os
import sys

print(sys.flags)
print(sys.warnoptions, sys._xoptions, sys.dont_write_bytecode, sys.pycache_prefix, sys.getswitchinterval(), sys.getrecursionlimit())
print(sys.path[0] == os.getcwd(), os.path.basename(sys.argv[0]), hasattr(sys, 'ps1'), hasattr(sys, 'last_value'))
print(sys.gettrace(), sys.getprofile(), sys.excepthook is sys.__excepthook__, sys.displayhook is sys.__displayhook__)
print(sys.byteorder, sys.maxsize, sys.platform, sys.implementation.name, sys.version_info[:2])

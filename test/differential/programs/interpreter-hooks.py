import _thread
import atexit
import codecs
import os
import sys
import traceback

print(atexit._ncallbacks(), _thread._count(), len(sys._current_frames()), len(sys._current_exceptions()))
print(sys.gettrace(), sys.getprofile(), sys.get_asyncgen_hooks(), sys.get_coroutine_origin_tracking_depth())
print([getattr(sys, name) is getattr(sys, f'__{name}__') for name in ('excepthook', 'displayhook', 'breakpointhook', 'unraisablehook', 'stdin', 'stdout', 'stderr')])
print(sys.__interactivehook__.__qualname__, hasattr(sys, 'last_type'), hasattr(sys, 'ps1'), sys.exc_info(), sys.is_finalizing())
print(sys.getswitchinterval(), sys.getdlopenflags() == os.RTLD_NOW, sys.thread_info, sys.hash_info.algorithm, sys.flags)
print(len(traceback.extract_stack()), sys._getframe().f_back, sys._getframe().f_lineno, sys._getframe().f_code.co_name)
print(codecs.lookup('utf-8').name, codecs.lookup('latin-1').name)
try:
    codecs.lookup('no-such-codec')
except LookupError as error:
    print(error)

import os
import threading

main = threading.main_thread()
print(main.name, main is threading.current_thread())
print(main.native_id == os.getpid() == threading.get_native_id(), main.ident == threading.get_ident())
print([thread.name for thread in threading.enumerate()], main.daemon, threading.stack_size())
print(os.listdir('/proc/self/task') == [str(os.getpid())])

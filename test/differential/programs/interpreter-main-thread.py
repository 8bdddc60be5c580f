import os
import threading

main = threading.main_thread()
print(main.native_id == os.getpid() == threading.get_native_id() == int(os.readlink('/proc/thread-self').split('/')[-1]))
print(main.ident == threading.get_ident() == threading.current_thread().ident, main is threading.current_thread())
print(main.name, main.is_alive(), main.daemon, threading.active_count(), threading.enumerate() == [main])
print(threading.stack_size(), threading.excepthook is threading.__excepthook__, threading._shutdown_locks, threading._dangling is not None)
print(os.listdir('/proc/self/task') == [str(os.getpid())], os.getsid(0) == os.getpid() == os.getpgid(0))

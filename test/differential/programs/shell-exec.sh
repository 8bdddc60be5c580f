echo before
exec python3 -c 'import os, signal; print("python", flush=True); os.kill(os.getpid(), signal.SIGABRT)'

import os
import signal

signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGUSR2])
os.kill(os.getpid(), signal.SIGUSR1)
os.kill(os.getpid(), signal.SIGUSR2)
print(sorted(signal.sigpending()))
print(signal.sigwait([signal.SIGUSR1]))
info = signal.sigwaitinfo([signal.SIGUSR2])
print(info.si_signo, info.si_pid == os.getpid(), info.si_uid == os.getuid())
print(signal.sigtimedwait([signal.SIGUSR1], 0.01))
print(sorted(signal.pthread_sigmask(signal.SIG_UNBLOCK, [])))

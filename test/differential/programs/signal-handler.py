import os
import signal


def handler(number, frame):
    print('got', signal.Signals(number).name, 'in', frame.f_code.co_name)


for name in ('SIGTERM', 'SIGHUP', 'SIGUSR1', 'SIGUSR2', 'SIGINT', 'SIGWINCH', 'SIGCHLD', 'SIGQUIT'):
    signal.signal(getattr(signal, name), handler)
    os.kill(os.getpid(), getattr(signal, name))
signal.raise_signal(signal.SIGTERM)
print(signal.strsignal(15), signal.getsignal(signal.SIGTERM) is handler)

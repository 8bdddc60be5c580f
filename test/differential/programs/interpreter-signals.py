import signal

for number in sorted(signal.valid_signals()):
    found = signal.getsignal(number)
    print(number, found if not callable(found) else getattr(found, '__name__', found))
for line in open('/proc/self/status'):
    if line.startswith(('Sig', 'Shd')) and not line.startswith('SigQ'):
        print(line, end='')
print(signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.sigpending(), signal.set_wakeup_fd(-1), signal.getitimer(signal.ITIMER_REAL))

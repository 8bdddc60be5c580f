import signal

for number in sorted(signal.valid_signals()):
    print(int(number), signal.getsignal(number))
print(signal.pthread_sigmask(signal.SIG_BLOCK, []), signal.sigpending())
for line in open('/proc/self/status'):
    if line.startswith(('SigIgn', 'SigBlk', 'SigCgt', 'SigPnd', 'ShdPnd')):
        print(line, end='')
print(signal.getitimer(signal.ITIMER_REAL), signal.alarm(0), signal.set_wakeup_fd(-1))

import signal
import time

ticks = []
signal.signal(signal.SIGALRM, lambda number, frame: ticks.append(number))
signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
while len(ticks) < 3:
    signal.pause()
print(signal.setitimer(signal.ITIMER_REAL, 0)[1] > 0, ticks[:3])
signal.signal(signal.SIGVTALRM, lambda number, frame: ticks.append(number))
signal.setitimer(signal.ITIMER_VIRTUAL, 0.01)
while signal.SIGVTALRM not in ticks:
    pass
print(signal.alarm(100), signal.alarm(0))


class Late(Exception):
    pass


def late(number, frame):
    raise Late('too late')


signal.signal(signal.SIGALRM, late)
signal.setitimer(signal.ITIMER_REAL, 0.05)
time.sleep(10)

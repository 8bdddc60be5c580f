import cProfile
import io
import pstats
import sys

seen = []


def work():
    return sum(range(10))


sys.settrace(lambda frame, event, argument: seen.append((frame.f_code.co_name, event)))
work()
sys.settrace(None)
print(seen)
profile = cProfile.Profile()
profile.runcall(work)
print([key[2] for key in sorted(pstats.Stats(profile, stream=io.StringIO()).stats)])
sys.addaudithook(lambda event, arguments: print(event) if event == 'differential' else None)
sys.audit('differential')

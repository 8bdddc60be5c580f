import sys

events = []


def tracer(frame, event, argument):
    if frame.f_code.co_filename == __file__:
        events.append((event, frame.f_code.co_name, frame.f_lineno))
    return tracer


def f(n):
    if n:
        return f(n - 1)
    return 0


sys.settrace(tracer)
f(2)
sys.settrace(None)
print(events)

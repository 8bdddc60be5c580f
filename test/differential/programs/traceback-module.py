import sys
import traceback


def fails():
    local = 'value'
    raise ValueError('one\ntwo')


try:
    fails()
except ValueError as error:
    for line in traceback.format_exception(error):
        print(repr(line))
    summary = traceback.TracebackException.from_exception(error, capture_locals=True)
    for frame in summary.stack:
        print(frame.name, frame.lineno, frame.line, frame.locals.get('local') if frame.name == 'fails' else None)
    print(traceback.format_exception_only(error))
    print(len(traceback.extract_tb(sys.exc_info()[2])))
    traceback.print_tb(error.__traceback__)

import sys


class Resource:
    def __del__(self):
        raise OSError('failed in __del__')


class Last:
    def __del__(self):
        print('deleted at exit')


def hook(unraisable):
    print('unraisable', unraisable.exc_type.__name__, unraisable.exc_value)


sys.unraisablehook = hook
Resource()
keep = Last()
print('end')

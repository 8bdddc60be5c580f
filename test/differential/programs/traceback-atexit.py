import atexit


@atexit.register
def first():
    print('first registered runs last', flush=True)


class Second:
    def __call__(self):
        raise RuntimeError('at exit')

    def __repr__(self):
        return 'Second()'


atexit.register(Second())


@atexit.register
def third():
    print('last registered runs first', flush=True)


raise KeyError('the program itself')

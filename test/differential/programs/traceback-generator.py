def numbers():
    try:
        yield 1
        yield 2
    finally:
        print('generator closed')


def chain():
    yield from numbers()


generator = chain()
print(next(generator))
try:
    generator.throw(ValueError('thrown in'))
except ValueError:
    import traceback

    traceback.print_exc()


def stops():
    raise StopIteration('inside')
    yield


next(stops())

def one():
    raise ValueError('first')


def two():
    try:
        {}['k']
    except KeyError as error:
        raise TypeError('second') from error


def collect(*functions):
    found = []
    for function in functions:
        try:
            function()
        except Exception as error:
            found.append(error)
    return found


inner = ExceptionGroup('inner', collect(one))
raise BaseExceptionGroup('outer', [*collect(one, two), inner, BaseExceptionGroup('base', [SystemExit(3), KeyError(1)])])

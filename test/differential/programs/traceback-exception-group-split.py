try:
    try:
        raise ExceptionGroup('many', [ValueError(1), TypeError(2), ExceptionGroup('deep', [ValueError(3), OSError(4)])])
    except* ValueError as group:
        print('values', group.exceptions)
    except* TypeError as group:
        print('types', group.exceptions)
        raise RuntimeError('in handler')
except BaseException as error:
    print(repr(error))
    raise

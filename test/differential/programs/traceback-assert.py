def check(value):
    assert isinstance(value, int), f'not an int: {value!r}'


check(1)
check('1')

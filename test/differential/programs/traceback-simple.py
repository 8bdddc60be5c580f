def inner(divisor):
    return 10 / divisor


def outer():
    print('before')
    return inner(0)


outer()

data = {'a': {'b': [1, 2, {'c': None}]}}


def add(left, right):
    return left + right


def nested():
    return (
        add(1, 2)
        + add(
            data['a']['b'][2]['c'],
            5,
        )
    )


try:
    data['a']['b'][2]['c']['d']['e']
except TypeError:
    import traceback

    traceback.print_exc()
nested()

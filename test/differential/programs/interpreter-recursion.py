import sys


def depth():
    try:
        return depth() + 1
    except RecursionError:
        return 1


def nested(levels):
    value = []
    for _ in range(levels):
        value = [value]
    return value


print(sys.getrecursionlimit(), depth())
for levels in range(970, 1000):
    try:
        repr(nested(levels))
    except RecursionError:
        print('too deep at', levels)
        break
sys.setrecursionlimit(20_000)
print(depth())
print(len(repr(nested(9000))))

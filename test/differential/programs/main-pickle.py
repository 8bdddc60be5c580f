import copyreg
import pickle
from dataclasses import dataclass, field
from enum import Enum


class Colour(Enum):
    RED = 1


@dataclass
class Point:
    x: int
    y: list = field(default_factory=list)


class Custom:
    def __reduce__(self):
        return Point, (9,)


for value in (Point(1, [2]), Colour.RED, Custom(), Point, len):
    data = pickle.dumps(value)
    print(b'__main__' in data, pickle.loads(data))
try:
    pickle.dumps(lambda: 1)
except Exception as error:
    print(type(error).__name__, str(error).split(' at 0x')[0])


def local():
    class Inner:
        pass

    return Inner()


try:
    pickle.dumps(local())
except Exception as error:
    print(type(error).__name__, error)

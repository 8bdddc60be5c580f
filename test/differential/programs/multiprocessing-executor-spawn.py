from concurrent.futures import ProcessPoolExecutor
import multiprocessing
from dataclasses import dataclass


@dataclass
class Point:
    x: int
    y: int


def mirror(point):
    return Point(point.y, point.x)


if __name__ == '__main__':
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context('spawn')) as pool:
        print(list(pool.map(mirror, [Point(1, 2), Point(3, 4)])))

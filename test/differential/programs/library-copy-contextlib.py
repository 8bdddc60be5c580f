import contextlib
import copy
import dataclasses
import enum
import functools
import operator
import typing


@contextlib.contextmanager
def managed(name):
    print('enter', name)
    try:
        yield name.upper()
    except ValueError as error:
        print('swallowed', error)
    finally:
        print('exit', name)


with contextlib.ExitStack() as stack:
    print([stack.enter_context(managed(name)) for name in 'ab'])
    raise ValueError('x')


@functools.lru_cache
def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


print(fib(100), fib.cache_info(), functools.reduce(operator.mul, range(1, 6)))


@dataclasses.dataclass(order=True, frozen=True)
class Row:
    a: int
    b: typing.Optional[str] = None


print(sorted([Row(2), Row(1, 'x')]), dataclasses.asdict(Row(1)), copy.replace(Row(1), a=5) if hasattr(copy, 'replace') else '')


class Flag(enum.Flag):
    A = enum.auto()
    B = enum.auto()


print(Flag.A | Flag.B, Flag(0), typing.get_type_hints(Row))
match {'kind': 'point', 'at': [1, 2, 3]}:
    case {'kind': 'point', 'at': [x, *rest]}:
        print(x, rest)
Row(1).a = 2

"""The module's own docstring."""

from __future__ import annotations

print(__doc__)


def f(x: Undefined) -> Missing: ...


print(f.__annotations__)

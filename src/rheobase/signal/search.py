"""One search for a width."""

from __future__ import annotations

import math
from collections.abc import Callable

from rheobase.surrogate import Surrogate


def stretched(
    surrogate: Surrogate, size: Callable[[Surrogate], float], most: float, near: float = 0.0
) -> tuple[float, bool]:
    """How much a surrogate has to be stretched for a size that grows with its width to be 1.

    By halving, from the given width on.

    Args:
        surrogate: that is stretched.
        size: of something, with a surrogate.
        most: so many times as wide, or as narrow, it may become.
        near: how near to 1, as a logarithm, is enough.

    Returns:
        The logarithm of the factor, and whether 1 is within reach. If not, it is the end that comes nearest, or 0 where
        no width changes anything.
    """

    def excess(log: float) -> float:
        found = size(surrogate.stretched(math.exp(log)))
        return math.log(found) if found > 0 else -math.inf

    here = excess(0.0)
    if abs(here) <= near:
        return 0.0, True
    end = -math.log(most) if here > 0 else math.log(most)
    there = excess(end)
    if (here > 0) == (there > 0):
        return (0.0 if there == here or abs(there - here) <= near else end), False
    low, high = sorted((0.0, end))
    for _ in range(12):
        middle = (low + high) / 2
        off = excess(middle)
        if abs(off) <= near:
            break
        low, high = (low, middle) if off > 0 else (middle, high)
    return middle, True

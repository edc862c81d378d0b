"""One search for a width."""

from __future__ import annotations

import math
from collections.abc import Callable

from rheobase.surrogate import Surrogate


def stretched(
    surrogate: Surrogate, size: Callable[[Surrogate], float], most: float, near: float = 1e-4, begin: float = 0.0
) -> tuple[float, bool]:
    """How much a surrogate has to be stretched for a size that grows with its width to be 1.

    By secants on logarithms, between what is known to be too narrow and too wide; by halving where they leave it.

    Args:
        surrogate: that is stretched.
        size: of something, with a surrogate.
        most: so many times as wide, or as narrow, it may become.
        near: how near to 1, as a logarithm, is enough.
        begin: the logarithm of the factor that is tried first.

    Returns:
        The logarithm of the factor, and whether 1 is within reach. If not, it is the end that comes nearest, or 0 where
        no width changes anything.
    """

    def excess(log: float) -> float:
        found = size(surrogate.stretched(math.exp(log)))
        return math.log(found) if found > 0 else -math.inf

    end = math.log(most)
    low, high, unseen = -end, end, {-end, end}
    at, here, slope = begin, excess(begin), 1.0
    first = here
    for count in range(20):
        if abs(here) <= near:
            break
        unseen.discard(at)
        last = -end if here > 0 else end
        if at == last:
            other = first if count else excess(0.0)
            flat = here == other or abs(here - other) <= near
            return 0.0 if flat else at, False
        low, high = (low, at) if here > 0 else (at, high)
        then = at - here / slope if slope > 0 else last
        if not low < then < high and last in unseen and last in (low, high):
            then = last
        elif not low < then < high or count % 4 == 3:
            then = (low + high) / 2
        there = excess(then)
        slope = (there - here) / (then - at) if math.isfinite(there - here) else 0.0
        at, here = then, there
    return at, abs(here) <= near

"""One search for a width."""

import math

import pytest

import rheobase as rb
from rheobase.signal.search import stretched
from rheobase.surrogate import Surrogate

SHAPE = rb.surrogate.Rectangle(2.0)


def width(surrogate: Surrogate) -> float:
    return surrogate.parameter


@pytest.mark.parametrize("factor", [0.02, 0.5, 1.0, 1.01, 7.0, 90.0])
def test_it_finds_the_width(factor: float) -> None:
    log, reached = stretched(SHAPE, lambda s: width(s) / (2 * factor), most=100.0)
    assert reached
    assert math.exp(log) == pytest.approx(factor, rel=2e-3)
    near, _ = stretched(SHAPE, lambda s: width(s) / (2 * factor), most=100.0, near=0.1)
    assert abs(near - math.log(factor)) <= 0.1


def test_what_is_out_of_reach_is_the_nearest_end() -> None:
    for factor, end in ((200.0, 100.0), (0.001, 0.01)):
        log, reached = stretched(SHAPE, lambda s, factor=factor: width(s) / (2 * factor), most=100.0)  # type: ignore[misc]
        assert not reached
        assert math.exp(log) == pytest.approx(end)


def test_where_no_width_changes_anything_it_stays() -> None:
    for size in (0.0, 0.3, 5.0):
        assert stretched(SHAPE, lambda _, size=size: size, most=100.0, near=0.02) == (0.0, False)  # type: ignore[misc]

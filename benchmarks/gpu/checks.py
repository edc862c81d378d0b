"""What a check finds, and how far two results are from each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

Found = dict[str, Tensor]
"""Results by name, float64 on the CPU."""


class Check(NamedTuple):
    """A claim, whether it holds (None: it could not be looked at), and what was seen."""

    name: str
    holds: bool | None
    seen: str
    distance: float | None = None
    dtype: str = ""

    def to_dict(self) -> dict[str, object]:
        """For JSON, which has no infinity."""
        finite = self.distance is not None and self.distance < float("inf")
        return self._asdict() | {"distance": self.distance if finite else None}


def attempt(name: str, claim: Callable[[], str | None]) -> Check:
    """A claim that raises, if it does not hold, and may say what it saw."""
    try:
        return Check(name, True, claim() or "")
    except Exception as error:  # whatever a device raises is the finding
        return Check(name, False, in_words(error))


def in_words(error: Exception) -> str:
    """An error on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def plain(tensors: Mapping[str, Tensor | None]) -> Found:
    """Copies of those that there are, to be compared."""
    return {name: t.detach().to("cpu", torch.float64, copy=True) for name, t in tensors.items() if t is not None}


def distance(got: Tensor, want: Tensor) -> float:
    """L2 norm of the difference over that of what is wanted; infinite where either is not finite."""
    if got.shape != want.shape or not got.isfinite().all() or not want.isfinite().all():
        return float("inf")
    return float((got - want).norm() / want.norm().clamp(min=1e-30))


def farthest(got: Found, want: Found) -> tuple[float, str]:
    """The largest distance of two results of one name, and the name.

    Raises:
        AssertionError: they have different names.
    """
    assert got.keys() == want.keys(), f"results are {sorted(got)}, wanted {sorted(want)}"
    return max((distance(got[name], want[name]), name) for name in want)


def close(got: Tensor, want: Tensor, bound: float, what: str) -> None:
    """Two tensors are within a distance.

    Raises:
        AssertionError: they are not.
    """
    far = distance(*plain({"got": got, "want": want}).values())
    assert far <= bound, f"{what} differ by {far:.1e} of their size, wanted at most {bound:g}"

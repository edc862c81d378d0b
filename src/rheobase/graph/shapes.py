"""What moves or leaves out values, and pooling over a size that the input tells, as modules of batches `[B, ...]`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

Index = tuple[slice | int, ...]


class Flat(nn.Flatten):
    """`x.view(len(x), features)`.

    Raises:
        ValueError: a sample has another number of values, of which `x.view(-1, features)` would make other samples.
    """

    def __init__(self, features: int) -> None:
        super().__init__(1)
        self.features = features

    def forward(self, input: Tensor) -> Tensor:
        """A row for each sample."""
        found = super().forward(input)
        if found.shape[1] != self.features:
            raise ValueError(
                f"view(-1, {self.features}): a sample must have {self.features} values, got {list(input.shape)}"
            )
        return found

    def extra_repr(self) -> str:
        """The arguments."""
        return f"{self.features}"


class Squeeze(nn.Module):
    """`x.squeeze(dims)`.

    Raises:
        ValueError: an axis is that of the batch.
    """

    def __init__(self, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        """The same values."""
        without_batch(f"squeeze({self.dims})", x, self.dims)
        return x.squeeze(self.dims)

    def extra_repr(self) -> str:
        """The arguments."""
        return f"{self.dims}"


class Slice(nn.Module):
    """`x[:, ...]` with an index for some axes behind the batch's."""

    def __init__(self, index: Index) -> None:
        super().__init__()
        self.index = index

    def forward(self, x: Tensor) -> Tensor:
        """Some of the values."""
        return x[(slice(None), *self.index)]

    def extra_repr(self) -> str:
        """The arguments."""
        told = [str(one) if isinstance(one, int) else _told(one) for one in self.index]
        return f"[{', '.join([':', *told])}]"


def _told(one: slice) -> str:
    start, stop, step = ("" if value is None else str(value) for value in (one.start, one.stop, one.step))
    return f"{start}:{stop}" + (f":{step}" if step else "")


class PoolOfSize(nn.Module):
    """`F.avg_pool2d(x, x.shape[axes])`, or that of 1 or 3 dimensions: mostly all places.

    Raises:
        ValueError: an axis is that of the batch.
    """

    def __init__(self, dimensions: int, axes: int | slice) -> None:
        super().__init__()
        self.pool: Any = getattr(F, f"avg_pool{dimensions}d")
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        """The means."""
        axes = range(x.dim())[self.axes]
        without_batch(f"pooling over {self.extra_repr()}", x, axes if isinstance(axes, range) else (axes,))
        pooled: Tensor = self.pool(x, x.shape[self.axes])
        return pooled

    def extra_repr(self) -> str:
        """The arguments."""
        axes = _told(self.axes) if isinstance(self.axes, slice) else self.axes
        return f"x.shape[{axes}]"


def without_batch(what: str, x: Tensor, axes: Iterable[int]) -> None:
    """Refuse axes, counted from the front or the back, that reach the batch: in time it is steps and samples."""
    if any(axis in (0, -x.dim()) for axis in axes):
        raise ValueError(f"{what}: it must leave the batch alone, which is the first of the axes of {list(x.shape)}")


VIEWS = (nn.Flatten, Squeeze, Slice)
"""What may give the memory that it is given."""


def plain(index: Any) -> Index | None:
    """An index of plain numbers that leaves the batch alone, without its first place; None: it is none."""
    if not isinstance(index, tuple) or not index or index[0] != slice(None):
        return None
    return index[1:] if numbers(*index[1:]) else None


def numbers(*indices: Any) -> bool:
    """Whether they are plain numbers, and slices of such."""
    return all(
        type(one) is int or (isinstance(one, slice) and {type(n) for n in (one.start, one.stop, one.step)} <= _PLAIN)
        for one in indices
    )


_PLAIN = {int, type(None)}

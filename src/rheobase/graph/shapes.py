"""What moves or leaves out values, and pooling over a size that the input tells, as modules of batches `[B, ...]`."""

from __future__ import annotations

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
    """`x.squeeze(dims)`, without the batch's axis."""

    def __init__(self, dims: tuple[int, ...]) -> None:
        super().__init__()
        self.dims = dims

    def forward(self, x: Tensor) -> Tensor:
        """The same values."""
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
    """`F.avg_pool2d(x, x.shape[axes])`, or that of 1 or 3 dimensions: mostly all places."""

    def __init__(self, dimensions: int, axes: int | slice) -> None:
        super().__init__()
        self.pool: Any = getattr(F, f"avg_pool{dimensions}d")
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        """The means."""
        pooled: Tensor = self.pool(x, x.shape[self.axes])
        return pooled

    def extra_repr(self) -> str:
        """The arguments."""
        axes = _told(self.axes) if isinstance(self.axes, slice) else self.axes
        return f"x.shape[{axes}]"


VIEWS = (nn.Flatten, Squeeze, Slice)
"""What may give the memory that it is given."""


def plain(index: Any) -> Index | None:
    """An index of plain numbers that leaves the batch alone, without its first place; None: it is none."""
    if not isinstance(index, tuple) or not index or index[0] != slice(None):
        return None
    rest = index[1:]
    known = all(
        type(one) is int or (isinstance(one, slice) and {type(n) for n in (one.start, one.stop, one.step)} <= _PLAIN)
        for one in rest
    )
    return rest if known else None


_PLAIN = {int, type(None)}

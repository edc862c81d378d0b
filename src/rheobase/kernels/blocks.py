"""Blocks of neurons walked together, and the channels in them.

A tensor is seen as rows `[T, N]` in storage order. A channel's factor is read from a row of the block's length.
`inner` neighbours share a channel (1 in channels-last storage); where whole patterns of channels fit into a block, one
row serves all blocks (`plane` = 0); else a block stays within a plane of `plane` = `inner` neighbours and the row is
filled anew.
"""

# ruff: noqa: N803, N806  (N and C are axes, as everywhere)

from __future__ import annotations

from rheobase.kernels.intrinsics import least, row
from rheobase.kernels.jit import Array, called, exact, f32
from rheobase.kernels.rows import add, assign, copy, total


@exact
def count(N: int, w: int, plane: int) -> int:
    """How many blocks there are."""
    if plane == 0:
        return (N + w - 1) // w
    return N // plane * ((plane + w - 1) // w)


@exact
def share(piece: int, pieces: int, size: int) -> tuple[int, int]:
    """Where a piece's part of `size` things begins and ends."""
    return piece * size // pieces, (piece + 1) * size // pieces


@exact
def block(b: int, N: int, w: int, plane: int) -> tuple[int, int, int]:
    """Start and size of block b, and its plane (0 when the pattern of channels repeats)."""
    if plane == 0:
        return b * w, least(w, N - b * w), 0
    per = (plane + w - 1) // w
    p = b // per
    start = (b - p * per) * w
    return p * plane + start, least(w, plane - start), p


@called
def fill(factors: Array, values: Array, inner: int, plane: int, p: int) -> None:
    """The factor of each neuron of a block, from one value a channel, or one in all."""
    C = values.size
    if plane or C == 1:
        assign(factors, values[p % C])
    elif inner == 1:
        for start in range(0, factors.size, C):
            copy(values, row(factors, start, C))
    else:
        for start in range(0, factors.size, inner):
            assign(row(factors, start, inner), values[start // inner % C])


@called
def collect(sums: Array, lanes: Array, inner: int, plane: int, p: int) -> None:
    """Add the lanes of a block to the sums of their channels, and set them to zero."""
    C = sums.size
    if plane == 0 and inner == 1:
        for start in range(0, lanes.size, C):
            add(sums, row(lanes, start, C))
    else:
        step = lanes.size if plane else inner
        for start in range(0, lanes.size, step):
            sums[p % C if plane else start // inner % C] += total(row(lanes, start, step))
    assign(lanes, f32(0))

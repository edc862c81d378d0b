"""Blocks of neurons walked together, and the channels in them.

A tensor is seen as rows `[T, N]` in storage order, and each row as spans, which are cut into blocks. A factor of a
channel (or of a neuron) is read from a row of the block's length. `inner` neighbours share a channel (1 in
channels-last storage). Where whole patterns of channels fit into a block, one row serves all blocks; else (`anew`) a
span is a pattern or, if `inner` is not 1, the neighbours of one channel, and the row is filled for each block.
"""

# ruff: noqa: N806  (N and C are axes, as everywhere)

from __future__ import annotations

from rheobase.kernels.numba.intrinsics import least, row
from rheobase.kernels.numba.jit import Array, called, exact, f32
from rheobase.kernels.numba.rows import add, assign, copy, total


@exact
def share(piece: int, pieces: int, size: int) -> tuple[int, int]:
    """Where a piece's part of `size` things begins and ends."""
    return piece * size // pieces, (piece + 1) * size // pieces


@exact
def block(b: int, w: int, span: int, per: int) -> tuple[int, int]:
    """Start and size of block b; `per` are in a span. (A division takes as long as many neurons.)"""
    if b < per:
        return b * w, least(w, span - b * w)
    start = (b % per) * w
    return b // per * span + start, least(w, span - start)


@called
def fill(factors: Array, values: Array, inner: int, anew: bool, lo: int) -> None:
    """The factor of each neuron of the block at `lo`, from one value a channel, or one in all."""
    C = values.size
    if C == 1:
        assign(factors, values[0])
    elif inner == 1 and anew:
        copy(row(values, lo % C, factors.size), factors)
    elif inner == 1:
        for start in range(0, factors.size, C):
            copy(values, row(factors, start, C))
    elif anew:
        assign(factors, values[lo // inner % C])
    else:
        for start in range(0, factors.size, inner):
            assign(row(factors, start, inner), values[start // inner % C])


@called
def collect(sums: Array, lanes: Array, inner: int, anew: bool, lo: int) -> None:
    """Add the lanes of the block at `lo` to the sums of their channels, and set them to zero."""
    C = sums.size
    if C == 1:
        sums[0] += total(lanes)
    elif inner == 1 and anew:
        add(row(sums, lo % C, lanes.size), lanes)
    elif inner == 1:
        for start in range(0, lanes.size, C):
            add(sums, row(lanes, start, C))
    elif anew:
        sums[lo // inner % C] += total(lanes)
    else:
        for start in range(0, lanes.size, inner):
            sums[start // inner % C] += total(row(lanes, start, inner))
    assign(lanes, f32(0))

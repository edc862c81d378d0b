"""What a thread works in, and the numbers of a neuron and a norm as it reads them.

A kernel allocates nothing, since what fails inside it cannot be told: each thread has its own part of one tensor,
`room` bytes from address `mine` on. That holds ROWS rows of a block's length, `pitch` bytes from each other, three rows
of a value a channel, `channel_pitch` apart, and rows of a block's length for each time step.
"""

# ruff: noqa: N806  (P is a pitch, as everywhere)

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types
from numba.extending import overload

from rheobase.kernels.numba.blocks import fill
from rheobase.kernels.numba.intrinsics import array, row
from rheobase.kernels.numba.jit import OPTIONS, Array, called, exact, f32, f64, i64
from rheobase.kernels.numba.rows import assign, copy

LANES = 8  # the first of up to seven rows that sums gather in
FIRST = 17  # the first of the seven that hold a neuron's numbers


@called
def number(job: Any, address: int, size: int, lo: int, target: Array) -> None:
    """A neuron's number, of which there are `size`, for the block at `lo`."""
    if size == 1 or size == job.C:
        fill(target, array(address, size, f32), job.inner, job.anew, lo)
    else:
        copy(array(address + 4 * (lo % size), target.size, f32), target)


@exact
def _one_each(job: Any) -> Any:
    return (
        array(job.n_decay, 1, f32)[0],
        array(job.n_threshold, 1, f32)[0],
        array(job.n_input_scale, 1, f32)[0],
        array(job.n_leak, 1, f32)[0],
        array(job.n_adaptation, 1, f32)[0],
        array(job.n_width, 1, f32)[0],
        array(job.n_height, 1, f32)[0],
    )


@exact
def _row_each(job: Any, mine: int) -> Any:
    w, start, P = job.width, mine + FIRST * job.pitch, job.pitch
    found = (
        array(start, w, f32),
        array(start + P, w, f32),
        array(start + 2 * P, w, f32),
        array(start + 3 * P, w, f32),
        array(start + 4 * P, w, f32),
        array(start + 5 * P, w, f32),
        array(start + 6 * P, w, f32),
    )
    _fill_all(job, found, 0, w, True)
    return found


@exact
def _fill(job: Any, address: int, size: int, lo: int, n: int, target: Array, first: bool) -> None:
    if first or (size > 1 and (job.anew or size != job.C)):
        number(job, address, size, lo, row(target, 0, n))


@called
def _fill_all(job: Any, found: Any, lo: int, n: int, first: bool) -> None:
    _fill(job, job.n_decay, job.size_decay, lo, n, found[0], first)
    _fill(job, job.n_threshold, job.size_threshold, lo, n, found[1], first)
    _fill(job, job.n_input_scale, job.size_input_scale, lo, n, found[2], first)
    _fill(job, job.n_leak, job.size_leak, lo, n, found[3], first)
    _fill(job, job.n_adaptation, job.size_adaptation, lo, n, found[4], first)
    _fill(job, job.n_width, job.size_width, lo, n, found[5], first)
    _fill(job, job.n_height, job.size_height, lo, n, found[6], first)


def numbers(job: Any, mine: int, rows: tuple[int, ...]) -> Any:
    """Decay, threshold, input scale, leak, adaptation, and the surrogate's width and height.

    With rows = () they are numbers, with (1,) rows, filled for the first block. (Chosen by type: Numba finds no kernel
    on disk that has a function among its own variables.)
    """
    raise TypeError


@overload(numbers, jit_options=OPTIONS, strict=False)  # type: ignore[arg-type]
def _numbers(job: Any, mine: Any, rows: Any) -> Any:
    if rows.count:
        return lambda job, mine, rows: _row_each(job, mine)
    return lambda job, mine, rows: _one_each(job)


def refill(job: Any, found: Any, lo: int, n: int) -> None:
    """Fill the rows for the block of n neurons at `lo`, where they differ from block to block."""
    raise TypeError


@overload(refill, jit_options=OPTIONS, strict=False)  # type: ignore[arg-type]
def _refill(job: Any, found: Any, lo: Any, n: Any) -> Any:
    if isinstance(found.dtype, types.Array):
        return lambda job, found, lo, n: _fill_all(job, found, lo, n, False)
    return lambda job, found, lo, n: None


@exact
def variance(job: Any, c: int) -> Any:
    """Of a channel."""
    m2 = array(job.m2, job.C, f64)[c]
    return m2 / job.count if job.count > 0 else m2


@called
def affine(job: Any, normed: bool, scale: Array, shift: Array, scales: Array, shifts: Array) -> bool:
    """The norm as scale and shift of what goes through it: of channels, and of a block; 1 and 0 for none.

    Returns whether those of a block are to be filled anew for each.
    """
    if not normed:
        assign(scales, f32(1))
        assign(shifts, f32(0))
        return False
    weight, bias, mean = array(job.weight, job.C, f32), array(job.bias, job.C, f32), array(job.mean, job.C, f64)
    for c in range(job.C):
        k = weight[c] / np.sqrt(variance(job, c) + job.eps)
        scale[c] = k
        shift[c] = bias[c] - mean[c] * k
    if not job.anew:
        fill(scales, scale, job.inner, job.anew, i64(0))
        fill(shifts, shift, job.inner, job.anew, i64(0))
    return bool(job.anew)


@exact
def read(address: int, start: int, v: Array) -> None:
    """V = a part of a state, or zeros where there is no state."""
    if address:
        copy(array(address + 4 * start, v.size, f32), v)
    else:
        assign(v, f32(0))


@exact
def write(v: Array, address: int, start: int) -> None:
    """The reverse, where it is wanted."""
    if address:
        copy(v, array(address + 4 * start, v.size, f32))


@called
def sum_up(job: Any) -> None:
    """The sums of the first piece become those of all."""
    size = job.sum_rows * job.C
    sums = array(job.sums, job.pieces * size, f64)
    for piece in range(1, job.pieces):
        for i in range(size):
            sums[i] += sums[piece * size + i]

"""Kernels that turn spikes into bytes and back (`packing.py`)."""

from __future__ import annotations

from functools import cache
from typing import Any

from numba import carray  # type: ignore[attr-defined]

from rheobase.kernels.numba.blocks import share
from rheobase.kernels.numba.intrinsics import array, enter, fence, finish, least, row, stream, take
from rheobase.kernels.numba.jit import Kernel, f64, u8
from rheobase.kernels.numba.rows import pack as pack_row
from rheobase.kernels.numba.rows import unpack as unpack_row
from rheobase.kernels.numba.scratch import part


@cache
def pack(element: type) -> Kernel:
    """Bytes `packed [N]` of x `[N]`; a piece that they are not equal to sets `sums [pieces]` to 1."""

    def body(address: Any) -> None:
        job = carray(address, 1)[0]
        x, packed = array(job.x, job.N, element), array(job.packed, job.N, u8)
        wrong = array(job.sums, job.pieces, f64)
        while True:
            piece = take(address)
            if piece >= job.pieces:
                return
            first, end = share(piece, job.pieces, job.N)
            wrong[piece] = not pack_row(row(x, first, end - first), row(packed, first, end - first))
            finish(address)

    return Kernel(body, element.__name__)


@cache
def unpack(element: type) -> Kernel:
    """x `[N]` of bytes `packed [N]`."""

    def body(address: Any) -> None:
        job = carray(address, 1)[0]
        x, packed = array(job.x, job.N, element), array(job.packed, job.N, u8)
        me = enter(address)
        scratch = part(job, me, 0, job.width, element)
        while True:
            piece = take(address)
            if piece >= job.pieces:
                return fence()
            first, end = share(piece, job.pieces, job.N)
            for lo in range(first, end, job.width):
                n = least(job.width, end - lo)
                target = row(scratch, 0, n)
                unpack_row(row(packed, lo, n), target)
                stream(target, x, lo, n)
            finish(address)

    return Kernel(body, element.__name__)

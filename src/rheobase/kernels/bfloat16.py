"""Rows of float32, or of bfloat16 as its bits (int16): arithmetic is float32 in both cases."""

from __future__ import annotations

from typing import Any

import numba
from numba.extending import overload

from rheobase.kernels.jit import Array, exact, f32, i16, u32


def load(row: Array, scratch: Array) -> Array:
    """The row as float32: itself, or its bfloat16 bits widened into `scratch`."""
    raise TypeError


def target(row: Array, scratch: Array) -> Array:
    """Where to compute what goes into the row: in it, or in `scratch` when it holds bfloat16 bits."""
    raise TypeError


def store(values: Array, row: Array) -> None:
    """Bring what was computed in `target(row, ...)` into the row: nothing to do, or round to bfloat16."""
    raise TypeError


@exact
def _widen(row: Array, scratch: Array) -> None:
    for i in range(row.size):
        scratch[i] = u32(u32(row[i]) << u32(16)).view(f32)


@exact
def _narrow(values: Array, row: Array) -> None:
    """Round to nearest, ties to even; a NaN stays one."""
    for i in range(row.size):
        bits = f32(values[i]).view(u32)
        odd = u32(u32(bits >> u32(16)) & u32(1))
        rounded = u32(u32(bits + u32(0x7FFF)) + odd)
        row[i] = i16(u32((rounded if values[i] == values[i] else u32(0x7FC00000)) >> u32(16)))


@overload(load, inline="always", strict=False)
def _load(row: Any, scratch: Any) -> Any:
    if row.dtype == numba.float32:
        return lambda row, scratch: row

    def widened(row: Any, scratch: Any) -> Any:
        _widen(row, scratch)
        return scratch[: row.size]

    return widened


@overload(target, inline="always", strict=False)
def _target(row: Any, scratch: Any) -> Any:
    if row.dtype == numba.float32:
        return lambda row, scratch: row
    return lambda row, scratch: scratch[: row.size]


@overload(store, inline="always", strict=False)
def _store(values: Any, row: Any) -> Any:
    if row.dtype == numba.float32:
        return lambda values, row: None
    return lambda values, row: _narrow(values, row)

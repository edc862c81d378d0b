"""Numbers as they lie in memory, float32 or the bits of a bfloat16 (int16): arithmetic is float32 in both cases.

(Not with Numba's `inline="always"`: it loses the store of a value that was chosen by a condition.)
"""

from __future__ import annotations

from typing import Any

import numba
from numba import types
from numba.extending import overload

from rheobase.kernels.numba.jit import OPTIONS, Array, f32, i16, u32


def wide(value: Any) -> Any:
    """The number, as float32."""
    raise TypeError


def put(row: Array, i: int, value: Any) -> None:
    """row[i] = value, rounded to nearest, ties to even; a NaN stays one."""
    raise TypeError


def mark(row: Array, i: int, u: Any, bar: Any) -> None:
    """row[i] = 1 if u >= bar, 0 if u < bar; not a number where it cannot be told."""
    raise TypeError


def kept(row: Array, value: Any) -> Any:
    """The value as it would come back from `row`."""
    raise TypeError


def at(values: Any, i: int) -> Any:
    """values[i], or the value where it is one number for all."""
    raise TypeError


def _rounded(value: Any) -> Any:
    """The bits of a float32, of which the upper half is the bfloat16 nearest to it."""
    raise TypeError


@overload(wide, jit_options=OPTIONS, strict=False)  # type: ignore[arg-type]
def _wide(value: Any) -> Any:
    if value == numba.float32:
        return lambda value: value
    return lambda value: u32(u32(value) << u32(16)).view(f32)


@overload(_rounded, jit_options=OPTIONS, strict=False)  # type: ignore[arg-type]
def _bits(value: Any) -> Any:
    def rounded(value: Any) -> Any:
        bits = f32(value).view(u32)
        odd = u32(u32(bits >> u32(16)) & u32(1))
        up = u32(bits + u32(odd + u32(0x7FFF)))
        return up if value == value else u32(0x7FC00000)

    return rounded


@overload(put, jit_options=OPTIONS, strict=False)  # type: ignore[arg-type]
def _put(row: Any, i: Any, value: Any) -> Any:
    if row.dtype == numba.float32:

        def plain(row: Any, i: Any, value: Any) -> None:
            row[i] = value

        return plain

    def rounded(row: Any, i: Any, value: Any) -> None:
        row[i] = i16(u32(_rounded(value) >> u32(16)))

    return rounded


@overload(kept, jit_options=OPTIONS, strict=False)  # type: ignore[arg-type]
def _kept(row: Any, value: Any) -> Any:
    if row.dtype == numba.float32:
        return lambda row, value: value
    return lambda row, value: u32(_rounded(value) & u32(0xFFFF0000)).view(f32)


@overload(mark, jit_options=OPTIONS, strict=False)  # type: ignore[arg-type]
def _mark(row: Any, i: Any, u: Any, bar: Any) -> Any:
    if row.dtype == numba.float32:

        def plain(row: Any, i: Any, u: Any, bar: Any) -> None:
            row[i] = f32(1) if u >= bar else (f32(0) if u < bar else u - bar)

        return plain

    def bits(row: Any, i: Any, u: Any, bar: Any) -> None:
        row[i] = i16(0x3F80) if u >= bar else (i16(0) if u < bar else i16(0x7FC0))

    return bits


@overload(at, jit_options=OPTIONS, strict=False)  # type: ignore[arg-type]
def _at(values: Any, i: Any) -> Any:
    if isinstance(values, types.Array):
        return lambda values, i: values[i]
    return lambda values, i: values

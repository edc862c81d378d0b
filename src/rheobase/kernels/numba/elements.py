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


def kept(row: Array, value: Any) -> Any:
    """The value as it would come back from `row`."""
    raise TypeError


def at(values: Any, i: int) -> Any:
    """values[i], or the value where it is one number for all."""
    raise TypeError


def _bits(value: Any) -> Any:
    raise TypeError


@overload(wide, jit_options=OPTIONS, strict=False)  # type: ignore[arg-type]
def _wide(value: Any) -> Any:
    if value == numba.float32:
        return lambda value: value
    return lambda value: u32(u32(value) << u32(16)).view(f32)


@overload(_bits, jit_options=OPTIONS, strict=False)  # type: ignore[arg-type]
def _bits_of(value: Any) -> Any:
    def rounded(value: Any) -> Any:
        bits = f32(value).view(u32)
        odd = u32(u32(bits >> u32(16)) & u32(1))
        up = u32(u32(bits + u32(0x7FFF)) + odd)
        return u32((up if value == value else u32(0x7FC00000)) >> u32(16))

    return rounded


@overload(put, jit_options=OPTIONS, strict=False)  # type: ignore[arg-type]
def _put(row: Any, i: Any, value: Any) -> Any:
    if row.dtype == numba.float32:

        def plain(row: Any, i: Any, value: Any) -> None:
            row[i] = value

        return plain

    def rounded(row: Any, i: Any, value: Any) -> None:
        row[i] = i16(_bits(value))

    return rounded


@overload(kept, jit_options=OPTIONS, strict=False)  # type: ignore[arg-type]
def _kept(row: Any, value: Any) -> Any:
    if row.dtype == numba.float32:
        return lambda row, value: value
    return lambda row, value: u32(_bits(value) << u32(16)).view(f32)


@overload(at, jit_options=OPTIONS, strict=False)  # type: ignore[arg-type]
def _at(values: Any, i: Any) -> Any:
    if isinstance(values, types.Array):
        return lambda values, i: values[i]
    return lambda values, i: values

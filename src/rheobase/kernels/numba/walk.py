"""How the kernels walk a tensor `[T, B, C, ...]`: what is one for all calls of a shape."""

# ruff: noqa: N806  (T, N and C are the axes, as everywhere)

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

from torch import Tensor

PIECES = 128  # the most that work is cut into
LEAST = 1 << 15  # elements that are worth a piece
LARGE = 1 << 18  # elements that are written past the caches
BLOCK = 512  # neurons walked together, about
ROWS = 24  # rows of a block's length that a thread works in
CACHED = 1 << 13  # floats that a thread keeps in its first cache, about: some for each time step, and some rows


def pieces(elements: int) -> int:
    """How many pieces so much work is cut into."""
    return min(PIECES, max(1, elements // LEAST))


class Walk(NamedTuple):
    """The fields of a `Job` that tell how it walks a tensor (`blocks.py`), and how much it works in (`scratch.py`)."""

    pieces: int
    T: int
    N: int
    C: int
    moving: bool
    large: bool
    width: int
    inner: int
    span: int
    per: int
    anew: bool
    room: int
    pitch: int
    channel_pitch: int


def walk(x: Tensor, channels: bool, neurons: bool = False, arrays: int = 0) -> Walk:
    """For a dense x `[T, B, C, ...]`, where a thread keeps `arrays` numbers a neuron and time step.

    Without `channels` all neurons have the same factors; with `neurons` each has some of its own.
    """
    return _walk(tuple(x.shape), x.stride(), channels, neurons, arrays)


@lru_cache(maxsize=4096)
def _walk(shape: tuple[int, ...], strides: tuple[int, ...], channels: bool, neurons: bool, arrays: int) -> Walk:
    T, N = shape[0], math.prod(shape[1:])
    C = shape[2] if channels else 1
    moving = T > 1 and strides[0] != 0
    width = max(64, min(BLOCK, CACHED // (max(1, arrays) * T + 8) // 64 * 64))
    span = math.prod(shape[2:]) if neurons else N
    inner, anew = strides[2] if C > 1 else 1, False
    if C > 1:
        period = inner * C
        if inner == 1 and 2 * width < C:
            span, anew = C, True
        elif inner == 1 or period <= 8 * BLOCK:
            width = max(1, width // period) * period
        else:
            span, anew = inner, True
    width = max(1, min(width, span))
    pitch, channel_pitch = 4 * _padded(width), 4 * _padded(C)
    room, per = (ROWS + arrays * T) * pitch + 3 * channel_pitch, -(-span // width)
    large = T * N >= LARGE
    return Walk(pieces(T * N), T, N, C, moving, large, width, inner, span, per, anew, room, pitch, channel_pitch)


def _padded(size: int) -> int:
    """Floats between rows: whole lines, and one more, since rows at multiples of a page get into each other's way.

    Of few neurons, which there may be many steps of, no more than a float64 wants.
    """
    return (size + 15) // 16 * 16 + 16 if size > 16 else size + size % 2

"""How a tensor `[T, B, C, ...]` lies in storage, and how a kernel walks it."""

# ruff: noqa: N803, N806  (T, N and C are the axes, as everywhere)

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from rheobase.kernels.time import static

PIECES = 128  # the most that work is cut into
LEAST = 1 << 15  # elements that are worth a piece
LARGE = 1 << 18  # elements that are written past the caches
BLOCK = 512  # neurons walked together, about
CACHED = 1 << 13  # floats that a thread keeps in its first cache, about: T potentials a neuron, and some rows


def pieces(elements: int) -> int:
    """How many pieces so much work is cut into."""
    return min(PIECES, max(1, elements // LEAST))


def dense(x: Tensor) -> Tensor:
    """x itself if each step is dense in storage and the steps follow each other (or are the same), else a copy."""
    if x.is_contiguous():
        return x
    strides, size = x.stride(), 1
    for stride, length in sorted((s, n) for s, n in zip(strides[1:], x.shape[1:], strict=True) if n != 1):
        if stride != size:
            return x[0].contiguous().expand(x.shape) if static(x) else x.contiguous()
        size *= length
    return x if x.shape[0] == 1 or strides[0] in (0, size) else x.contiguous()


def empty_like(x: Tensor, steps: int | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """A new tensor of `steps` steps (default: x's), each lying in storage as those of x."""
    steps, shape = x.shape[0] if steps is None else steps, x.shape[1:]
    return x.new_empty_strided((steps, *shape), (math.prod(shape), *x.stride()[1:]), dtype=dtype or x.dtype)


def aligned(x: Tensor, like: Tensor) -> Tensor:
    """x in the storage order of `like`: itself, or a copy."""
    strides, wanted = x.stride(), like.stride()
    same = all(a == b or n == 1 for a, b, n in zip(strides[1:], wanted[1:], like.shape[1:], strict=True))
    if same and (x.shape[0] == 1 or strides[0] == math.prod(x.shape[1:])):
        return x
    return empty_like(like, x.shape[0], x.dtype).copy_(x)


class Walk(NamedTuple):
    """The fields of a `Job` that tell how it walks a tensor: see `blocks.py`."""

    pieces: int
    T: int
    N: int
    C: int
    moving: bool
    large: bool
    width: int
    inner: int
    plane: int


def walk(x: Tensor, channels: bool) -> Walk:
    """For a dense x `[T, B, C, ...]`; without `channels` every neuron has the same factors."""
    return _walk(tuple(x.shape), x.stride(), channels)


@lru_cache(maxsize=4096)
def _walk(shape: tuple[int, ...], strides: tuple[int, ...], channels: bool) -> Walk:
    T, N = shape[0], math.prod(shape[1:])
    C = shape[2] if channels else 1
    moving = T > 1 and strides[0] != 0
    return Walk(pieces(T * N), T, N, C, moving, T * N >= LARGE, *_cut(T, C, strides[2] if C > 1 else 1))


def _cut(T: int, C: int, inner: int) -> tuple[int, int, int]:
    """Width of a block, neighbours that share a channel, and plane."""
    width = max(64, min(BLOCK, CACHED // (T + 8) // 64 * 64))
    if C == 1:
        return width, 1, 0
    period = inner * C
    if inner == 1 or period <= 8 * BLOCK:
        return max(1, width // period) * period, inner, 0
    return min(width, inner), inner, inner

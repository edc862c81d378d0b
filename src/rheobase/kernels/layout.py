"""How a tensor `[T, B, C, ...]` lies in storage, and its view as rows `[T, N]` that a kernel walks."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rheobase.kernels.cpu import BLOCK, CACHED
from rheobase.kernels.jit import Array
from rheobase.kernels.time import static


def dense(x: Tensor) -> Tensor:
    """x itself if each step is dense in storage and the steps follow each other (or are the same), else a copy."""
    size = 1
    for stride, length in sorted((x.stride(d), x.shape[d]) for d in range(1, x.dim()) if x.shape[d] != 1):
        if stride != size:
            return x[0].contiguous().expand(x.shape) if static(x) else x.contiguous()
        size *= length
    return x if x.shape[0] == 1 or x.stride(0) in (0, size) else x.contiguous()


def empty_like(x: Tensor, steps: int | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """A new tensor of `steps` steps (default: x's), each lying in storage as those of x."""
    steps = x.shape[0] if steps is None else steps
    size = x[0].numel() if x.shape[0] else 0
    return x.new_empty_strided((steps, *x.shape[1:]), (size, *x.stride()[1:]), dtype=dtype or x.dtype)


def aligned(x: Tensor, like: Tensor) -> Tensor:
    """x in the storage order of `like`: itself, or a copy."""
    same = all(a == b or n == 1 for a, b, n in zip(x.stride()[1:], like.stride()[1:], like.shape[1:], strict=True))
    if same and (x.shape[0] == 1 or x.stride(0) == x[0].numel()):
        return x
    return empty_like(like, x.shape[0], x.dtype).copy_(x)


def rows(x: Tensor) -> Array:
    """The storage of a dense x as `[T, N]`, `[1, N]` when static; bfloat16 as its bits."""
    steps = 1 if static(x) else x.shape[0]
    size = x[0].numel()
    flat = x.as_strided((steps, size), (size, 1))
    return (flat.view(torch.int16) if x.dtype == torch.bfloat16 else flat).numpy()


class Blocks(NamedTuple):
    """How a kernel cuts the neurons of a step: see `cpu.py`."""

    width: int
    inner: int
    plane: int


def blocks(x: Tensor, channels: bool) -> Blocks:
    """For a dense x `[T, B, C, ...]`; without `channels` every neuron has the same factors."""
    width = max(64, min(BLOCK, CACHED // max(1, x.shape[0]) // 64 * 64))
    count = x.shape[2] if channels else 1
    if count == 1:
        return Blocks(width, 1, 0)
    inner = x.stride(2)
    period = inner * count
    if inner == 1 or period <= 8 * BLOCK:
        return Blocks(max(1, width // period) * period, inner, 0)
    return Blocks(min(width, inner), inner, inner)

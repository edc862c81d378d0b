"""How a tensor `[T, B, C, ...]` lies in storage."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rheobase.kernels.time import static


def dense(x: Tensor) -> Tensor:
    """x itself if each step is dense in storage and the steps follow each other (or are the same), else a copy."""
    if x.is_contiguous():
        return x
    strides, size = x.stride(), 1
    for stride, length in sorted(zip(strides[1:], x.shape[1:], strict=True)):
        if stride != size and length != 1:
            return x[0].contiguous().expand(x.shape) if static(x) else x.contiguous()
        size *= length
    return x if x.shape[0] == 1 or strides[0] in (0, size) else x.contiguous()


def empty_like(x: Tensor, steps: int | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """A new tensor of `steps` steps (default: x's), each lying in storage as those of x."""
    if steps is None and dtype is None and not static(x):
        return torch.empty_like(x)
    steps, shape = x.shape[0] if steps is None else steps, x.shape[1:]
    return x.new_empty_strided((steps, *shape), (math.prod(shape), *x.stride()[1:]), dtype=dtype or x.dtype)


def aligned(x: Tensor, like: Tensor) -> Tensor:
    """x in the storage order of `like`: itself, or a copy."""
    strides, wanted = x.stride()[1:], like.stride()[1:]
    same = strides == wanted or all(a == b or n == 1 for a, b, n in zip(strides, wanted, like.shape[1:], strict=True))
    if same and (x.shape[0] == 1 or x.stride(0) == math.prod(x.shape[1:])):
        return x
    return empty_like(like, x.shape[0], x.dtype).copy_(x)

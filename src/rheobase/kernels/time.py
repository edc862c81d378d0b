"""The time axis: `[T, B, ...]`, with stride 0 where every step is the same memory (a static image)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def static(x: Tensor) -> bool:
    """Whether every step is the same memory."""
    return x.shape[0] > 1 and x.stride(0) == 0


def distinct(x: Tensor) -> int:
    """How many steps lie in memory: 1 where every step is the same, else T."""
    return 1 if static(x) else x.shape[0]


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.steps = x.shape[0]
        return x.detach()[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return spread(grads[0], ctx.steps)


def once(x: Tensor) -> Tensor:
    """The one step `[B, ...]` of a static x."""
    y: Tensor = _Once.apply(x)
    return y


def spread(grad: Tensor, steps: int) -> Tensor:
    """Gradient `[T, B, ...]` of a static tensor from that of its one step.

    The steps share memory, so only the sum over time is defined: each step is handed an equal part of it, and
    nothing of size T is made.
    """
    return (grad / steps).expand(steps, *grad.shape)


class _Repeat(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, steps: int) -> Tensor:
        return x.expand(steps, *x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad = grads[0]
        if static(grad):
            return grad[0] * grad.shape[0], None
        # step by step, each a pass over one step in cache: several times faster than a sum over the first axis
        total = grad[0].to(torch.promote_types(grad.dtype, torch.float32))
        for step in grad[1:]:
            total = total + step
        return total.to(grad.dtype), None


def repeat(x: Tensor, steps: int) -> Tensor:
    """x `[B, ...]` at every step, `[T, B, ...]`, without a copy."""
    y: Tensor = _Repeat.apply(x, steps)
    return y

"""The time axis: `[T, B, ...]`, with stride 0 where every step is the same memory (a static image)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def static(x: Tensor) -> bool:
    """Whether every step is the same memory."""
    return x.shape[0] > 1 and x.stride(0) == 0


class _Repeat(torch.autograd.Function):
    """`expand`, with a sum over time that is several times faster than torch's over the first axis."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, steps: int) -> Tensor:
        return x.expand(steps, *x.shape)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.steps = inputs[1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        grad = grads[0]
        # step by step, each a pass over one step in cache
        total = grad[0].to(torch.promote_types(grad.dtype, torch.float32))
        for step in grad[1:]:
            total = total + step
        return total.to(grad.dtype), None

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        tangent: Tensor = tangents[0]
        return tangent.expand(ctx.steps, *tangent.shape)


class _Unheard(torch.autograd.Function):
    """Zero, with the gradient of x."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.zeros_like(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "PerStep has no second derivatives (create_graph=True) where an input's steps are one memory, as those "
                "of a static image: give each its own, as torch.stack([image] * steps)"
            )
        return grads[0]


def unheard(x: Tensor) -> Tensor:
    """Nothing, whatever x is; but gradients go to x."""
    y: Tensor = _Unheard.apply(x)
    return y


def repeat(x: Tensor, steps: int) -> Tensor:
    """x `[B, ...]` at every step, `[T, B, ...]`, without a copy."""
    if steps == 1 or torch.compiler.is_compiling():
        return x.expand(steps, *x.shape)
    y: Tensor = _Repeat.apply(x, steps)
    return y

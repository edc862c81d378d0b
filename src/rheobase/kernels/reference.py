"""The definition of a neuron, in plain torch. Every engine is tested against this file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from rheobase.surrogate import KINDS


class Spike(torch.autograd.Function):
    """s = 1 if x >= 0 else 0, with x = u - threshold; backward: ds/dx = height * h(x; parameter)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kind: int, parameter: Tensor, height: Tensor) -> Tensor:
        """Spikes, 0 or 1 in the dtype of x."""
        ctx.save_for_backward(x, parameter, height)
        ctx.kind = kind
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        """The gradient times the surrogate derivative."""
        x, parameter, height = ctx.saved_tensors  # type: ignore[attr-defined]
        h = height * KINDS[ctx.kind].formula(x, parameter)  # type: ignore[attr-defined]
        return grads[0] * h, None, None, None


def lif_step(
    current: Tensor, state: Tensor, constants: Tensor, kind: int, soft: bool, detach: bool
) -> tuple[Tensor, Tensor]:
    """One time step of a leaky integrate-and-fire neuron.

    u[t] = decay v[t-1] + input_scale I[t];  s[t] = u[t] >= threshold;
    soft reset: v[t] = u[t] - threshold s[t];  hard reset: v[t] = u[t] (1 - s[t]).

    Args:
        current: I[t], `[B, ...]`.
        state: v[t-1], same shape.
        constants: decay, threshold, input scale, and the surrogate's parameter, height and kind.
        kind: number of the surrogate's shape.
        soft: soft or hard reset.
        detach: whether the reset is a constant in the backward pass.

    Returns:
        s[t] and v[t].
    """
    decay, threshold, input_scale, parameter, height, _ = constants.unbind()
    u = decay * state + input_scale * current
    s: Tensor = Spike.apply(u - threshold, kind, parameter, height)
    r = s.detach() if detach else s
    return s, (u - threshold * r if soft else u * (1 - r))


def unroll(step: Callable[[Tensor, Any], tuple[Tensor, Any]], currents: Tensor, state: Any) -> tuple[Tensor, Any]:
    """`step` over the first axis: outputs `[T, ...]` and the state after the last step."""
    outputs = []
    for current in currents.unbind(0):
        output, state = step(current, state)
        outputs.append(output)
    return torch.stack(outputs), state

"""The Numba kernels as PyTorch operators: autograd, `torch.compile` and `torch.export` see through them.

`rheobase::fire` is a neuron over a sequence, with or without a batch norm of its currents before it. What a norm does
between processes belongs between two operators, never inside one: `moments` before, `norm_backward` after.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rheobase.kernels import cpu
from rheobase.kernels.layout import Blocks, aligned, dense, empty_like, rows
from rheobase.kernels.time import spread, static

_NONE = np.empty(0, np.float32)


def _flat(state: Tensor | None, like: Tensor) -> Any:
    """A state `[B, ...]` as a row in the storage order of `like`."""
    if state is None:
        return _NONE
    return rows(aligned(state.to(torch.float32).unsqueeze(0), like))[0]


def _affine(
    constants: Tensor, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, invstd: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Scale and shift of the current: the input scale, after the norm's map if there is one."""
    input_scale = constants[2]
    if weight is None or bias is None or mean is None or invstd is None:
        return input_scale, torch.zeros(())
    scale = weight * invstd
    return input_scale * scale, input_scale * (bias - mean * scale)


@torch.library.custom_op("rheobase::fire", mutates_args=(), device_types="cpu")
def fire(
    currents: Tensor,
    state: Tensor | None,
    constants: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    invstd: Tensor | None,
    batch_statistics: bool,
    kind: int,
    soft: bool,
    detach: bool,
    keep_state: bool,
) -> tuple[Tensor, Tensor]:
    """Spikes `[T, B, ...]` and, if `keep_state`, the final state `[B, ...]` (else an empty tensor)."""
    x = dense(currents)
    spikes = empty_like(x)
    final = empty_like(x, 1, torch.float32) if keep_state else x.new_empty(0, dtype=torch.float32)
    if spikes.numel():
        blocks = Blocks.of(x, weight is not None)
        scale, shift = _affine(constants, weight, bias, mean, invstd)
        decay, threshold = constants[:2].numpy()
        cpu.forward(
            rows(x),
            rows(spikes),
            _flat(state, x),
            rows(final)[0] if keep_state else _NONE,
            blocks.spread(scale),
            blocks.spread(shift),
            decay,
            threshold,
            np.float32(soft),
            blocks.width,
            blocks.plane,
        )
    return spikes, final.squeeze(0) if keep_state else final


@fire.register_fake
def _(
    currents: Tensor,
    state: Tensor | None,
    constants: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    invstd: Tensor | None,
    batch_statistics: bool,
    kind: int,
    soft: bool,
    detach: bool,
    keep_state: bool,
) -> tuple[Tensor, Tensor]:
    x = dense(currents)
    if not keep_state:
        return empty_like(x), x.new_empty(0, dtype=torch.float32)
    return empty_like(x), empty_like(x, 1, torch.float32).squeeze(0)


@torch.library.custom_op("rheobase::fire_backward", mutates_args=(), device_types="cpu")
def fire_backward(
    grad: Tensor,
    grad_final: Tensor | None,
    currents: Tensor,
    state: Tensor | None,
    constants: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    invstd: Tensor | None,
    batch_statistics: bool,
    kind: int,
    soft: bool,
    detach: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `fire`: of the currents (one step, the sum over time, if they are static), state and `[2, C]` sums.

    With batch statistics, the first is the gradient of the normalised currents; `norm_backward` finishes it.
    The sums are those of that gradient, and of it times (currents - mean).
    """
    x = dense(currents)
    gx = empty_like(x, 1 if static(x) else None)
    g_state = empty_like(x, 1, torch.float32) if state is not None else x.new_empty(0, dtype=torch.float32)
    blocks = Blocks.of(x, weight is not None)
    sums = blocks.sums() if weight is not None else np.zeros((cpu.PIECES, 2, 0))
    if x.numel():
        scale, shift = _affine(constants, weight, bias, mean, invstd)
        decay, threshold, input_scale, parameter, height = constants.numpy()
        cpu.backward(
            rows(aligned(grad, x)),
            _flat(grad_final, x),
            rows(x),
            rows(gx),
            _flat(state, x),
            rows(g_state)[0] if state is not None else _NONE,
            blocks.spread(scale),
            blocks.spread(shift),
            blocks.spread(mean) if mean is not None else _NONE,
            sums,
            decay,
            threshold,
            np.float32(soft),
            kind,
            parameter,
            height,
            detach,
            not batch_statistics and not (weight is None and input_scale == 1),
            blocks.width,
            blocks.plane,
        )
    total = blocks.total(sums) * constants[2] if weight is not None else torch.empty(0, dtype=torch.float64)
    return gx, g_state.squeeze(0) if state is not None else g_state, total


@fire_backward.register_fake
def _(
    grad: Tensor,
    grad_final: Tensor | None,
    currents: Tensor,
    state: Tensor | None,
    constants: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    invstd: Tensor | None,
    batch_statistics: bool,
    kind: int,
    soft: bool,
    detach: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    x = dense(currents)
    gx = empty_like(x, 1 if static(x) else None)
    g_state = empty_like(x, 1, torch.float32).squeeze(0) if state is not None else x.new_empty(0, dtype=torch.float32)
    sums = (2, x.shape[2]) if weight is not None else (0,)
    return gx, g_state, x.new_empty(sums, dtype=torch.float64)


@torch.library.custom_op("rheobase::moments", mutates_args=(), device_types="cpu")
def moments(currents: Tensor) -> Tensor:
    """Sums over all but the channel axis of x and x^2, `[2, C]`, float64; static currents count once."""
    x = dense(currents)
    blocks = Blocks.of(x, True)
    sums = blocks.sums()
    if x.numel():
        cpu.moments(rows(x).reshape(-1), sums, blocks.width, blocks.plane)
    return blocks.total(sums)


@moments.register_fake
def _(currents: Tensor) -> Tensor:
    return currents.new_empty((2, currents.shape[2]), dtype=torch.float64)


@torch.library.custom_op("rheobase::norm_backward", mutates_args=("grad",), device_types="cpu")
def norm_backward(grad: Tensor, currents: Tensor, k1: Tensor, k2: Tensor, k3: Tensor) -> None:
    """Turn `grad` (a result of `fire_backward`) into k1 grad + k2 currents + k3, channel by channel, in place."""
    x = dense(currents)
    if x.numel():
        blocks = Blocks.of(x, True)
        cpu.norm_backward(
            rows(grad).reshape(-1),
            rows(x).reshape(-1),
            blocks.spread(k1),
            blocks.spread(k2),
            blocks.spread(k3),
            blocks.width,
            blocks.plane,
        )


@norm_backward.register_fake
def _(grad: Tensor, currents: Tensor, k1: Tensor, k2: Tensor, k3: Tensor) -> None:
    return None


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:7])
    ctx.options = inputs[7:11]


def _backward(ctx: Any, grad: Tensor, grad_final: Tensor) -> tuple[Any, ...]:
    currents, state, constants, weight, bias, mean, invstd = ctx.saved_tensors
    batch_statistics = ctx.options[0]
    gx, g_state, sums = fire_backward(
        grad,
        grad_final if grad_final.numel() else None,
        currents,
        state,
        constants,
        weight,
        bias,
        mean,
        invstd,
        *ctx.options,
    )
    g_weight = g_bias = None
    if weight is not None:
        g_bias, g_weight = sums[0].to(bias.dtype), (sums[1] * invstd).to(weight.dtype)
        if batch_statistics:
            # d/dx of scale (x - mean) / std with mean and std of x itself (Ioffe and Szegedy 2015)
            scale = weight * invstd
            average = sums / (gx.numel() // gx.shape[2])
            k2 = -scale * invstd.square() * average[1]
            norm_backward(gx, currents, constants[2] * scale, k2, -scale * average[0] - k2 * mean)
    if static(currents):
        gx = spread(gx[0], currents.shape[0])
    return gx, (g_state.to(state.dtype) if state is not None else None), None, g_weight, g_bias, *[None] * 7


fire.register_autograd(_backward, setup_context=_setup)

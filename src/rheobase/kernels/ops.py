"""The Numba kernels as PyTorch operators: autograd, `torch.compile` and `torch.export` see through them.

`rheobase::fire` is a neuron over a sequence, with or without a batch norm of its currents before it. What a norm does
between processes belongs between two operators, never inside one: `moments` before, `norm_backward` after.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

from rheobase.kernels import cpu
from rheobase.kernels.jit import Array
from rheobase.kernels.layout import aligned, blocks, dense, empty_like, rows
from rheobase.kernels.time import spread, static

_NONE = np.empty(0, np.float32)
_before = torch.get_num_threads()
_MOST = numba.get_num_threads()  # what Numba was started with
torch.set_num_threads(_before)  # starting Numba's threads changed it
_lock = threading.Lock()


def _flat(state: Tensor | None, like: Tensor) -> Any:
    """A state `[B, ...]` as a row in the storage order of `like`."""
    if state is None:
        return _NONE
    return rows(aligned(state.to(torch.float32).unsqueeze(0), like))[0]


def _row(values: Tensor) -> Array:
    """One value a channel, in double precision."""
    return values.detach().double().numpy()


def _affine(
    input_scale: float, weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, invstd: Tensor | None
) -> tuple[Array, Array]:
    """Scale and shift of the current: the input scale, after the norm's map if there is one."""
    if weight is None or bias is None or mean is None or invstd is None:
        return np.full(1, input_scale, np.float32), np.zeros(1, np.float32)
    scale = _row(weight) * _row(invstd)
    shift = _row(bias) - _row(mean) * scale
    return (input_scale * scale).astype(np.float32), (input_scale * shift).astype(np.float32)


def _call(kernel: Callable[..., None], *arguments: Any) -> None:
    """Run a kernel on as many threads as torch uses; one at a time, as not all of Numba's thread pools bear two."""
    with _lock:
        numba.set_num_threads(min(torch.get_num_threads(), _MOST))
        kernel(*arguments)


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
        decay, threshold, input_scale, *_ = constants.numpy()
        scale, shift = _affine(input_scale, weight, bias, mean, invstd)
        _call(
            cpu.forward,
            rows(x),
            rows(spikes),
            _flat(state, x),
            rows(final)[0] if keep_state else _NONE,
            scale,
            shift,
            decay,
            threshold,
            np.float32(soft),
            *blocks(x, weight is not None),
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
    sums = np.zeros((cpu.PIECES, 2, 0 if weight is None else x.shape[2]))
    decay, threshold, input_scale, parameter, height, _ = constants.numpy()
    if x.numel():
        scale, shift = _affine(input_scale, weight, bias, mean, invstd)
        _call(
            cpu.backward,
            rows(aligned(grad, x)),
            _flat(grad_final, x),
            rows(x),
            rows(gx),
            _flat(state, x),
            rows(g_state)[0] if state is not None else _NONE,
            scale,
            shift,
            _NONE if mean is None else _row(mean).astype(np.float32),
            sums,
            decay,
            threshold,
            np.float32(soft),
            kind,
            parameter,
            height,
            detach,
            not batch_statistics and not (weight is None and input_scale == 1),
            *blocks(x, weight is not None),
        )
    total = torch.from_numpy(input_scale * sums.sum(0)) if weight is not None else x.new_empty(0, dtype=torch.float64)
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
    sums = np.zeros((cpu.PIECES, 2, x.shape[2]))
    if x.numel():
        _call(cpu.moments, rows(x).reshape(-1), sums, *blocks(x, True))
    return torch.from_numpy(sums.sum(0))


@moments.register_fake
def _(currents: Tensor) -> Tensor:
    return currents.new_empty((2, currents.shape[2]), dtype=torch.float64)


@torch.library.custom_op("rheobase::norm_backward", mutates_args=("grad",), device_types="cpu")
def norm_backward(
    grad: Tensor,
    currents: Tensor,
    constants: Tensor,
    weight: Tensor,
    mean: Tensor,
    invstd: Tensor,
    sums: Tensor,
    count: int,
) -> None:
    """Turn `grad`, as `fire_backward` returned it, into the gradient through the statistics, in place.

    With g the gradient of y = weight (x - mean) invstd + bias, and averages over the `count` values of a channel:
    dL/dx = weight invstd (g - avg(g) - (x - mean) invstd^2 avg(g (x - mean)))    (Ioffe and Szegedy 2015)
    """
    x = dense(currents)
    inv, m, average = _row(invstd), _row(mean), sums.numpy() / count
    scale = _row(weight) * inv
    k2 = -scale * inv * inv * average[1]
    k3 = -scale * average[0] - k2 * m
    if x.numel():
        k = [v.astype(np.float32) for v in (constants.numpy()[2] * scale, k2, k3)]
        _call(cpu.norm_backward, rows(grad).reshape(-1), rows(x).reshape(-1), *k, *blocks(x, True))


@norm_backward.register_fake
def _(
    grad: Tensor,
    currents: Tensor,
    constants: Tensor,
    weight: Tensor,
    mean: Tensor,
    invstd: Tensor,
    sums: Tensor,
    count: int,
) -> None:
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
            norm_backward(gx, currents, constants, weight, mean, invstd, sums, gx.numel() // gx.shape[2])
    if static(currents):
        gx = spread(gx[0], currents.shape[0])
    return gx, (g_state.to(state.dtype) if state is not None else None), None, g_weight, g_bias, *[None] * 7


fire.register_autograd(_backward, setup_context=_setup)

"""The Numba kernels as PyTorch operators: autograd, `torch.compile` and `torch.export` see through them.

`rheobase::fire` is a neuron over a sequence, with or without a batch norm of its currents before it. What a norm does
between processes belongs between two operators, never inside one: `moments`, `settle` and `fire` in the forward pass,
`fire_backward` and `norm_backward` in the backward pass.

They are defined with `torch.library.Library`: `torch.library.custom_op` takes five times as long for a call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from rheobase.kernels import cpu
from rheobase.kernels.jit import Job, f32, i16
from rheobase.kernels.layout import Walk, aligned, dense, empty_like, walk
from rheobase.kernels.threads import run
from rheobase.kernels.time import spread, static

_NORM = "Tensor? weight, Tensor? bias, Tensor? mean, Tensor? invstd"
_OPTIONS = "bool batch_statistics, int kind, bool soft, bool detach"
_SCHEMAS = (
    f"fire(Tensor currents, Tensor? state, Tensor constants, {_NORM}, {_OPTIONS}, bool keep_state) -> (Tensor, Tensor)",
    f"fire_backward(Tensor grad, Tensor? grad_final, Tensor currents, Tensor? state, Tensor constants, {_NORM}, "
    f"{_OPTIONS}) -> (Tensor, Tensor, Tensor)",
    "moments(Tensor currents) -> Tensor",
    "settle(Tensor sums, int count, Tensor(a!) running_mean, Tensor(b!) running_var, float momentum, float eps) "
    "-> (Tensor, Tensor)",
    "norm_backward(Tensor(a!) grad, Tensor currents, Tensor weight, Tensor mean, Tensor invstd, Tensor sums, "
    "int count) -> ()",
)
_library = torch.library.Library("rheobase", "DEF")
for _schema in _SCHEMAS:
    _library.define(_schema)
fire = torch.ops.rheobase.fire.default
fire_backward = torch.ops.rheobase.fire_backward.default
moments = torch.ops.rheobase.moments.default
settle = torch.ops.rheobase.settle.default
norm_backward = torch.ops.rheobase.norm_backward.default

_ELEMENTS = {torch.float32: f32, torch.bfloat16: i16}


def _job(how: Walk, tensors: dict[str, Tensor | None], **numbers: float) -> Job:
    """A job on these tensors, which it keeps alive."""
    job = Job(0, *how, **numbers)
    job.tensors = tensors
    for name, tensor in tensors.items():
        if tensor is not None:
            setattr(job, name, tensor.data_ptr())
    return job


def _numbers(constants: Tensor, soft: bool) -> dict[str, float]:
    names = ("decay", "threshold", "input_scale", "parameter", "height")
    return {**dict(zip(names, constants.tolist(), strict=False)), "soft": float(soft)}


def _row(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values if values.dtype is dtype and values.is_contiguous() else values.to(dtype).contiguous()


def _norm(weight: Tensor | None, bias: Tensor | None, mean: Tensor | None, invstd: Tensor | None) -> dict[str, Any]:
    if weight is None or bias is None or mean is None or invstd is None:
        return {}
    return {
        "weight": _row(weight, torch.float32),
        "bias": _row(bias, torch.float32),
        "mean": _row(mean, torch.float64),
        "invstd": _row(invstd, torch.float64),
    }


def _flat(state: Tensor | None, like: Tensor) -> Tensor | None:
    """A state `[B, ...]` in float32 and in the storage order of `like`."""
    return None if state is None else aligned(state.to(torch.float32).unsqueeze(0), like)


def _outputs(x: Tensor, keep_state: bool) -> tuple[Tensor, Tensor]:
    final = empty_like(x, 1, torch.float32)[0] if keep_state else x.new_empty(0, dtype=torch.float32)
    return empty_like(x), final


def _fire(
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
    spikes, final = _outputs(x, keep_state)
    if spikes.numel():
        tensors = {"x": x, "spikes": spikes, "state": _flat(state, x), "final": final if keep_state else None}
        tensors |= _norm(weight, bias, mean, invstd)
        how = walk(x, weight is not None)
        run(cpu.forward(_ELEMENTS[x.dtype]), _job(how, tensors, **_numbers(constants, soft)))
    return spikes, final


def _fire_fake(currents: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    return _outputs(dense(currents), keep_state=others[-1])


def _gradients(x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
    g_state = x.new_empty(0, dtype=torch.float32) if state is None else empty_like(x, 1, torch.float32)[0]
    return empty_like(x, 1 if static(x) else None), g_state


def _fire_backward(
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

    With y the norm's output, the sums are those of grad y and of grad y (currents - mean). The first is that of the
    currents as if mean and invstd were constants; with batch statistics `norm_backward` finishes it.
    """
    x = dense(currents)
    gx, g_state = _gradients(x, state)
    normed = weight is not None
    if not x.numel():
        return gx.zero_(), g_state.zero_(), x.new_zeros((2, x.shape[2] if normed else 0), dtype=torch.float64)
    how = walk(x, normed)
    numbers = _numbers(constants, soft)
    sums = x.new_zeros((how.pieces if normed else 0, 2, how.C), dtype=torch.float64)
    tensors = {
        "x": x,
        "g": aligned(grad, x),
        "gx": gx,
        "state": _flat(state, x),
        "g_state": None if state is None else g_state,
        "g_final": _flat(grad_final, x),
        "sums": sums,
    }
    tensors |= _norm(weight, bias, mean, invstd)
    kernel = cpu.backward(_ELEMENTS[x.dtype], kind, soft, detach, normed)
    run(kernel, _job(how, tensors, **numbers))
    return gx, g_state, sums.sum(0).mul_(numbers["input_scale"]) if normed else sums.reshape(2, 0)


def _fire_backward_fake(
    grad: Tensor, grad_final: Tensor | None, currents: Tensor, state: Tensor | None, *others: Any
) -> tuple[Tensor, Tensor, Tensor]:
    gx, g_state = _gradients(dense(currents), state)
    channels = 0 if others[1] is None else currents.shape[2]
    return gx, g_state, currents.new_empty((2, channels), dtype=torch.float64)


def _moments(currents: Tensor) -> Tensor:
    """Sums over all but the channel axis of x and x^2, `[2, C]`, float64; static currents count once."""
    x = dense(currents)
    how = walk(x, True, steps=False)
    sums = x.new_zeros((how.pieces, 2, how.C), dtype=torch.float64)
    if x.numel():
        run(cpu.moments(_ELEMENTS[x.dtype]), _job(how, {"x": x, "sums": sums}))
    return sums.sum(0)


def _moments_fake(currents: Tensor) -> Tensor:
    return currents.new_empty((2, currents.shape[2]), dtype=torch.float64)


def _settle(
    sums: Tensor, count: int, running_mean: Tensor, running_var: Tensor, momentum: float, eps: float
) -> tuple[Tensor, Tensor]:
    """Mean and 1 / sqrt(var + eps) from the moments of `count` values a channel; moves the running statistics."""
    mean, invstd = _settle_fake(sums)
    rows = [_row(values, torch.float32) for values in (running_mean, running_var)]
    tensors = {"sums": sums, "mean": mean, "invstd": invstd, "running_mean": rows[0], "running_var": rows[1]}
    run(cpu.settle(), _job(Walk(C=sums.shape[1]), tensors, count=count, momentum=momentum, eps=eps))
    for values, row in zip((running_mean, running_var), rows, strict=True):
        if row is values:
            torch.autograd.graph.increment_version(values)
        else:
            values.copy_(row)
    return mean, invstd


def _settle_fake(sums: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    return sums.new_empty(sums.shape[1]), sums.new_empty(sums.shape[1])


def _norm_backward(
    grad: Tensor, currents: Tensor, weight: Tensor, mean: Tensor, invstd: Tensor, sums: Tensor, count: int
) -> None:
    """Turn `grad`, as `fire_backward` returned it, into the gradient through the statistics, in place.

    With g the gradient of y = weight (x - mean) invstd + bias, and averages over the `count` values of a channel:
    dL/dx = weight invstd (g - avg(g) - (x - mean) invstd^2 avg(g (x - mean)))    (Ioffe and Szegedy 2015)
    """
    x = dense(currents)
    if x.numel():
        tensors = {"x": x, "gx": grad, "sums": sums} | _norm(weight, weight, mean, invstd)
        run(cpu.norm_backward(_ELEMENTS[x.dtype]), _job(walk(x, True, steps=False), tensors, count=count))
    torch.autograd.graph.increment_version(grad)


class _Fire(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        ctx.save_for_backward(*inputs[:7])
        ctx.options = inputs[7:11]
        with torch._C._AutoDispatchBelowAutograd():
            return fire(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_final: Tensor) -> tuple[Any, ...]:
        currents, state, constants, *norm = ctx.saved_tensors
        weight, bias, mean, invstd = norm
        last = grad_final if grad_final.numel() else None
        gx, g_state, sums = fire_backward(grad, last, currents, state, constants, *norm, *ctx.options)
        g_weight = g_bias = None
        if weight is not None:
            g_bias, g_weight = sums[0].to(bias.dtype), (sums[1] * invstd).to(weight.dtype)
            if ctx.options[0]:
                norm_backward(gx, currents, weight, mean, invstd, sums, gx.numel() // gx.shape[2])
        if static(currents):
            gx = spread(gx[0], currents.shape[0])
        return gx, (g_state.to(state.dtype) if state is not None else None), None, g_weight, g_bias, *[None] * 7


for _name, _function, _fake in (
    ("fire", _fire, _fire_fake),
    ("fire_backward", _fire_backward, _fire_backward_fake),
    ("moments", _moments, _moments_fake),
    ("settle", _settle, _settle_fake),
    ("norm_backward", _norm_backward, lambda *inputs: None),
):
    _library.impl(_name, _function, "CPU")
    torch.library.register_fake(f"rheobase::{_name}", _fake, lib=_library)
_library.impl("fire", _Fire.apply, "Autograd")

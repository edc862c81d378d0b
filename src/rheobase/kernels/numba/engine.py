"""The Numba engine's record: from the operators' inputs to a job for the kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rheobase.kernels import ops
from rheobase.kernels.layout import aligned
from rheobase.kernels.numba import neuron, norm, packing, threads
from rheobase.kernels.numba.jit import ELEMENTS, Job
from rheobase.kernels.numba.rows import RESETS, SURROGATES
from rheobase.kernels.numba.walk import Walk, walk
from rheobase.kernels.ops import FIRST_NORM, FIRST_NUMBER, Gradients, Inputs, Outputs
from rheobase.kernels.registry import Engine, Running
from rheobase.kernels.spec import How
from rheobase.kernels.time import static


def why_not(how: How, x: Tensor) -> str | None:
    """Why it cannot take these currents, or None."""
    if x.dtype not in ELEMENTS:
        return f"it takes float32 and bfloat16, and the currents are {x.dtype}"
    if how.surrogate not in SURROGATES:
        return f"it knows only the surrogates of rheobase.surrogate, not {how.surrogate}"
    return None


def _row(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values if values.dtype is dtype and values.is_contiguous() else values.to(dtype).contiguous()


class _Numbers(NamedTuple):
    """A neuron's numbers as the kernels read them: fields of a job, and what has to be kept alive for it."""

    fields: list[int]
    channels: bool  # whether there is one a channel
    neurons: bool  # or one a neuron
    alive: list[Tensor]


def _numbers(given: Inputs, x: Tensor) -> _Numbers:
    fields: list[int] = []
    channels, neurons, alive = False, False, []
    for number in given[FIRST_NUMBER:FIRST_NORM]:
        if number is None:
            number = given.decay  # (unread)
        many = number.numel()
        if many > 1:
            channels, neurons = channels or number.dim() == 1, neurons or number.dim() > 1
            if number.dim() > 1:
                number = aligned(number.to(torch.float32).unsqueeze(0), x[0, :1])
            else:
                number = _row(number, torch.float32)
        elif number.dtype is not torch.float32:
            number = number.to(torch.float32)
        alive.append(number)
        fields += (number.data_ptr(), many)
    return _Numbers(fields, channels, neurons, alive)


def _flat(state: Tensor | None, like: Tensor) -> Tensor | None:
    """A state `[B, ...]` in float32 and in the storage order of `like`."""
    return None if state is None else aligned(state.to(torch.float32).unsqueeze(0), like)


def _job(x: Tensor, how: Walk, tensors: Mapping[str, Tensor | None], fields: dict[str, Any], numbers: Any = ()) -> Job:
    """A job on currents x and these tensors, which the caller has to keep alive."""
    for name, tensor in tensors.items():
        if tensor is not None:
            fields[name] = tensor.data_ptr()
    return Job(0, 0, 0, *how, *numbers, x=x.data_ptr(), **fields)


def _brought(given: Inputs, x: Tensor, fields: dict[str, Any]) -> dict[str, Tensor | None]:
    """What goes in, as kernels read it; and in the fields, how far apart the residual's steps are."""
    found: dict[str, Tensor | None] = {}
    if given.state is not None:
        found["state"] = _flat(given.state, x)
    if given.other is not None:
        found["other"] = _flat(given.other, x)
    residual = given.residual
    if residual is not None:
        moving = not static(residual)
        found["residual"] = aligned(residual if moving else residual[:1], x)
        fields["residual_step"] = x[0].numel() if moving else 0
    if given.skip is not None:
        found["skip"] = aligned(given.skip, x)
    if given.weight is not None and given.bias is not None:
        found["weight"], found["bias"] = _row(given.weight, torch.float32), _row(given.bias, torch.float32)
        found["mean"], found["m2"] = given.mean, given.m2
    return found


def moments(x: Tensor, running: Running | None = None) -> tuple[Tensor, Tensor]:
    """Mean and sum of squared deviations of each channel, float64; float32 running statistics follow them."""
    how = walk(x, True)
    mean, m2 = x.new_empty(how.C, dtype=torch.float64), x.new_empty(how.C, dtype=torch.float64)
    if not x.numel():
        return mean.zero_(), m2.zero_()
    sums = x.new_empty((how.pieces, 2, how.C), dtype=torch.float64)
    fields: dict[str, Any] = {"sum_rows": 2, "count": how.N * how.T / how.C}
    tensors = {"mean": mean, "m2": m2, "sums": sums}
    if running is not None:
        tensors["running_mean"], tensors["running_var"], fields["momentum"] = running
    threads.run(norm.moments(ELEMENTS[x.dtype]), _job(x, how, tensors, fields))
    if running is not None:
        torch.autograd.graph.increment_version(running[:2])
    return mean, m2


def forward(given: Inputs, how: How, keep_state: bool, keep_drive: bool) -> Outputs:
    """See `ops.Outputs`."""
    x = given.currents
    cuba, adaptive = how.kind == "CubaLIF", how.kind == "AdaptiveLIF"
    outputs = ops.outputs(x, cuba or adaptive, keep_state, keep_drive)
    if not x.numel():
        return outputs
    numbers = _numbers(given, x)
    fields: dict[str, Any] = {"eps": how.eps, "count": how.samples}
    tensors = _brought(given, x, fields)
    tensors["spikes"], tensors["drive"], tensors["final"], tensors["final_other"] = outputs
    shape = walk(x, numbers.channels or given.weight is not None, numbers.neurons)
    job = _job(x, shape, tensors, fields, numbers.fields)
    rows = numbers.channels or numbers.neurons
    threads.run(neuron.forward(ELEMENTS[x.dtype], RESETS.index(how.reset), cuba, adaptive, rows), job)
    return outputs


def backward(
    given: Inputs, how: How, grads: Sequence[Tensor | None], drive: Tensor | None, learned: tuple[bool, ...]
) -> Gradients:
    """See `ops.Gradients`."""
    x = given.currents
    cuba, adaptive, normed = how.kind == "CubaLIF", how.kind == "AdaptiveLIF", given.weight is not None
    gradients = ops.gradients(x, given, learned)
    if not x.numel():
        for gradient in gradients:
            if gradient is not None:
                gradient.zero_()
        return gradients
    numbers = _numbers(given, x)
    fields: dict[str, Any] = {"eps": how.eps, "count": how.samples}
    tensors = _brought(given, x, fields)
    grad, grad_drive, final, final_other = grads
    assert grad is not None
    tensors["g"], tensors["gy"] = aligned(grad, x), gradients.drive
    if final is not None or final_other is not None:
        tensors["g_final"], tensors["g_final_other"] = _flat(final, x), _flat(final_other, x)
    if grad_drive is not None:
        tensors["g_drive"] = aligned(grad_drive, x)
    if drive is not None:
        tensors["drive"] = aligned(drive, x)
    tensors["g_state"], tensors["g_other"] = gradients.state, gradients.other
    tensors["g_weight"], tensors["g_bias"] = gradients.weight, gradients.bias
    for_decay, for_threshold, for_scale, *_ = learned
    arrays = 1 + (cuba or adaptive) + (for_decay or (for_threshold and how.reset == "delayed")) + for_scale
    shape = walk(x, numbers.channels or normed, numbers.neurons, arrays)
    learning = [g for g in gradients[-len(learned) :] if g is not None]
    # some are one a neuron, or there are so many channels that a sum of each in every piece would be more
    apart = any(g.dim() > 1 for g in learning) or (bool(learning) and shape.pieces * shape.C > shape.N)
    sum_rows = 2 * normed + (0 if apart else len(learning))
    fields["sum_rows"] = sum_rows
    sums = x.new_empty((shape.pieces, sum_rows, shape.C), dtype=torch.float64) if sum_rows else None
    each = x.new_empty((len(learning), shape.N), dtype=torch.float32) if apart else None
    tensors["sums"], tensors["g_numbers"] = sums, each
    job = _job(x, shape, tensors, fields, numbers.fields)
    kind, reset = SURROGATES.index(how.surrogate), RESETS.index(how.reset)
    flags = (how.detach_reset, numbers.channels or numbers.neurons, normed, learned, apart)
    threads.run(neuron.backward(ELEMENTS[x.dtype], kind, reset, cuba, adaptive, *flags), job)
    for k, g in enumerate(learning):
        found = _folded(each[k], x, g.dim()) if each is not None else sums[0, 2 * normed + k]  # type: ignore[index]
        g.copy_((found if g.numel() == found.numel() else found.sum()).reshape(g.shape))
    return gradients._replace(sums=sums[0, :2]) if normed else gradients  # type: ignore[index]


def _folded(each: Tensor, x: Tensor, dim: int) -> Tensor:
    """Of a gradient for each neuron and sample, the sum over samples (and places of a channel, for dim = 1).

    In halves, so that it is the same for any number of threads.
    """
    rows = torch.empty_strided(x.shape[1:], x.stride()[1:], dtype=torch.float32)
    rows.as_strided((each.numel(),), (1,)).copy_(each)
    if dim < 2 and rows.dim() > 2:
        rows = rows.movedim(1, 0).reshape(rows.shape[1], -1).t()
    while len(rows) > 1:
        half = len(rows) // 2
        folded = rows[:half] + rows[half : 2 * half]
        rows = torch.cat([folded, rows[2 * half :]]) if len(rows) % 2 else folded
    return rows[0]


def norm_backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    mean: Tensor,
    m2: Tensor,
    sums: Tensor,
    eps: float,
    samples: int,
    out: Tensor,
) -> Tensor:
    """The gradient of x, in `out`, which may be `grad`."""
    if not x.numel():
        return out
    x = aligned(x[:1], grad).expand(x.shape) if static(x) else aligned(x, grad)
    weight, sums = _row(weight, torch.float32), _row(sums, torch.float64)
    tensors: dict[str, Tensor | None] = {"weight": weight, "mean": mean, "m2": m2, "sums": sums, "gy": grad, "gx": out}
    threads.run(norm.norm_backward(ELEMENTS[x.dtype]), _job(x, walk(x, True), tensors, {"eps": eps, "count": samples}))
    return out


def keeping(x: Tensor) -> AbstractContextManager[Any] | None:
    """A context in which autograd keeps x as bytes, if it can."""
    return packing.keeping(x) if packing.can_keep(x) else None


ENGINE = Engine("numba", ("cpu",), why_not, moments, forward, backward, norm_backward, keeping)

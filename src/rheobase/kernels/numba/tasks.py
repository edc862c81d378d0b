"""From the operators' inputs to a job for the kernels."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from struct import Struct
from typing import NamedTuple

import torch
from torch import Tensor

from rheobase.kernels import ops
from rheobase.kernels.layout import aligned
from rheobase.kernels.numba import neuron
from rheobase.kernels.numba.jit import ELEMENTS, NUMBERS, Job, Kernel
from rheobase.kernels.numba.rows import RESETS, SURROGATES
from rheobase.kernels.numba.walk import Walk, walk
from rheobase.kernels.ops import FIRST_NORM, FIRST_NUMBER, Gradients, Inputs, Outputs
from rheobase.kernels.spec import How
from rheobase.kernels.time import static


def row(values: Tensor, dtype: torch.dtype) -> Tensor:
    """Values one after the other, in this dtype."""
    return values if values.dtype is dtype and values.is_contiguous() else values.to(dtype).contiguous()


class _Numbers(NamedTuple):
    """A neuron's numbers as the kernels read them: fields of a job, and the tensors that they point into."""

    fields: list[int]
    channels: bool  # whether there is one a channel
    neurons: bool  # or one a neuron
    tensors: list[Tensor]


def numbers_of(given: Inputs, x: Tensor) -> _Numbers:
    """The numbers of the neurons that currents x drive."""
    fields: list[int] = []
    channels, neurons, tensors = False, False, []
    for number in given[FIRST_NUMBER:FIRST_NORM]:
        if number is None:
            number = given.decay  # (unread)
        many = number.numel()
        if many > 1:
            channels, neurons = channels or number.dim() == 1, neurons or number.dim() > 1
            if number.dim() > 1:
                number = aligned(number.to(torch.float32).unsqueeze(0), x[0, :1])
            else:
                number = row(number, torch.float32)
        elif number.dtype is not torch.float32:
            number = number.to(torch.float32)
        tensors.append(number)
        fields += (number.data_ptr(), many)
    return _Numbers(fields, channels, neurons, tensors)


@lru_cache(maxsize=4096)
def _blank(how: Walk) -> Job:
    """What jobs that walk so have in common, to be copied: making one takes longer."""
    return Job(0, 0, 0, *how)


_pack_numbers, _NUMBERS_AT = Struct(f"={2 * len(NUMBERS)}q").pack_into, getattr(Job, f"n_{NUMBERS[0]}").offset


def _flat(state: Tensor | None, like: Tensor) -> Tensor | None:
    """A state `[B, ...]` in float32 and in the storage order of `like`."""
    return None if state is None else aligned(state.to(torch.float32).unsqueeze(0), like)


def job(x: Tensor, how: Walk, numbers: _Numbers | None = None, **tensors: Tensor | None) -> Job:
    """A job on currents x and these tensors, which live as long as it."""
    made = Job.from_buffer_copy(_blank(how))
    made.x = x.data_ptr()
    if numbers is not None:
        _pack_numbers(made, _NUMBERS_AT, *numbers.fields)
    for name, tensor in tensors.items():
        if tensor is not None:
            setattr(made, name, tensor.data_ptr())
    made.alive = (x, tensors, numbers)
    return made


def neurons(given: Inputs, how: How, numbers: _Numbers, shape: Walk, **tensors: Tensor | None) -> Job:
    """A job with all that goes in, as kernels read it."""
    x, residual = given.currents, given.residual
    if given.state is not None or given.other is not None:
        tensors["state"], tensors["other"] = _flat(given.state, x), _flat(given.other, x)
    if given.skip is not None:
        tensors["skip"] = aligned(given.skip, x)
    moving = residual is not None and not static(residual)
    if residual is not None:
        tensors["residual"] = aligned(residual if moving else residual[:1], x)
    if given.weight is not None and given.bias is not None:
        tensors["weight"], tensors["bias"] = row(given.weight, torch.float32), row(given.bias, torch.float32)
        tensors["mean"], tensors["m2"] = given.mean, given.m2
    made = job(x, shape, numbers, **tensors)
    made.eps, made.count, made.residual_step = how.eps, how.samples, shape.N if moving else 0
    return made


class Task(NamedTuple):
    """A kernel and its job."""

    kernel: Kernel
    job: Job


def forward_task(given: Inputs, how: How, outputs: Outputs) -> Task:
    """What fills the outputs."""
    x = given.currents
    cuba, adaptive = how.kind == "CubaLIF", how.kind == "AdaptiveLIF"
    numbers = numbers_of(given, x)
    shape = walk(x, numbers.channels or given.weight is not None, numbers.neurons)
    spikes, drive, final, other = outputs
    work = neurons(given, how, numbers, shape, spikes=spikes, drive=drive, final=final, final_other=other)
    rows = numbers.channels or numbers.neurons
    kernel = neuron.forward(ELEMENTS[x.dtype], RESETS.index(how.reset), cuba, adaptive, rows)
    return Task(kernel, work)


class Sums(NamedTuple):
    """Where gradients of numbers gather: `rows [pieces, .., C]`, or `each [.., N]`, one a neuron and sample."""

    rows: Tensor
    each: Tensor | None


def backward_task(
    given: Inputs,
    how: How,
    grads: Sequence[Tensor | None],
    drive: Tensor | None,
    learned: tuple[bool, ...],
    gradients: Gradients,
) -> tuple[Task, Sums]:
    """What fills the gradients, but for those of a neuron's numbers, which are in the sums then."""
    x = given.currents
    cuba, adaptive, normed = how.kind == "CubaLIF", how.kind == "AdaptiveLIF", given.weight is not None
    numbers = numbers_of(given, x)
    for_decay, for_threshold, for_scale, *_ = learned
    arrays = 1 + (cuba or adaptive) + (for_decay or (for_threshold and how.reset == "delayed")) + for_scale
    shape = walk(x, numbers.channels or normed, numbers.neurons, arrays)
    learning = _learning(gradients) if True in learned else []
    # some are one a neuron, or there are so many channels that a sum of each in every piece would be more
    apart = bool(learning) and (any(g.dim() > 1 for g in learning) or shape.pieces * shape.C > shape.N)
    sum_rows = 2 * normed + (0 if apart else len(learning))
    sums = x.new_empty((shape.pieces, sum_rows, shape.C), dtype=torch.float64)
    each = x.new_empty((len(learning), shape.N), dtype=torch.float32) if apart else None
    grad, grad_drive, final, final_other = grads
    assert grad is not None
    tensors = {"g": aligned(grad, x), "gy": gradients.drive, "sums": sums, "g_numbers": each}
    if given.state is not None or given.other is not None:
        tensors["g_state"], tensors["g_other"] = gradients.state, gradients.other
    if normed:
        tensors["g_weight"], tensors["g_bias"] = gradients.weight, gradients.bias
    if final is not None or final_other is not None:
        tensors["g_final"], tensors["g_final_other"] = _flat(final, x), _flat(final_other, x)
    if grad_drive is not None:
        tensors["g_drive"] = aligned(grad_drive, x)
    if drive is not None:
        tensors["drive"] = aligned(drive, x)
    work = neurons(given, how, numbers, shape, **tensors)
    work.sum_rows = sum_rows
    kind, reset = SURROGATES.index(how.surrogate), RESETS.index(how.reset)
    flags = (how.detach_reset, numbers.channels or numbers.neurons, normed, learned, apart)
    kernel = neuron.backward(ELEMENTS[x.dtype], kind, reset, cuba, adaptive, *flags)
    return Task(kernel, work), Sums(sums, each)


def zeroed(gradients: Gradients) -> Gradients:
    """Those of nothing, such as an empty batch."""
    for gradient in gradients:
        if gradient is not None:
            gradient.zero_()
    return gradients


def _learning(gradients: Gradients) -> list[Tensor]:
    return [g for g in gradients[-len(ops.LEARNABLE) :] if g is not None]


def fill(gradients: Gradients, sums: Sums, x: Tensor) -> None:
    """The gradients of a neuron's numbers, from the sums."""
    learning = _learning(gradients)
    for k, g in enumerate(learning):
        found = sums.rows[0, k - len(learning)] if sums.each is None else _folded(sums.each[k], x, g.dim())
        g.copy_((found if g.numel() == found.numel() else found.sum()).reshape(g.shape))


def _folded(each: Tensor, x: Tensor, dim: int) -> Tensor:
    """Of a gradient for each neuron and sample, the sum over samples (and places of a channel, for dim = 1).

    In halves, so that it is the same for any number of threads.
    """
    rows = torch.empty_strided(x.shape[1:], x.stride()[1:], dtype=torch.float32, device=x.device)
    rows.as_strided((each.numel(),), (1,)).copy_(each)
    if dim < 2 and rows.dim() > 2:
        rows = rows.movedim(1, 0).reshape(rows.shape[1], -1).t()
    while len(rows) > 1:
        half = len(rows) // 2
        folded = rows[:half] + rows[half : 2 * half]
        rows = torch.cat([folded, rows[2 * half :]]) if len(rows) % 2 else folded
    return rows[0]

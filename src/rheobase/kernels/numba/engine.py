"""The Numba engine's record."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from rheobase.kernels import ops
from rheobase.kernels.layout import aligned
from rheobase.kernels.numba import neighborhood, norm, recurrent, spike_train, threads
from rheobase.kernels.numba.jit import ELEMENTS
from rheobase.kernels.numba.rows import SURROGATES
from rheobase.kernels.numba.tasks import backward_task, fill, forward_task, job, row, zeroed
from rheobase.kernels.numba.walk import walk
from rheobase.kernels.ops import Gradients, Inputs, Outputs
from rheobase.kernels.registry import Engine, Running
from rheobase.kernels.spec import How
from rheobase.kernels.time import static

KINDS = ("LIF", "CubaLIF", "AdaptiveLIF")


def why_not(how: How, x: Tensor) -> str | None:
    """Why it cannot take these currents, or None."""
    if x.dtype not in ELEMENTS:
        return f"it takes float32 and bfloat16, and the currents are {x.dtype}"
    if how.kind not in KINDS:
        return f"it knows {', '.join(KINDS)}, not {how.kind}"
    if how.surrogate not in SURROGATES:
        return f"it knows only the surrogates of rheobase.surrogate, not {how.surrogate}"
    return None


def moments(x: Tensor, running: Running | None = None) -> tuple[Tensor, Tensor]:
    """Mean and sum of squared deviations of each channel, float64; float32 running statistics follow them."""
    how = walk(x, True)
    mean, m2 = x.new_empty(how.C, dtype=torch.float64), x.new_empty(how.C, dtype=torch.float64)
    if not x.numel():
        return mean.zero_(), m2.zero_()
    sums = x.new_empty((how.pieces, 2, how.C), dtype=torch.float64)
    running_mean, running_var, momentum = running or (None, None, 0)
    work = job(x, how, mean=mean, m2=m2, sums=sums, running_mean=running_mean, running_var=running_var)
    work.sum_rows, work.count, work.momentum = 2, how.N * how.T / how.C, momentum
    if running is not None:
        torch.autograd.graph.increment_version(running[:2])
    threads.run(norm.moments(ELEMENTS[x.dtype]), work)
    return mean, m2


def forward(given: Inputs, how: How, keep_state: bool, keep_drive: bool) -> Outputs:
    """See `ops.Outputs`."""
    outputs = ops.outputs(given.currents, how.kind != "LIF", keep_state, keep_drive)
    if given.currents.numel():
        threads.run(*forward_task(given, how, outputs))
    return outputs


def backward(
    given: Inputs, how: How, grads: Sequence[Tensor | None], drive: Tensor | None, learned: tuple[bool, ...]
) -> Gradients:
    """See `ops.Gradients`."""
    x = given.currents
    gradients = ops.gradients(x, given, learned)
    if not x.numel():
        return zeroed(gradients)
    task, sums = backward_task(given, how, grads, drive, learned, gradients)
    threads.run(*task, partial(fill, gradients, sums, x) if True in learned else None)
    if given.weight is not None:
        channels = given.weight.shape[0]
        of_norm = sums.rows.as_strided((2, channels), (channels, 1))  # (as [0, :2], which takes longer)
        return Gradients(*gradients[:3], of_norm, *gradients[4:])
    return gradients


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
    weight, sums = row(weight, torch.float32), row(sums, torch.float64)
    work = job(x, walk(x, True), weight=weight, mean=mean, m2=m2, sums=sums, gy=grad, gx=out)
    work.eps, work.count = eps, samples
    threads.run(norm.norm_backward(ELEMENTS[x.dtype]), work)
    return out


ENGINE = Engine(
    "numba",
    ("cpu",),
    why_not,
    moments,
    forward,
    backward,
    norm_backward,
    recurrent.forward,
    recurrent.backward,
    {"neighborhood": neighborhood.backward, "spike_train": spike_train.backward},
    threads.queue,
)

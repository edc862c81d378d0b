"""The Numba engine's record."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from rheobase.kernels import ops
from rheobase.kernels.layout import aligned
from rheobase.kernels.numba import norm, recurrent, threads
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
    fields: dict[str, Any] = {"sum_rows": 2, "count": how.N * how.T / how.C}
    tensors = {"mean": mean, "m2": m2, "sums": sums}
    if running is not None:
        tensors["running_mean"], tensors["running_var"], fields["momentum"] = running
    moved = None if running is None else partial(torch.autograd.graph.increment_version, running[:2])
    threads.run(norm.moments(ELEMENTS[x.dtype]), job(x, how, tensors, fields), moved)
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
    threads.run(*task, partial(fill, gradients, sums, x))
    return gradients._replace(sums=sums.rows[0, :2]) if given.weight is not None else gradients


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
    tensors: dict[str, Tensor | None] = {"weight": weight, "mean": mean, "m2": m2, "sums": sums, "gy": grad, "gx": out}
    work = job(x, walk(x, True), tensors, {"eps": eps, "count": samples})
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
    threads.queue,
)

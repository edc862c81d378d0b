"""Norm statistics of several processes of `torch.distributed`: what they exchange between two operators."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from rheobase.compat import grouped
from rheobase.kernels.registry import Engine


def several() -> bool:
    """Whether this is one of several processes of a process group."""
    return grouped() and dist.get_world_size() > 1


def joined(count: int, mean: Tensor, m2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Count, mean and sum of squared deviations of all processes' values, from those of this one's.

    n = sum n_i;  mean = sum n_i mean_i / n;  m2 = sum (m2_i + n_i (mean_i - mean)^2)    (Chan et al. 1979)
    """
    own = torch.cat([torch.full_like(mean[:1], count), mean, m2])
    every = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(every, own)
    counts, means, m2s = torch.stack(every).split([1, len(mean), len(m2)], 1)
    total = counts.sum()
    mean = (counts * means).sum(0) / total
    return total, mean, (m2s + counts * (means - mean).square()).sum(0)


def together(engine: Engine, share: Tensor) -> Engine:
    """The engine, with the sums of all processes on the way back through a norm: `share` of them come to one's own."""

    def norm_backward(
        grad: Tensor, x: Tensor, weight: Tensor, mean: Tensor, m2: Tensor, sums: Tensor, *rest: Any
    ) -> Any:
        sums = sums.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(sums)
        return engine.norm_backward(grad, x, weight, mean, m2, sums * share, *rest)

    return replace(engine, norm_backward=norm_backward, queue=nullcontext, operators=False)


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor) -> Tensor:
        y = x.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(y)
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return summed(grads[0])


def summed(x: Tensor) -> Tensor:
    """The sum over all processes; a gradient is summed too."""
    y: Tensor = _Summed.apply(x)
    return y

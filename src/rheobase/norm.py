"""Norms of input currents."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rheobase import kernels
from rheobase.kernels.time import distinct, once, repeat, static


class CurrentNorm(nn.Module):
    """Batch norm of the input currents, with statistics shared by all time steps.

    y = weight (x - mean) / sqrt(var + eps) + bias, a channel at a time; in training mean and var are those of x over
    time, batch and space, and the running statistics follow them as in `torch.nn.BatchNorm2d`; in evaluation they are
    the running ones. x is `[T, B, C, ...]`. Currents that are the same at every step count once.

    Args:
        channels: C.
        eps: added to the variance.
        momentum: weight of the newest batch in the running statistics.
        gain: initial weight.

    Source: Ledinauskas et al. 2020 (batch norm of input currents); Zheng et al. 2021 (over time and batch).
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5, momentum: float = 0.1, gain: float = 1.0) -> None:
        super().__init__()
        if not isinstance(channels, int) or channels < 1:
            raise ValueError(f"CurrentNorm: channels must be a positive integer, got {channels!r}")
        if not isinstance(momentum, int | float) or not 0 <= momentum <= 1:
            raise ValueError(f"CurrentNorm: momentum must be a number in [0, 1], got {momentum!r}")
        if not isinstance(eps, int | float) or not eps > 0:
            raise ValueError(f"CurrentNorm: eps must be a number > 0, got {eps!r}")
        self.channels = channels
        self.eps = eps
        self.momentum = momentum
        self.weight = nn.Parameter(torch.full((channels,), float(gain)))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def check(self, currents: Tensor) -> None:
        """Refuse what is not `[T, B, C, ...]`.

        Raises:
            ValueError: another number of axes or channels, or (in training) only one value a channel.
        """
        shape = currents.shape
        if len(shape) < 3 or shape[2] != self.channels:
            raise ValueError(f"CurrentNorm: currents must be [T, B, {self.channels}, ...], got {list(shape)}")
        if self.training and self._samples(currents) < 2:
            raise ValueError(f"CurrentNorm: training needs more than one value a channel, got shape {list(shape)}")

    def _samples(self, currents: Tensor) -> int:
        return distinct(currents) * math.prod(currents.shape[1:]) // self.channels

    def forward(self, currents: Tensor) -> Tensor:
        """Normalised currents `[T, B, C, ...]`."""
        self.check(currents)
        steps, batch = currents.shape[:2]
        same = static(currents)
        flat = once(currents) if same else currents.flatten(0, 1)
        y = F.batch_norm(
            flat,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )
        return repeat(y, steps) if same else y.unflatten(0, (steps, batch))

    def operands(self, currents: Tensor) -> kernels.Norm:
        """What the operator needs that has this norm in it."""
        self.check(currents)
        momentum = float(self.momentum) if self.training else None
        return kernels.Norm(self.weight, self.bias, self.running_mean, self.running_var, self.eps, momentum)

    def extra_repr(self) -> str:
        """The arguments."""
        return f"{self.channels}, eps={self.eps:g}, momentum={self.momentum:g}"

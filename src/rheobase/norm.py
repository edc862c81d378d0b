"""Norms of input currents."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rheobase import kernels
from rheobase.eager import eagerly


class _Local(threading.local):
    lengths: Tensor | None = None


_local = _Local()


@contextmanager
def padding(lengths: Tensor) -> Iterator[None]:
    """Within it, what lies past a sample's length enters no `CurrentNorm`'s statistics.

    Padding must be finite: a NaN in it shows in the readout, and in gradients.

    Compiled models run as if they were not.

    Args:
        lengths: `[B]` whole numbers, each sample's real steps of a batch `[T, B, ...]`.
    """
    with eagerly():
        before, _local.lengths = _local.lengths, lengths
        try:
            yield
        finally:
            _local.lengths = before


def real_steps(lengths: Tensor, steps: int, batch: int, owner: str) -> Tensor:
    """Which steps of which samples are real, `[T, B]`.

    Raises:
        ValueError: lengths are not `[B]` whole numbers from 1 to T.
    """
    whole = isinstance(lengths, Tensor) and lengths.dtype in (torch.int64, torch.int32, torch.int16, torch.uint8)
    if not whole or lengths.shape != (batch,) or not bool(((lengths >= 1) & (lengths.long() <= steps)).all()):
        got = f"{lengths.dtype} {lengths.tolist()}" if isinstance(lengths, Tensor) else repr(lengths)
        raise ValueError(f"{owner}: lengths must be [{batch}] whole numbers from 1 to {steps}, got {got}")
    return torch.arange(steps, device=lengths.device).unsqueeze(1) < lengths.long()


class CurrentNorm(nn.Module):
    """Batch norm of the input currents, with statistics shared by all time steps.

    y = weight (x - mean) / sqrt(var + eps) + bias, a channel at a time; in training mean and var are those of x over
    time, batch and space, and the running statistics follow them as in `torch.nn.BatchNorm2d`; in evaluation they are
    the running ones. x is `[T, B, C, ...]`. See `rheobase.padding` for sequences of different lengths.

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
            hint = ": a layer before it without PerStep?" if len(shape) > 1 and shape[1] == self.channels else ""
            raise ValueError(f"CurrentNorm: currents must be [T, B, {self.channels}, ...], got {list(shape)}{hint}")
        if self.training and currents.numel() < 2 * self.channels:
            raise ValueError(f"CurrentNorm: training needs more than one value a channel, got shape {list(shape)}")

    @property
    def padded(self) -> bool:
        """Whether padding is to be left out now."""
        return self.training and _local.lengths is not None

    def forward(self, currents: Tensor) -> Tensor:
        """Normalised currents `[T, B, C, ...]`."""
        self.check(currents)
        if self.padded:
            return self._without_padding(currents)
        running = (self.running_mean, self.running_var)
        if not self.training:  # a training pass before this one's backward would move them
            running = (running[0].clone(), running[1].clone())
        flat = currents.flatten(0, 1)
        y = F.batch_norm(
            flat.contiguous() if len(flat) == 1 else flat,  # (of one image, torch 2.13 mistakes what strides mean)
            *running,
            self.weight,
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )
        return y.unflatten(0, currents.shape[:2])

    def _without_padding(self, currents: Tensor) -> Tensor:
        assert _local.lengths is not None
        if not torch.is_grad_enabled():
            raise RuntimeError(
                "padding: a norm in training runs without gradients, as in reentrant checkpointing, which computes "
                "again where lengths are not known: checkpoint(..., use_reentrant=False), and backward within it too"
            )
        real = currents[real_steps(_local.lengths, currents.shape[0], currents.shape[1], "padding")]
        if real.numel() < 2 * self.channels:
            raise ValueError(
                f"CurrentNorm: training needs more than one value a channel, got {list(real.shape)} real ones"
            )
        real = real.to(torch.promote_types(real.dtype, torch.float32)).movedim(1, 0).flatten(1)
        mean, var = real.mean(1), real.var(1, correction=0)
        running, count = (self.running_mean, self.running_var, self.momentum), real.shape[1]
        kernels.follow(running, mean.detach(), var.detach() * count, count)
        shape = (-1, *[1] * (currents.dim() - 3))
        scale = self.weight * (var + self.eps).rsqrt()
        y = (currents - mean.reshape(shape)) * scale.reshape(shape) + self.bias.reshape(shape)
        return y.to(currents.dtype)

    def operands(self, currents: Tensor, by: kernels.Engine) -> kernels.Norm:
        """What an engine's operator needs that has this norm in it; in training the running statistics move."""
        self.check(currents)
        if not self.training:
            mean, var = self.running_mean.double(), self.running_var.double()
            return kernels.Norm(self.weight, self.bias, mean, var, self.eps, 0)
        running = (self.running_mean, self.running_var, self.momentum)
        count, mean, m2 = kernels.moments(currents, by, running)
        return kernels.Norm(self.weight, self.bias, mean, m2, self.eps, count)

    def extra_repr(self) -> str:
        """The arguments."""
        return f"{self.channels}, eps={self.eps:g}, momentum={self.momentum:g}"

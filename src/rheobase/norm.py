"""Norms of input currents."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rheobase import kernels
from rheobase.compat import apart, transformed
from rheobase.eager import eagerly
from rheobase.kernels import processes
from rheobase.kernels.time import static
from rheobase.modes import in_mode
from rheobase.neurons.base import strange
from rheobase.padded import real_steps


class _Local(threading.local):
    lengths: Tensor | None = None


_local = _Local()


def lengths() -> Tensor | None:
    """Those of `padding`, where it is in force."""
    return _local.lengths


@contextmanager
def padding(lengths: Tensor | None) -> Iterator[None]:
    """Within it, what lies past a sample's length enters no `CurrentNorm`'s statistics.

    Nor does it enter the mean over time that an ANN twin takes of a sequence, in evaluation too. Padding must be
    finite: a NaN in it shows in the readout, and in gradients.

    Compiled models run as if they were not.

    Args:
        lengths: `[B]` whole numbers, each sample's real steps of a batch `[T, B, ...]`; None: all are.
    """
    with eagerly():
        before, _local.lengths = _local.lengths, lengths
        try:
            yield
        finally:
            _local.lengths = before


class CurrentNorm(nn.Module):
    """Batch norm of the input currents, with statistics shared by all time steps.

    y = scale weight (x - mean) / sqrt(var + eps) + bias, a channel at a time; in training mean and var are those of x
    over time, batch and space, and the running statistics follow them as in `torch.nn.BatchNorm2d`; in evaluation they
    are the running ones. x is `[T, B, C, ...]`. See `rheobase.padding` for sequences of different lengths.

    In an initialised process group of several processes (`torch.distributed`, the default group), mean and var are
    those of the currents of all of them, and gradients go through them: as if one process had the whole batch. All of
    them must run the norm then, each with a value a channel at least; in evaluation nothing is exchanged. So
    `nn.SyncBatchNorm.convert_sync_batchnorm`, and Lightning's `sync_batchnorm=True`, have nothing to do, and leave it
    as it is. Under `torch.compile` it runs by itself then, between two graphs.

    Args:
        channels: C.
        eps: added to the variance.
        momentum: weight of the newest batch in the running statistics.
        gain: initial weight.
        scale: a fixed factor. With alpha times the neuron's threshold this is tdBN: currents begin as N(0, scale^2);
            alpha is 1, and 1/sqrt(2) where two such currents are added.
        sync: False: this process's currents alone.

    Source: Ledinauskas et al. 2020 (batch norm of input currents); Zheng et al. 2021 (over time and batch, tdBN).
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        channels: int,
        eps: float = 1e-5,
        momentum: float = 0.1,
        gain: float = 1.0,
        scale: float = 1.0,
        sync: bool = True,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        if not isinstance(channels, int) or channels < 1:
            raise ValueError(f"{name}: channels must be a positive integer, got {channels!r}")
        if not isinstance(momentum, int | float) or not 0 <= momentum <= 1:
            raise ValueError(f"{name}: momentum must be a number in [0, 1], got {momentum!r}")
        for key, value in (("eps", eps), ("scale", scale)):
            if not isinstance(value, int | float) or not 0 < value < math.inf:
                raise ValueError(f"{name}: {key} must be a number > 0, got {value!r}")
        if not isinstance(sync, bool):
            raise ValueError(f"{name}: sync must be true or false, got {sync!r}")
        self.channels = channels
        self.eps = eps
        self.momentum = momentum
        self.scale = scale
        self.sync = sync
        self.weight = nn.Parameter(torch.full((channels,), float(gain)))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def check(self, currents: Tensor) -> None:
        """Refuse what is not `[T, B, C, ...]`.

        Raises:
            TypeError: not a tensor of floating point.
            ValueError: another number of axes or channels, or (in training) only one value a channel.
        """
        if (got := strange(currents)) is not None:
            raise TypeError(f"CurrentNorm: currents must be a dense floating point tensor, got {got}")
        shape = currents.shape
        if len(shape) < 3 or shape[2] != self.channels:
            hint = ": a layer before it without PerStep?" if len(shape) > 1 and shape[1] == self.channels else ""
            raise ValueError(f"CurrentNorm: currents must be [T, B, {self.channels}, ...], got {list(shape)}{hint}")
        if self.training and currents.numel() < 2 * self.channels:
            self._check_count(currents)

    def _check_count(self, currents: Tensor) -> None:
        if currents.numel() < (1 if self.together else 2) * self.channels:
            raise ValueError(
                "CurrentNorm: training needs more than one value a channel (or one in each of several processes), got "
                f"shape {list(currents.shape)}"
            )

    @property
    def together(self) -> bool:
        """Whether statistics are those of several processes now."""
        return self.training and self.sync and processes.several()

    @property
    def alone(self) -> bool:
        """Whether it has to run by itself: to leave out padding, or together where `torch.compile` looks on."""
        return self.training and (_local.lengths is not None or (torch.compiler.is_compiling() and self.together))

    def forward(self, currents: Tensor) -> Tensor:
        """Normalised currents `[T, B, C, ...]`."""
        self.check(currents)
        if self.alone or self.together:
            return self._written_out(currents)
        # autograd keeps the statistics, and a later pass moves ours
        running = ours = self.running_mean, self.running_var
        if (inside := transformed()) is None:  # (torch.func lets torch's norm alone change what is not of its own)
            running = ours[0].clone(), ours[1].clone()
        # steps that are the same memory have to be copied, in the storage order of a step, which flatten would not keep
        flat = torch.cat(currents.unbind()) if static(currents) else currents.flatten(0, 1)
        y = F.batch_norm(
            flat.contiguous() if flat.shape[0] == 1 else flat,  # (of one image, torch 2.13 mistakes what strides mean)
            *running,
            self._scaled(),
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )
        if self.training and inside is None:
            for buffer, moved in zip(ours, running, strict=True):
                buffer.copy_(moved)
        return y.unflatten(0, currents.shape[:2])

    def _scaled(self) -> Tensor:
        return self.weight if self.scale == 1 else self.scale * self.weight

    @apart
    def _written_out(self, currents: Tensor) -> Tensor:
        """In training, with the statistics of real steps alone, or of several processes."""
        real = currents.movedim(2, 0)
        if _local.lengths is not None:
            if not torch.is_grad_enabled():
                raise RuntimeError(
                    "padding: a norm in training runs without gradients, as in reentrant checkpointing, which "
                    "computes again where lengths are not known: checkpoint(..., use_reentrant=False), and backward "
                    "within it too"
                )
            real = real[:, real_steps(_local.lengths, currents.shape[0], currents.shape[1], "padding")]
            self._check_count(real)
        real = real.to(torch.promote_types(real.dtype, torch.float32)).flatten(1)
        count = float(real.shape[1])
        if self.together:
            total = float(processes.summed(torch.tensor(count, dtype=torch.float64, device=real.device)))
            mean = processes.summed(real.mean(1) * (count / total))
            var = processes.summed((real - mean.unsqueeze(1)).square().mean(1) * (count / total))
            count = total
        else:
            mean, var = real.mean(1), real.var(1, correction=0)
        kernels.follow(self._running, mean.detach(), var.detach() * (count / (count - 1)))
        shape = (-1, *[1] * (currents.dim() - 3))
        scale = self._scaled() * (var + self.eps).rsqrt()
        y = (currents - mean.reshape(shape)) * scale.reshape(shape) + self.bias.reshape(shape)
        return y.to(currents.dtype)

    @property
    def _running(self) -> kernels.Running:
        return self._buffers["running_mean"], self._buffers["running_var"], self.momentum  # type: ignore[return-value]

    def operands(self, currents: Tensor, by: kernels.Engine) -> kernels.Norm:
        """What an engine's operator needs that has this norm in it; in training the running statistics move."""
        self.check(currents)
        weight = self._scaled()
        if not self.training:
            mean, var = self.running_mean.double(), self.running_var.double()
            return kernels.Norm(weight, self.bias, mean, var, self.eps, 0)
        if not self.together:
            count = currents.numel() // self.channels
            return kernels.Norm(weight, self.bias, None, None, self.eps, count, running=self._running)
        count, mean, m2 = kernels.moments(currents, by)
        total, mean, m2 = processes.joined(count, mean, m2)
        kernels.follow(self._running, mean, m2 / (total - 1))
        share = count / total
        return kernels.Norm(weight, self.bias, mean, m2 * share, self.eps, count, share)

    def extra_repr(self) -> str:
        """The arguments."""
        scale = "" if self.scale == 1 else f", scale={self.scale:g}"
        return (
            f"{self.channels}, eps={self.eps:g}, momentum={self.momentum:g}{scale}{'' if self.sync else ', sync=False'}"
        )


class TEBN(CurrentNorm):
    """CurrentNorm with a learned factor for each time step: y[t] = factor[t] CurrentNorm(x)[t].

    Statistics, weight and bias are shared by all steps; the factors, `factor` `[steps]`, begin at 1. So it runs at its
    own number of steps alone, and cannot be streamed.

    Args:
        channels, options: as in `CurrentNorm`.
        steps: T.
        average: the mean of the factors at a single step instead: for the ANN twin.

    Source: Duan et al. 2022 (temporal effective batch normalization).
    """

    def __init__(self, channels: int, steps: int, average: bool = False, **options: Any) -> None:
        super().__init__(channels, **options)
        if not isinstance(steps, int) or steps < 1:
            raise ValueError(f"TEBN: steps must be a positive integer, got {steps!r}")
        self.steps = steps
        self.average = average
        self.factor = nn.Parameter(torch.ones(steps))

    def check(self, currents: Tensor) -> None:
        """Refuse what is not `[T, B, C, ...]`.

        Raises:
            ValueError: as `CurrentNorm`, or another number of time steps.
        """
        super().check(currents)
        if len(currents) != (1 if self.average else self.steps):
            raise ValueError(
                f"TEBN has a factor for each of {self.steps} steps, so that it runs at no other number of them and "
                f"cannot be streamed: currents must be [{self.steps}, B, ...], got {list(currents.shape)}"
            )

    def forward(self, currents: Tensor) -> Tensor:
        """Normalised currents `[T, B, C, ...]`."""
        y = super().forward(currents)
        factor = self.factor.mean(0, keepdim=True) if self.average else self.factor
        return y * factor.to(y.dtype).reshape(-1, *[1] * (y.dim() - 1))

    def extra_repr(self) -> str:
        """The arguments."""
        return f"{super().extra_repr()}, steps={self.steps}{', average=True' if self.average else ''}"


NORMS = (CurrentNorm, nn.modules.batchnorm._BatchNorm)
"""Batch norms, ours and torch's."""


def update_norms(model: nn.Module, batches: Iterable[Any]) -> None:
    """Running statistics anew, each the mean of those of the batches: for weights that were averaged.

    `torch.optim.swa_utils.update_bn`, and Lightning's StochasticWeightAveraging, know torch's norms alone; this knows
    both. What the statistics were is lost with the first batch.

    Args:
        model: it runs in training mode meanwhile.
        batches: inputs of the model; tuples and lists that begin with them; or `rheobase.data.Batches`, whose padding
            is left out.

    Raises:
        ValueError: there is no batch.
    """
    norms: dict[Any, Any] = {
        each: each.momentum for each in model.modules() if isinstance(each, NORMS) and each.running_mean is not None
    }
    count = 0
    try:
        with in_mode(model, training=True):
            for count, batch in enumerate(batches, 1):
                for norm in norms:
                    if count == 1:
                        norm.running_mean.zero_()
                        norm.running_var.fill_(1)
                        if "num_batches_tracked" in norm._buffers:
                            norm.num_batches_tracked.zero_()
                    norm.momentum = 1 / count
                known = getattr(batch, "lengths", lengths())
                with padding(known), torch.set_grad_enabled(known is not None):  # (which padding wants)
                    model(batch[0] if isinstance(batch, tuple | list) else batch)
    finally:
        for norm, momentum in norms.items():
            norm.momentum = momentum
    if count == 0:
        raise ValueError("update_norms: there is no batch")

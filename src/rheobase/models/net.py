"""What all models share: the way in for images, and the parts that a spiking net and its ANN twin have in common."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rheobase.kernels.time import static
from rheobase.layers import Fire, PerStep, direct
from rheobase.neurons import LIF, Neuron
from rheobase.neurons.base import check_untraced, outermost
from rheobase.norm import CurrentNorm


def _no_norm(channels: int, gain: float = 1.0) -> nn.Module:
    return nn.Identity()


class Rate(nn.ReLU):
    """What an ANN twin has in place of a neuron: ReLU. It passes over a neuron's state when weights are loaded."""

    def _load_from_state_dict(self, *_: Any) -> None:
        pass


NORMS: dict[str, Callable[..., nn.Module]] = {"current": CurrentNorm, "none": _no_norm}


class Parts:
    """Makes the layers of one model: convolutions, norms, and neurons (ReLU in the ANN twin).

    Args:
        spiking: False for the twin.
        neuron: prototype, copied at each place; default `LIF()`.
        norm: "current" or "none".
    """

    def __init__(self, spiking: bool, neuron: Neuron | None = None, norm: str = "current") -> None:
        if norm not in NORMS:
            raise ValueError(f"norm must be one of {', '.join(NORMS)}, got {norm!r}")
        self._neuron = (LIF() if neuron is None else neuron) if spiking else Rate()
        self._norm = norm

    def neuron(self) -> nn.Module:
        """A neuron of its own."""
        return copy.deepcopy(self._neuron)

    def norm(self, channels: int, gain: float = 1.0) -> nn.Module:
        """A norm over `channels`."""
        return NORMS[self._norm](channels, gain=gain)

    def fire(self, channels: int, gain: float = 1.0, drive: bool = False) -> Fire:
        """A norm and a neuron."""
        return Fire(self.norm(channels, gain), self.neuron(), drive)

    def conv(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> PerStep:
        """A convolution without bias that keeps the size (over the stride), at every step."""
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=self._norm == "none")
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        return PerStep(conv)


class Net(nn.Module):
    """Base of the registry's models: `features` from frames `[T, B, C, H, W]` to `[T, B, F]`, then a linear head.

    Args:
        features: frames to features.
        head: features to logits `[T, B, classes]`.
        in_channels: C.
        steps: T for static images.
        spiking: whether it is the spiking net or its ANN twin.
    """

    arguments: dict[str, Any]  # of `create`

    def __init__(self, features: nn.Module, head: nn.Module, in_channels: int, steps: int, spiking: bool) -> None:
        super().__init__()
        self.features = features
        self.head = head
        self.in_channels = in_channels
        self.steps = steps
        self.spiking = spiking

    def forward(self, images: Tensor, steps: int | None = None) -> Tensor:
        """Logits `[T, B, classes]`, in the ANN twin `[1, B, classes]`.

        Args:
            images: `[B, C, H, W]`, the same at every step, or a sequence `[T, B, C, H, W]` (the twin takes its mean).
            steps: T for static images, instead of `self.steps`.
        """
        if self.spiking:
            check_untraced(type(self).__name__)
        frames = self.frames(images, steps)
        logits: Tensor = self.head(self.features(frames))
        if logits.shape[:2] != frames.shape[:2]:
            raise RuntimeError(
                f"frames are [T, B] = {list(frames.shape[:2])}, and logits came out {list(logits.shape)}"
            )
        return logits

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        own = {
            f"{prefix}{path}.{key}": value
            for path, neuron in outermost(self).items()
            for key, value in neuron.state_dict().items()
        }
        if not own.keys() & state_dict.keys():  # the weights of the ANN twin, which has no neurons
            state_dict.update(own)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def frames(self, images: Tensor, steps: int | None = None) -> Tensor:
        """The input at every step, `[T, B, C, H, W]`, in channels-last memory.

        Raises:
            ValueError: another number of axes or channels, no time step, or `steps` that contradict the sequence.
        """
        if images.dim() not in (4, 5) or images.shape[-3] != self.in_channels:
            c = self.in_channels
            raise ValueError(f"images must be [B, {c}, H, W] or [T, B, {c}, H, W], got shape {list(images.shape)}")
        if steps is not None and steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        if images.dim() == 4:
            images = images.contiguous(memory_format=torch.channels_last)
            return direct(images, (steps or self.steps) if self.spiking else 1)
        found, batch = images.shape[:2]
        if found == 0:
            raise ValueError(f"images must have a time step, got shape {list(images.shape)}")
        if steps is not None and steps != found:
            raise ValueError(f"steps is for static images; this sequence has {found}, got steps={steps}")
        if found > 1 and batch == self.steps != found and steps is None and self.spiking:
            warnings.warn(
                f"images {list(images.shape)} are taken for {found} time steps of {batch} samples (time comes first), "
                f"and this net has steps={self.steps}: if the batch comes first, images.transpose(0, 1); if not, say "
                f"steps={found}",
                RuntimeWarning,
                stacklevel=3,
            )
        if not self.spiking:
            images = images.mean(0, keepdim=True)
        if static(images):
            return direct(images[0].contiguous(memory_format=torch.channels_last), images.shape[0])
        flat = images.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return flat.unflatten(0, images.shape[:2])


class Pool(nn.Module):
    """Mean over space: `[T, B, C, H, W]` -> `[T, B, C]`."""

    def forward(self, x: Tensor) -> Tensor:
        """Means."""
        return x.mean((-2, -1))


def linear(features: int, classes: int) -> PerStep:
    """The head: a linear layer at every step."""
    return PerStep(nn.Linear(features, classes))

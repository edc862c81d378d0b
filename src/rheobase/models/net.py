"""What all models share: the way in for images, and the parts that a spiking net and its ANN twin have in common."""

from __future__ import annotations

import copy
import warnings
from numbers import Integral
from typing import Any, Literal

import torch
from torch import SymInt, Tensor, nn

from rheobase.kernels.time import static
from rheobase.layers import Fire, PerStep, direct
from rheobase.neurons import LIF, Neuron, Recurrent, SoftLIF
from rheobase.neurons.base import check_untraced, outermost, scripted, strange
from rheobase.norm import TEBN, CurrentNorm, lengths
from rheobase.padded import real_mean


class Rate(nn.ReLU):
    """What an ANN twin has in place of a neuron: ReLU. It passes over a neuron's state when weights are loaded."""

    def _load_from_state_dict(self, *_: Any) -> None:
        pass


Norm = Literal["current", "tdbn", "tebn", "none"]


def firing_current(neuron: nn.Module) -> float:
    """The current at which a resting neuron fires; of a twin's activation, what counts as its firing, 1.

    Raises:
        ValueError: there is no one such number.
    """
    while isinstance(neuron, Recurrent):
        neuron = neuron.neuron
    if isinstance(neuron, Rate):
        return 1.0
    if not isinstance(neuron, LIF) or neuron.threshold.numel() > 1 or neuron.input_scale.numel() > 1:
        raise ValueError(
            "norm 'tdbn', and a SEW 'and' that starts as the identity, need a neuron with one threshold and one "
            f"input_scale, got {neuron!r}"
        )
    return float(neuron.threshold.detach()) / float(neuron.input_scale.detach())


class Parts:
    """Makes the layers of one model: convolutions, norms, and neurons (ReLU in the ANN twin).

    Args:
        spiking: False for the twin.
        neuron: prototype, copied at each place; default `LIF()`. A rate neuron takes ReLU's place in the twin.
        norm: see `Family`.
        steps: T, for "tebn".

    Raises:
        ValueError: a spiking net of rate neurons.
    """

    def __init__(
        self, spiking: bool, neuron: Neuron | SoftLIF | None = None, norm: Norm = "current", steps: int = 1
    ) -> None:
        if spiking and isinstance(neuron, SoftLIF):
            raise ValueError(
                "neuron SoftLIF has no spikes: make the ANN (spiking=False), train it, and rheobase.convert it "
                "(method='soft_lif')"
            )
        self.spiking = spiking
        self.normed = norm != "none"
        self.prototype = LIF() if neuron is None else neuron
        self._norm = norm
        self.steps = steps

    def neuron(self) -> nn.Module:
        """A neuron of its own."""
        rate = not self.spiking and not isinstance(self.prototype, SoftLIF)
        return Rate() if rate else copy.deepcopy(self.prototype)

    def norm(self, channels: int, alpha: float = 1.0) -> nn.Module:
        """A norm over `channels`; `alpha` is tdBN's, for what is to be summed."""
        if self._norm == "tebn":
            return TEBN(channels, self.steps, average=not self.spiking)
        if self._norm == "tdbn":
            return CurrentNorm(channels, scale=alpha * firing_current(self.prototype))
        return CurrentNorm(channels) if self.normed else nn.Identity()

    def fire(self, channels: int, drive: bool = False, **options: Any) -> Fire:
        """A norm (with these options) and a neuron."""
        return Fire(self.norm(channels, **options), self.neuron(), drive)

    def conv(self, inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int | None = None) -> PerStep:
        """A convolution at every step, without bias before a norm; by default it keeps the size (over the stride)."""
        padding = kernel // 2 if padding is None else padding
        conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=not self.normed)
        nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
        return PerStep(conv)

    def dense(self, inputs: int, outputs: int) -> PerStep:
        """A linear layer at every step, without bias before a norm."""
        dense = nn.Linear(inputs, outputs, bias=not self.normed)
        nn.init.kaiming_normal_(dense.weight, nonlinearity="relu")
        return PerStep(dense)


class Net(nn.Module):
    """Base of the registry's models: `features` from frames `[T, B, C, H, W]` to `[T, B, F]`, then a linear head.

    Args:
        features: frames to features.
        head: features to logits `[T, B, classes]`.
        in_channels: C; None: any.
        steps: T for static images.
        spiking: whether it is the spiking net or its ANN twin.
    """

    description: Any  # the `Description` that it was built from
    rank = 3
    """How many axes a sample has: `[C, H, W]`."""

    def __init__(
        self, features: nn.Module, head: nn.Module, in_channels: int | None, steps: int, spiking: bool
    ) -> None:
        super().__init__()
        self.features = features
        self.head = head
        self.in_channels = in_channels
        self.steps = steps
        self.spiking = spiking

    def forward(self, images: Tensor, steps: int | None = None) -> Tensor:
        """Logits `[T, B, classes]`, in the ANN twin `[1, B, classes]`.

        Args:
            images: `[B, C, H, W]`, the same at every step, or a sequence `[T, B, C, H, W]`, of which the twin takes the
                mean (of the real steps, within `rheobase.padding`).
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

    def __prepare_scriptable__(self) -> Net:
        """What `torch.jit.script` calls."""
        scripted(self)

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
            TypeError: images that are no dense tensor of floating point, or steps that are no integer.
            ValueError: another number of axes or channels, no time step, or `steps` that contradict the sequence.
        """
        if (got := strange(images)) is not None:
            raise TypeError(f"images must be a dense floating point tensor, got {got}")
        if isinstance(steps, bool) or not (steps is None or isinstance(steps, Integral | SymInt)):
            raise TypeError(f"steps must be an integer, got {steps!r}")
        rank = self.rank
        single = images.dim() == rank + 1
        fits = single or images.dim() == rank + 2
        if not fits or (self.in_channels is not None and images.shape[-rank] != self.in_channels):
            one = ", ".join([str(self.in_channels or "C"), *"DHW"[4 - rank :]])
            raise ValueError(f"images must be [B, {one}] or [T, B, {one}], got shape {list(images.shape)}")
        if steps is not None and steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        if single:
            images = _laid(images)
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
            known = lengths()
            images = (images.mean(0) if known is None else real_mean(images, known, "padding")).unsqueeze(0)
        if static(images):
            return direct(_laid(images[0]), images.shape[0])
        return _laid(images.flatten(0, 1)).unflatten(0, images.shape[:2])


def _laid(images: Tensor) -> Tensor:
    """Images in channels-last memory."""
    return images.contiguous(memory_format=torch.channels_last) if images.dim() == 4 else images


class Pool(nn.Module):
    """Mean over space: `[T, B, C, H, W]` -> `[T, B, C]`."""

    def forward(self, x: Tensor) -> Tensor:
        """Means."""
        return x.mean((-2, -1))


class Flatten(nn.Module):
    """`[T, B, C, H, W]` -> `[T, B, C H W]`, for maps of one size."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.shape = [channels, size, size]

    def forward(self, x: Tensor) -> Tensor:
        """Places and channels in one axis."""
        if list(x.shape[2:]) != self.shape:
            wanted = ", ".join(map(str, self.shape))
            raise ValueError(f"maps must be [T, B, {wanted}], as image_size says, got {list(x.shape)}")
        return x.flatten(2)


def linear(features: int, classes: int) -> PerStep:
    """The head: a linear layer at every step."""
    return PerStep(nn.Linear(features, classes))

"""Networks as papers write them: "15C5-P2-40C5-P2-300", "400-R400"."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from torch import nn

from rheobase.layers import Fire, PerStep, Poisson
from rheobase.models.family import Count, Family
from rheobase.models.net import Flatten, Parts, linear
from rheobase.models.registry import register
from rheobase.models.uniform import uniform
from rheobase.neurons import Neuron, Recurrent
from rheobase.rules.spike_train_topology import Masked, grid

_LAYER = re.compile(
    r"(?:(?P<maps>[1-9]\d*)C(?P<kernel>[1-9]\d*)|P(?P<pool>[1-9]\d*))(?:s(?P<stride>[1-9]\d*))?"
    r"|(?P<back>R?)(?P<units>[1-9]\d*)|R(?P<grid>[1-9]\d*(?:x[1-9]\d*){1,2})"
)


@dataclass(frozen=True, kw_only=True)
class MLP(Family):
    """Layers as papers write them, from the input on, joined by "-"; input and readout are not written.

    "400": linear-norm-neuron with 400 units. "R400": its neurons also hear each other's spikes of the step before,
    through weights of their own (the ANN twin, which has one step, has none); "R5x5x16": they lie on a grid, and hear
    those near them alone (`rheobase.rules.spike_train_topology`). "15C5": a convolution of 5x5 with 15 channels, norm,
    neuron. "P2": the mean over squares of 2x2. "64C11s4", "P3s2": with a stride of 4, and of 2.

    Attributes:
        layers: no convolution or pooling after units.
        dropout: share of the units of each layer that are left out in training, anew at every step.
        image_size: height and width of the images; 1 for what has none, `[T, B, C, 1, 1]`.
        coding: what the first layer sees of frames: "direct", them; "poisson", random spikes (`rheobase.Poisson`).
        coding_rate: spikes a step where a frame is 1.
        output: what logits are: "currents" of the last layer, or the "spikes" of neurons that they drive.
        alpha: None: weights and thresholds begin as everywhere; a number: weights are uniform, and each layer's
            thresholds alpha times their bound (`uniform`). Without norm only.
        alpha_out: the same number for the neurons of the output; None: alpha.
    """

    layers: str = "400-R400"
    dropout: float = 0.0
    image_size: Count = 32
    coding: Literal["direct", "poisson"] = "direct"
    coding_rate: float = 0.5
    output: Literal["currents", "spikes"] = "currents"
    alpha: float | None = None
    alpha_out: float | None = None

    @property
    def valid(self) -> bool:
        """Whether convolutions see the inside of the image alone."""
        return False

    def stack(self, parts: Parts) -> tuple[list[nn.Module], int]:
        """Its layers."""
        for name in ("alpha", "alpha_out"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and not parts.normed and self.alpha is not None):
                wanted = "a number > 0, with norm='none' and alpha" if value > 0 else "a number > 0 or null"
                raise ValueError(f"{name} must be {wanted}, got {value!r}, norm={self.norm!r} and alpha={self.alpha!r}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be a number from 0 to below 1, got {self.dropout!r}")
        layers: list[nn.Module] = []
        if self.coding == "poisson":
            layers.append(Poisson(self.coding_rate, expected=not self.spiking))
        channels, size, features = self.in_channels, self.image_size, 0
        for word in self.layers.split("-"):
            layer = _LAYER.fullmatch(word)
            if layer is None:
                raise ValueError(
                    "layers must be some of nCk, nCksm, Pk, Pksm, n, Rn and Rnxmxk joined by '-' (input and readout "
                    f"are not written), got {word!r} in {self.layers!r}"
                )
            if layer["units"] or layer["grid"]:
                if not features:
                    layers.append(Flatten(channels, size))
                    features = channels * size**2
                shape = [int(n) for n in (layer["units"] or layer["grid"]).split("x")]
                units = math.prod(shape)
                fire = parts.fire(units)
                if (layer["back"] or layer["grid"]) and isinstance(fire.neuron, Neuron):
                    mask = grid(shape) if layer["grid"] else None
                    others = nn.Linear(units, units, bias=False) if mask is None else Masked(units, units, False, mask)
                    fire.neuron = Recurrent(fire.neuron, others)
                layers += self._begun(parts.dense(features, units), fire)
                if self.dropout:
                    layers.append(PerStep(nn.Dropout(self.dropout)))
                features = units
                continue
            k = int(layer["pool"] or layer["kernel"])
            if features or (size < k and (layer["pool"] or self.valid)):
                left = f"{features} units" if features else f"maps of {size}x{size} (image_size={self.image_size})"
                raise ValueError(f"layers: {word!r} in {self.layers!r} cannot follow {left}")
            if layer["pool"]:
                stride, padding = int(layer["stride"] or k), 0
                layers.append(PerStep(nn.AvgPool2d(k, stride)))
            else:
                maps, stride, padding = int(layer["maps"]), int(layer["stride"] or 1), 0 if self.valid else k // 2
                layers += self._begun(parts.conv(channels, maps, k, stride, padding), parts.fire(maps))
                channels = maps
            size = (size + 2 * padding - k) // stride + 1
        if not features:
            layers.append(Flatten(channels, size))
            features = channels * size**2
        return layers, features

    def _begun(self, layer: PerStep, fire: Fire) -> list[nn.Module]:
        if self.alpha is not None:
            uniform(layer, fire, self.alpha)
        return [layer, fire]

    def top(self, parts: Parts, features: int) -> nn.Module:
        """A linear layer, and neurons where spikes are wanted."""
        layer = linear(features, self.classes)
        fire = Fire(nn.Identity(), parts.neuron()) if self.output == "spikes" else None
        if self.alpha is not None:
            uniform(layer, fire, self.alpha if self.alpha_out is None else self.alpha_out)
        return layer if fire is None else nn.Sequential(layer, fire)


@dataclass(frozen=True, kw_only=True)
class Convnet(MLP):
    """As `MLP`, with what convolutions do at the edge.

    Attributes:
        padding: "same": zeros around the image, so that the size stays; "valid": none.

    Papers have, for MNIST, 20C5-P2-50C5-P2-200 (valid; Lee et al. 2016) and 15C5-P2-40C5-P2-300 (Zhang and Li 2019);
    for CIFAR-10, 96C3-256C3-P2-384C3-P2-384C3-256C3-1024-1024 and 128C3-256C3-P2-512C3-P2-1024C3-512C3-1024-512 (Wu et
    al. 2019); for N-MNIST, 12C5-P2-64C5-P2 (Zhang and Li 2020); for ImageNet,
    64C11s4-P3s2-192C5-P3s2-384C3-256C3-256C3-P3s2-4096-4096 (Hunsberger and Eliasmith 2016).
    """

    layers: str = "15C5-P2-40C5-P2-300"
    padding: Literal["same", "valid"] = "same"

    @property
    def valid(self) -> bool:
        """Whether convolutions see the inside of the image alone."""
        return self.padding == "valid"


register("mlp", MLP)
register("convnet", Convnet)

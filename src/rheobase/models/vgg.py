"""VGG-11 and 16 (Simonyan and Zisserman 2015), with a norm in every layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from rheobase.layers import PerStep
from rheobase.models.family import Count, Family
from rheobase.models.net import Flatten, Parts, Pool
from rheobase.models.registry import register

STAGES = {11: (1, 1, 2, 2, 2), 16: (2, 2, 3, 3, 3)}


@dataclass(frozen=True, kw_only=True)
class VGG(Family):
    """Five stages of 3x3 convolutions, each with a pooling (the maximum of 2x2), and two hidden layers.

    Attributes:
        depth: number of layers with weights.
        width: channels of the first stage; the hidden layers have 64 times as many units.
        image_size: height and width of the images, all of whose last map the hidden layers see; None: they see its
            mean, and images may be of any size. For images up to 32x32 the two are the same.
    """

    depth: Literal[11, 16]
    width: Count = 64
    image_size: Count | None = None

    def stack(self, parts: Parts) -> tuple[list[nn.Module], int]:
        """Its layers."""
        layers: list[nn.Module] = []
        inputs, size = self.in_channels, self.image_size
        for stage, count in enumerate(STAGES[self.depth]):
            outputs = self.width * min(2**stage, 8)
            for _ in range(count):
                layers += [parts.conv(inputs, outputs, 3), parts.fire(outputs)]
                inputs = outputs
            layers.append(PerStep(nn.MaxPool2d(2, ceil_mode=True)))
            size = size and (size + 1) // 2
        layers.append(Flatten(inputs, size) if size else Pool())
        inputs, units = inputs * (size or 1) ** 2, 64 * self.width
        for _ in range(2):
            layers += [parts.dense(inputs, units), parts.fire(units)]
            inputs = units
        return layers, units


for _depth in STAGES:
    register(f"vgg{_depth}", VGG, depth=_depth)

"""Skip-free networks of any depth: the hard case for signal and gradient."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from rheobase.models.family import Count, Family
from rheobase.models.net import Flatten, Parts, Pool
from rheobase.models.registry import register


@dataclass(frozen=True, kw_only=True)
class PlainConvnet(Family):
    """`depth` times conv3x3-norm-neuron in three stages of `width`, 2 and 4 `width` channels, each half the size."""

    depth: Count = 6
    width: Count = 32

    def stack(self, parts: Parts) -> tuple[list[nn.Module], int]:
        """Its layers."""
        layers: list[nn.Module] = []
        inputs, stage = self.in_channels, 0
        for i in range(self.depth):
            before, stage = stage, 3 * i // self.depth
            outputs = self.width * 2**stage
            layers += [parts.conv(inputs, outputs, 3, 2 if stage > before else 1), parts.fire(outputs)]
            inputs = outputs
        return [*layers, Pool()], inputs


@dataclass(frozen=True, kw_only=True)
class PlainMLP(Family):
    """`depth` times linear-norm-neuron, all of `width` units."""

    depth: Count = 2
    width: Count = 512
    image_size: Count = 32

    def stack(self, parts: Parts) -> tuple[list[nn.Module], int]:
        """Its layers."""
        layers: list[nn.Module] = [Flatten(self.in_channels, self.image_size)]
        inputs = self.in_channels * self.image_size**2
        for _ in range(self.depth):
            layers += [parts.dense(inputs, self.width), parts.fire(self.width)]
            inputs = self.width
        return layers, inputs


register("plain_convnet", PlainConvnet)
register("plain_mlp", PlainMLP)

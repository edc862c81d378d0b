"""What a network that was read becomes: a spiking `Net` that can tell what became of each layer."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import torch
from torch import nn

from rheobase.graph.layers import INPUT, Flow, Graph, table
from rheobase.models import Net


class Became(NamedTuple):
    """What became of some layers: their names and kinds, and what they are now."""

    layers: str
    was: str
    now: str


class GraphNet(Net):
    """A spiking net made from a user's network.

    As any `Net` it maps static inputs, or sequences with time first, to logits `[T, B, classes]`; see `Net.forward`.

    Attributes:
        became: what became of each layer.
    """

    def __init__(self, graph: Graph, flow: Flow, steps: int, verb: str, became: list[Became]) -> None:
        if type(steps) is not int or steps < 1:
            raise ValueError(f"{verb}: steps must be a positive integer, got {steps!r}")
        channels, rank = input_of(graph)
        super().__init__(flow, nn.Identity(), channels, steps, spiking=True)
        self.rank = rank
        self.became = became
        self._heading = f"{graph.owner}, {verb}, steps={steps}"

    @property
    def report(self) -> str:
        """What became of each layer, as a table."""
        return f"{self._heading}\n{table(('layers', 'were', 'are'), self.became)}"

    def laid(self) -> Self:
        """Itself, with weights of images in channels-last memory."""
        for weight in self.parameters():
            if weight.dim() == 4:
                weight.data = weight.data.to(memory_format=torch.channels_last)
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.report}\n)"


def input_of(graph: Graph) -> tuple[int | None, int]:
    """Channels of the input where they can be known, and how many axes a sample has."""
    value = INPUT
    for layer in graph.layers:
        if value not in layer.inputs:
            continue
        module: Any = layer.module
        if isinstance(module, nn.Linear):
            return module.in_features, 1
        for axes, kinds in _AXES.items():
            if isinstance(module, kinds):
                channels = getattr(module, "in_channels", getattr(module, "num_features", None))
                return channels, axes
        if isinstance(module, nn.Flatten):
            break
        value = layer.name
    return None, 3


_AXES = {
    2: (nn.Conv1d, nn.ConvTranspose1d, nn.AvgPool1d, nn.MaxPool1d),
    3: (nn.Conv2d, nn.ConvTranspose2d, nn.AvgPool2d, nn.MaxPool2d, nn.BatchNorm2d),
    4: (nn.Conv3d, nn.ConvTranspose3d, nn.AvgPool3d, nn.MaxPool3d, nn.BatchNorm3d),
}

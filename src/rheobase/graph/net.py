"""What a network that was read becomes: a spiking `Net` that can tell what became of each layer."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import torch
from torch import nn

from rheobase.graph.layers import INPUT, Cat, Flow, Graph, table
from rheobase.graph.shapes import Flat, Mean, Pad, Slice, Squeeze
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
        self.rank = rank or 3
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


def input_of(graph: Graph) -> tuple[int | None, int | None]:
    """Channels of the input, and how many axes a sample has: each where the first layers tell, else None."""
    value, axes, same = INPUT, None, True
    for layer in graph.layers:
        if value not in layer.inputs:
            continue
        module: Any = layer.module
        channels = getattr(module, "in_channels", getattr(module, "num_features", None)) if same else None
        if isinstance(module, nn.Linear):
            return module.in_features if same else None, 1
        if isinstance(module, nn.BatchNorm1d):  # of samples [C], if a linear layer follows, or [C, L]
            axes = 2
        elif told := [name[-2:] for name in (cls.__name__ for cls in type(module).__mro__) if name[-2:] in _AXES]:
            return channels, _AXES[told[0]]
        if isinstance(module, nn.Flatten | Flat | Mean | Squeeze):
            break
        same = same and not isinstance(module, Cat | Slice | Pad)
        value = layer.name
    return None, axes


_AXES = {"1d": 2, "2d": 3, "3d": 4}
"""Of samples, by the last letters of a layer's class."""

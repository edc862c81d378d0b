"""Runs of spiking networks in which memory does not grow with time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from rheobase.kernels.spec import Ran
from rheobase.kernels.time import repeat
from rheobase.neurons import Neuron
from rheobase.neurons.base import outermost
from rheobase.neurons.looking import Tape, looking

TOGETHER = 1024
"""Samples times steps that run at once: enough to keep processors busy, little memory."""


@torch.no_grad()
def stream(net: nn.Module, images: Tensor, steps: int, tape: Tape | None = None) -> Iterator[Tensor]:
    """What a network gives for a static input, piece by piece of its time: `[some T, B, ...]`, together `steps`.

    Args:
        net: from `[T, B, ...]` to `[T, B, ...]`, in evaluation mode.
        images: `[B, ...]`.
        steps: how many.
        tape: takes the neurons down.
    """
    neurons = outermost(net).values()
    states: dict[Neuron, Any] = dict.fromkeys(neurons)
    size = max(1, TOGETHER // len(images))
    for done in range(0, steps, size):
        frames = repeat(images, min(size, steps - done))
        with looking(states, tape) as look:
            found = net(frames)
        states = dict(look.left)
        yield found


class Counts:
    """A tape that adds up the spikes of each neuron."""

    potentials = copies = False

    def __init__(self, neurons: dict[Neuron, str]) -> None:
        self._names = neurons
        self.sums: dict[str, Tensor] = {}

    def __contains__(self, neuron: object) -> bool:
        return neuron in self._names

    def note(self, neuron: Neuron, ran: Ran, more: bool) -> None:
        """Add them."""
        name, found = self._names[neuron], ran.outputs.sum(0)
        self.sums[name] = self.sums[name] + found if more else found


def mean(net: nn.Module, images: Tensor, steps: int) -> Tensor:
    """The mean over time of what a network gives, `[B, ...]`."""
    total: Any = 0
    for piece in stream(net, images, steps):
        total = total + piece.sum(0)
    found: Tensor = total / steps
    return found

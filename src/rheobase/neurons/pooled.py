"""Maximum pooling of spikes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rheobase.neurons.base import Neuron


class MaxSpikes(Neuron):
    """Maximum pooling of spikes: a place gives what the greatest sum of its inputs so far has grown by.

    So the sum of its outputs is the maximum of the sums of its inputs, at every step; of spikes it makes spikes, and of
    constant inputs their maximum.

    Args:
        pool: a maximum pooling of torch.
    """

    def __init__(self, pool: nn.Module) -> None:
        super().__init__()
        self.pool = pool

    def initial_state(self, current: Tensor) -> tuple[Tensor, Tensor]:
        """No sums yet."""
        return torch.zeros_like(current), torch.zeros_like(self.pool(current))

    def step(self, current: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """One time step."""
        sums, before = state
        sums = sums + current
        now = self.pool(sums)
        return now - before, (sums, now)

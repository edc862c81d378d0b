"""What a converted network is made of, besides linear layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rheobase.neurons import IF
from rheobase.neurons.numbers import told


class Charged(IF):
    """An IF that starts at a potential of its own, not at rest.

    Args:
        threshold: potential at which it fires.
        initial: the potential that it starts at: one number, or one a neuron.
        options: as in `IF`.
    """

    initial: Tensor

    def __init__(self, threshold: float | Tensor, initial: float | Tensor, **options: Any) -> None:
        super().__init__(threshold, **options)
        self.register_buffer("initial", torch.as_tensor(initial, dtype=self.threshold.dtype).clone())

    def initial_state(self, current: Tensor) -> Tensor:
        """Its own potential, for a current `[B, ...]`.

        Raises:
            ValueError: the current is of another shape.
        """
        if self.initial.dim() and self.initial.shape != current.shape[1:]:
            got = ", ".join(map(str, current.shape[1:]))
            raise ValueError(
                f"the neurons start at potentials of their own, which are {list(self.initial.shape)}: inputs must be "
                f"of the size that the network was converted with, got currents [B, {got}]"
            )
        return self.initial.to(current.dtype).expand_as(current).clone()

    def extra_repr(self) -> str:
        """The arguments."""
        return f"{super().extra_repr()}, initial={told(self.initial)}"


class Scale(nn.Module):
    """A fixed factor."""

    factor: Tensor

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.register_buffer("factor", torch.tensor(factor))

    def forward(self, x: Tensor) -> Tensor:
        """The multiple."""
        return x * self.factor.to(x.dtype)

    def extra_repr(self) -> str:
        """The factor."""
        return told(self.factor)

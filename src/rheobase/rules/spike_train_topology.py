"""Which neurons of a recurrent layer hear each other where they lie on a grid (Zhang and Li 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

RATES = ((0.3, 0.2), (0.4, 0.1))
"""C of a connection from (excitatory, inhibitory) to (excitatory, inhibitory) neurons."""


def grid(shape: Sequence[int], seed: int = 0, inhibitory: float = 0.2) -> Tensor:
    """Which neurons hear which, `[N, N]` of bool, for N neurons on a grid such as (5, 5, 16): `[to, from]` as weights.

    At a distance D there is a connection with probability min(1, 1.5 C exp(-D^2 / 4)), also to itself, with C from what
    the two are: a share of neurons drawn at random is inhibitory. (That sets no signs.)

    Raises:
        ValueError: an empty grid, or a share outside [0, 1].
    """
    if not shape or min(shape) < 1 or not 0 <= inhibitory <= 1:
        raise ValueError(f"grid: shape must be positive, inhibitory in [0, 1], got {tuple(shape)} and {inhibitory}")
    generator = torch.Generator().manual_seed(seed)
    places = torch.cartesian_prod(*(torch.arange(n, dtype=torch.float64) for n in shape)).view(-1, len(shape))
    kind = torch.zeros(len(places), dtype=torch.long)
    kind[torch.randperm(len(places), generator=generator)[: round(inhibitory * len(places))]] = 1
    rate = torch.tensor(RATES, dtype=torch.float64)[kind][:, kind].mT  # [to, from]
    chance = 1.5 * rate * torch.exp(-torch.cdist(places, places).square() / 4)
    return torch.rand(chance.shape, generator=generator, dtype=chance.dtype) < chance


def connect(layer: nn.Linear, mask: Tensor) -> nn.Linear:
    """The layer itself, with the weights that the mask has alone: others are zero, and stay so.

    Raises:
        ValueError: a mask of another shape than the weight.
    """
    if mask.shape != layer.weight.shape:
        raise ValueError(f"connect: mask must be {list(layer.weight.shape)}, got {list(mask.shape)}")
    parametrize.register_parametrization(layer, "weight", _Masked(mask))
    return layer


class _Masked(nn.Module):
    mask: Tensor

    def __init__(self, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("mask", mask)

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.mask

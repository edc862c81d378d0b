"""Which neurons of a recurrent layer hear each other where they lie on a grid (Zhang and Li 2019)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

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
    generator = torch.Generator(device="cpu").manual_seed(seed)
    axes = (torch.arange(n, dtype=torch.float64, device="cpu") for n in shape)
    places = torch.cartesian_prod(*axes).view(-1, len(shape))
    kind = torch.zeros(len(places), dtype=torch.long, device="cpu")
    kind[torch.randperm(len(places), generator=generator, device="cpu")[: round(inhibitory * len(places))]] = 1
    rate = torch.tensor(RATES, dtype=torch.float64, device="cpu")[kind][:, kind].mT  # [to, from]
    chance = 1.5 * rate * torch.exp(-torch.cdist(places, places).square() / 4)
    return torch.rand(chance.shape, generator=generator, dtype=chance.dtype, device="cpu") < chance


class Masked(nn.Linear):
    """A linear layer of which only some connections exist: weight = values * mask.

    The others are zero, and stay so: no gradient, and no decay, moves them.

    Args:
        in_features, out_features, bias: as of `torch.nn.Linear`.
        mask: `[out_features, in_features]` of bool; None: all exist.

    Raises:
        ValueError: a mask of another shape.
    """

    mask: Tensor

    def __init__(self, in_features: int, out_features: int, bias: bool = True, mask: Tensor | None = None) -> None:
        nn.Module.__init__(self)  # (nn.Linear's own would make a parameter of weight)
        self.in_features, self.out_features = in_features, out_features
        self.values = nn.Parameter(torch.empty(out_features, in_features))
        self.register_parameter("bias", nn.Parameter(torch.empty(out_features)) if bias else None)
        mask = torch.ones(self.values.shape, dtype=torch.bool) if mask is None else mask
        if mask.shape != self.values.shape:
            raise ValueError(f"Masked: mask must be {list(self.values.shape)}, got {list(mask.shape)}")
        self.register_buffer("mask", mask.to(self.values.device))
        self.reset_parameters()

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """The weights, `[out_features, in_features]`."""
        return self.values * self.mask

    def register_parameter(self, name: str, param: nn.Parameter | None) -> None:
        """As of any module; a weight that is set, as a folded norm does, is kept as the values."""
        super().register_parameter("values" if name == "weight" else name, param)

    def reset_parameters(self) -> None:
        """Uniform within 1 / sqrt(n), of outputs that hear n inputs on average."""
        bound = math.sqrt(len(self.mask) / max(1, int(self.mask.sum()))) if not self.mask.is_meta else 0.0
        begin(self, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def extra_repr(self) -> str:
        """Sizes, and how many connections there are."""
        there = "some" if self.mask.is_meta else int(self.mask.sum())
        return f"{super().extra_repr()}, connections={there}"


@torch.no_grad()
def begin(layer: nn.Linear, bound: float) -> None:
    """Weights uniform within a bound, of those that exist."""
    weight = layer.values if isinstance(layer, Masked) else layer.weight
    weight.uniform_(-bound, bound)
    if isinstance(layer, Masked):
        weight.mul_(layer.mask)

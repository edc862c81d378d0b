"""The quantized activation of Bu et al. 2022, that networks are trained with which are to spike for few steps."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rheobase.compat import hooked
from rheobase.neurons.numbers import checked, inverse, plain

FINE = 2**16
"""Levels of an activation without visible steps."""


class QCFS(nn.Module):
    """Clip-floor-shift activation: a(x) = threshold clip(floor(x levels / threshold + 1/2) / levels, 0, 1).

    The floor counts as the identity in the backward pass, so da/dx is 1 where nothing is clipped, for
    -1/2 < x levels / threshold < levels - 1/2, else 0. A spiking
    neuron of that threshold which starts at half of it does the same in `levels` steps, on average
    (`rheobase.convert(..., method="qcfs")`).

    Args:
        levels: L, steps of the activation above zero.
        threshold: its initial maximum; learned, as softplus(`raw_threshold`), so that it stays positive.

    Raises:
        ValueError: an argument out of range.

    Source: Bu et al. 2022 (optimal ANN-SNN conversion, QCFS); there the threshold is a bare parameter, from 8 on.
    """

    def __init__(self, levels: int = 4, threshold: float = 8.0) -> None:
        super().__init__()
        if type(levels) is not int or levels < 1:
            raise ValueError(f"QCFS: levels must be a positive integer, got {levels!r}")
        self.levels = levels
        start = checked("QCFS", "threshold", threshold)
        if start.dim():
            raise ValueError(f"QCFS: threshold must be one number, got {threshold!r}")
        self.raw_threshold = nn.Parameter(inverse("QCFS", "threshold", start))

    @property
    def threshold(self) -> Tensor:
        """Its maximum."""
        return F.softplus(self.raw_threshold) + 1e-30

    def forward(self, x: Tensor) -> Tensor:
        """Activations."""
        threshold = self.threshold.to(x.dtype)
        steps = (x * (self.levels / threshold) + 0.5).clamp(0, self.levels)
        steps = steps + (steps.floor() - steps).detach()
        return steps * (threshold / self.levels)

    def extra_repr(self) -> str:
        """The arguments."""
        return f"levels={self.levels}, threshold={plain(self.threshold.detach()):g}"


@contextmanager
def continuous(*networks: nn.Module) -> Iterator[None]:
    """Within it the steps of their `QCFS` are so fine that rounding before them does not show."""
    found = {one: one.levels for network in networks for one in network.modules() if isinstance(one, QCFS)}
    for one in found:
        one.levels = FINE
    try:
        yield
    finally:
        for one, levels in found.items():
            one.levels = levels


def with_qcfs(module: nn.Module, levels: int = 4, threshold: float = 8.0) -> nn.Module:
    """A copy of a network in which each ReLU module is a `QCFS` of its own, to be trained.

    A ReLU that is a function is written in the network's forward, and has to be replaced there.

    Raises:
        ValueError: there is no such module, one has a forward of its own or hooks, another activation would stay, or
            an argument is out of range.
    """
    from rheobase.graph.operations import kind_of  # (which knows of QCFS)

    found = copy.deepcopy(module)
    places = []
    for path, parent in found.named_modules():
        for name, child in parent._modules.items():  # (`named_children` passes over one that is there twice)
            where = f"with_qcfs: {path}.{name}".replace(" .", " ") + f" ({type(child).__name__})"
            known = None if child is None else kind_of(child)
            if isinstance(child, nn.ReLU):
                if known is None:
                    raise ValueError(f"{where} has a forward of its own, which would be lost")
                if hooked(child):
                    raise ValueError(f"{where} has hooks, which would be lost: remove them")
                places.append((parent, name))
            elif known is not None and known[1] == "activation" and not isinstance(child, QCFS):
                raise ValueError(f"{where} is another activation, and would stay as it is: make it a ReLU")
    if not places:
        raise ValueError(f"with_qcfs: {type(module).__name__} has no nn.ReLU module to replace")
    for parent, name in places:
        device = next((p.device for p in module.parameters()), torch.device("cpu"))
        setattr(parent, name, QCFS(levels, threshold).to(device))
    return found

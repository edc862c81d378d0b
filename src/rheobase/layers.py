"""What models are built from besides neurons and norms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from rheobase import kernels
from rheobase.kernels.time import once, repeat, static
from rheobase.neurons import LIF, Neuron
from rheobase.norm import CurrentNorm


class PerStep(nn.Module):
    """Run a stateless module (Conv2d, Linear, pooling ...) over `[T, B, ...]`, every step at once.

    An input whose steps are the same memory (a static image) is computed once.

    Raises:
        TypeError: the module contains a neuron, which has to see time.
        ValueError: the input is not `[T, B, ...]`.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        if not isinstance(module, nn.Module):
            raise TypeError(f"PerStep: module must be a torch.nn.Module, got {type(module).__name__}")
        if any(isinstance(child, Neuron) for child in module.modules()):
            raise TypeError(f"PerStep: {type(module).__name__} contains a neuron, which has to see time")
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """The module's outputs, `[T, B, ...]`."""
        if x.dim() < 3 or x.shape[0] == 0:
            raise ValueError(
                f"PerStep({type(self.module).__name__}): input must be [T, B, ...] with T >= 1, got {list(x.shape)}"
            )
        steps, batch = x.shape[:2]
        if static(x):
            return repeat(self.module(once(x)), steps)
        flat = x.flatten(0, 1)
        with kernels.keeping(flat):
            y = self.module(flat)
        return y.unflatten(0, (steps, batch))


def _hooked(module: nn.Module) -> bool:
    return bool(
        _has_any_global_hook()
        or module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
    )


class Fire(nn.Module):
    """neuron(norm(currents) + residual) + skip, as one operator where the engine has one.

    Residual and skip are optional, and of the shape of the currents. It runs as several operators when a child carries
    hooks, and under `rheobase.engine(fused=False)`. In bfloat16 the neuron sees the drive rounded if that is returned,
    else unrounded: a potential that close to the threshold may then fire in one case only.

    Args:
        norm: mostly a `CurrentNorm`.
        neuron: a `Neuron`; in an ANN twin, an activation.
        drive: whether to return also what drives the neuron, norm(currents) + residual.
    """

    def __init__(self, norm: nn.Module, neuron: nn.Module, drive: bool = False) -> None:
        super().__init__()
        self.norm = norm
        self.neuron = neuron
        self.drive = drive

    def forward(self, currents: Tensor, residual: Tensor | None = None, skip: Tensor | None = None) -> Any:
        """Spikes `[T, B, ...]`, or with `drive` the pair (spikes, drive)."""
        norm, neuron = self.norm, self.neuron
        if (
            type(norm) is CurrentNorm
            and isinstance(neuron, LIF)
            and neuron.native
            and not _hooked(norm)
            and not _hooked(neuron)
            and kernels.can_fuse(currents, residual, skip, neuron.constants, neuron.kind)
        ):
            operands = norm.operands(currents)
            spikes, drive = neuron.fused(currents, norm=operands, residual=residual, skip=skip, keep_drive=self.drive)
            return (spikes, drive) if self.drive else spikes
        drive = norm(currents)
        if residual is not None:
            drive = drive + residual
        spikes = neuron(drive)
        if skip is not None:
            spikes = spikes + skip
        return (spikes, drive) if self.drive else spikes

    def extra_repr(self) -> str:
        """The option, where it is on."""
        return "drive=True" if self.drive else ""


JUNCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": lambda a, s: a + s,
    "and": lambda a, s: a * s,
    "iand": lambda a, s: (1 - a) * s,
}
"""How a residual block joins its branch's spikes a to its input's spikes s (Fang et al. 2021)."""


def direct(images: Tensor, steps: int) -> Tensor:
    """Direct coding: the image `[B, C, H, W]` as the input at every step, `[T, B, C, H, W]` without a copy."""
    return repeat(images, steps)


def readout(logits: Tensor) -> Tensor:
    """Mean over time: `[T, B, classes]` -> `[B, classes]`."""
    if logits.dim() != 3:
        raise ValueError(f"readout: logits must be [T, B, classes], got {list(logits.shape)}")
    return logits.mean(0)

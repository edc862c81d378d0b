"""What models are built from besides neurons and norms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from rheobase import kernels
from rheobase.compat import called, hooked, transformed
from rheobase.kernels.time import repeat, static, unheard
from rheobase.neurons import LIF, Neuron
from rheobase.neurons.base import strange
from rheobase.neurons.looking import local
from rheobase.norm import CurrentNorm
from rheobase.padded import real_mean

_PURE = frozenset(
    {
        *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.Identity, nn.Flatten, nn.Sequential, nn.ReLU),
        *(nn.AvgPool1d, nn.AvgPool2d, nn.MaxPool1d, nn.MaxPool2d, nn.AdaptiveAvgPool2d, nn.Upsample),
        *(nn.ZeroPad1d, nn.ZeroPad2d, nn.ConstantPad1d, nn.ConstantPad2d),
    }
)
"""Modules of which one step tells all, if all steps are the same: they draw nothing, count nothing, keep nothing.
Other classes say so by `pure = True`."""


_CONVOLUTIONS: dict[type[nn.Module], str] = {
    **{nn.Conv1d: "W", nn.Conv2d: "HW", nn.Conv3d: "DHW"},
    **{nn.ConvTranspose1d: "W", nn.ConvTranspose2d: "HW", nn.ConvTranspose3d: "DHW"},
}
"""Axes of what they take, behind the channels."""


class PerStep(nn.Module):
    """Run a stateless module (Conv2d, Linear, pooling ...) over `[T, B, ...]`, every step at once.

    Where the steps of an input are one memory (a static image), and nobody can see it, one step is computed.

    Raises:
        TypeError: the module contains a neuron, which has to see time; or it gives something other than a tensor.
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
        if not isinstance(x, Tensor):
            raise TypeError(f"{self._name}: input must be a tensor, got {strange(x)}")
        if x.dim() < 3 or x.shape[0] == 0:
            raise ValueError(f"{self._name}: input must be [T, B, ...] with T >= 1, got {list(x.shape)}")
        axes = _axes(self.module)
        if axes and x.dim() != 3 + len(axes):
            raise ValueError(f"{self._name}: input must be [T, B, C, {', '.join(axes)}], got {list(x.shape)}")
        steps, batch = x.shape[:2]
        wanted = x.requires_grad and torch.is_grad_enabled()
        if static(x) and self._pure() and not (wanted and (transformed() or self._tied())):
            y = repeat(self._one(called(self.module, x[0].detach())), steps)
            return y + self._zero(x.flatten(0, 1)).unflatten(0, (steps, batch)) if wanted else y
        flat = x.flatten(0, 1)
        with kernels.keeping(flat):
            y = self._one(called(self.module, flat))
        if y.shape[:1] != flat.shape[:1]:
            raise ValueError(
                f"{self._name}: it must keep the first axis, which is of T * B = {flat.shape[0]} samples, "
                f"got {list(y.shape)}"
            )
        return y.unflatten(0, (steps, batch))

    @property
    def _name(self) -> str:
        """What errors call it."""
        return f"PerStep({type(self.module).__name__})"

    def _one(self, y: Any) -> Tensor:
        if not isinstance(y, Tensor):
            raise TypeError(f"{self._name}: it must give one tensor, got {type(y).__name__}")
        return y

    def _zero(self, flat: Tensor) -> Tensor:
        """Nothing, but with the gradient of every step of the input; that of the weights is the one step's."""
        fixed = {name: parameter.detach() for name, parameter in self.module.named_parameters()}
        return unheard(torch.func.functional_call(self.module, fixed, flat))

    def _tied(self) -> bool:
        parameters = self.module.named_parameters
        return len(list(parameters())) < len(list(parameters(remove_duplicate=False)))

    def _pure(self) -> bool:
        def pure(kind: type[nn.Module]) -> bool:  # (a subclass says so by itself)
            return kind in _PURE or bool(vars(kind).get("pure", False))

        return all(pure(type(module)) and not _altered(module) for module in self.module.modules())


def _axes(module: nn.Module) -> str:
    """Those of an image behind its channels, where a convolution comes first: it would take an image for a batch."""
    while isinstance(module, nn.Sequential) and len(module):
        module = module[0]
    return _CONVOLUTIONS.get(type(module), "")


def _altered(module: nn.Module) -> bool:
    """Whether the forward of this very module was replaced, or hooks look on."""
    return "forward" in module.__dict__ or hooked(module)


class Fire(nn.Module):
    """neuron(norm(currents) + residual) + skip, as one operator where an engine has one.

    Residual and skip are optional, and of the shape of the currents. It runs as several operators when a child carries
    hooks or a method of its own, and under `rheobase.engine(fused=False)`.

    Args:
        norm: mostly a `CurrentNorm`.
        neuron: a `Neuron`; in an ANN twin, an activation.
        drive: whether to return also what drives the neuron, norm(currents) + residual.

    Raises:
        TypeError: a norm of torch's, which would take time for the batch; or the two in the wrong order.
    """

    def __init__(self, norm: nn.Module, neuron: nn.Module, drive: bool = False) -> None:
        super().__init__()
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            raise TypeError(f"Fire: {type(norm).__name__} knows no time: take CurrentNorm, or PerStep({norm})")
        if isinstance(norm, Neuron) or isinstance(neuron, CurrentNorm):
            raise TypeError("Fire: the norm comes first, Fire(norm, neuron), got Fire(neuron, norm)")
        self.norm = norm
        self.neuron = neuron
        self.drive = drive

    def forward(self, currents: Tensor, residual: Tensor | None = None, skip: Tensor | None = None) -> Any:
        """Spikes `[T, B, ...]`, or with `drive` the pair (spikes, drive)."""
        children: Any = self._modules
        norm, neuron = children["norm"], children["neuron"]
        spec, by = self._together(norm, neuron, currents, residual, skip)
        if by is not None:
            options = {"spec": spec, "by": by, "norm": norm.operands(currents, by)}
            options |= {"residual": residual, "skip": skip, "keep_drive": self.drive}
            if (look := local.look) is None:
                ran = neuron._ran(currents, None, keep_state=False, **options)
            else:
                ran = look.call(neuron, currents, **options)
            return (ran.outputs, ran.drive) if self.drive else ran.outputs
        drive = norm(currents)
        if residual is not None:
            drive = drive + residual
        spikes = neuron(drive)
        if skip is not None:
            spikes = spikes + skip
        return (spikes, drive) if self.drive else spikes

    @staticmethod
    def _together(
        norm: Any, neuron: Any, currents: Tensor, residual: Tensor | None, skip: Tensor | None
    ) -> tuple[kernels.Spec | None, kernels.Engine | None]:
        """The neuron's spec, and the engine that runs norm and neuron as one; None where none can, or it would show."""
        if (
            type(norm) is not CurrentNorm
            or not isinstance(neuron, LIF)
            or not neuron.native
            or not neuron.rests
            or type(neuron).forward is not Neuron.forward
            or neuron.rule is not None
            or norm.alone
            or _altered(norm)
            or _altered(neuron)
        ):
            return None, None
        spec = neuron.spec()
        return spec, kernels.can_fuse(spec, currents, residual, skip)

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


class Poisson(nn.Module):
    """Rate coding: in each step a spike with probability rate * x, each on its own; `[T, B, ...]` -> the same shape.

    The spikes are drawn from torch's generator of the device, in evaluation too. In a run that is set by (seed, step,
    process), and by the seed in evaluation: what an image becomes is a function of these. No gradient goes through it.

    Args:
        rate: spikes a step where x is 1, in (0, 1].
        expected: give rate * x itself, as an ANN twin wants.

    Raises:
        ValueError: a rate out of range; or, in the forward pass, an x outside [0, 1].
    """

    def __init__(self, rate: float = 0.5, expected: bool = False) -> None:
        super().__init__()
        if not 0 < rate <= 1:
            raise ValueError(f"Poisson: rate must be in (0, 1], got {rate}")
        self.rate = rate
        self.expected = expected

    def forward(self, x: Tensor) -> Tensor:
        """Spikes."""
        low, high = x[:1].aminmax() if static(x) else x.aminmax()
        if not (low >= 0 and high <= 1):  # a NaN too
            raise ValueError(
                f"Poisson: inputs must be in [0, 1] (in recipes: data.scale unit), got {low:.4g} to {high:.4g}"
            )
        if self.expected:
            return self.rate * x
        chance = torch.rand(x.shape, device=x.device, dtype=torch.float32)  # (16 bits would be too coarse)
        return (chance < self.rate * x).to(x.dtype)

    def extra_repr(self) -> str:
        """The arguments."""
        return f"rate={self.rate}" + (", expected=True" if self.expected else "")


def readout(logits: Tensor, lengths: Tensor | None = None) -> Tensor:
    """Mean over time: `[T, B, classes]` -> `[B, classes]`.

    Args:
        logits: `[T, B, classes]`, T >= 1.
        lengths: `[B]`, each sample's real steps; those after them do not count. (Logits of a single step, as an
            ANN twin's, are the mean already.)

    Raises:
        ValueError: another shape, no time step, or lengths that do not go with it.
    """
    if logits.dim() != 3 or logits.shape[0] == 0:
        raise ValueError(f"readout: logits must be [T, B, classes] with T >= 1, got {list(logits.shape)}")
    return logits.mean(0) if lengths is None else real_mean(logits, lengths, "readout")

"""How a net begins: weights with which the signal gets through."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from rheobase import kernels
from rheobase.models.resnet import Block
from rheobase.modes import untouched
from rheobase.neurons import LIF
from rheobase.neurons.base import outermost
from rheobase.norm import NORMS
from rheobase.signal.credit import heard
from rheobase.signal.passing import running, unfrozen

Start = Literal["identity", "orthogonal", "fluctuation"]
NOISE = 0.3
"""Of the noise on the identity in a layer's weights, over that of random ones."""
_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def identity(model: nn.Module, x: Any, seed: int) -> list[str]:
    """Residual blocks of `rheobase.models` begin as the identity; in a net without skips, layers do, but for noise.

    Blocks whose shortcut is a convolution with a stride stay as they are: it throws most places away. In a net without
    skips a layer of as many outputs as inputs, without groups or a stride, begins as the identity plus noise.
    """
    blocks = {path: module for path, module in model.named_modules() if isinstance(module, Block)}
    done = []
    for path, block in blocks.items():
        if not all(parameter.requires_grad for parameter in block.parameters()):
            continue  # what is frozen stays as it is
        if not any(_strided(layer) for layer in block.shortcut.modules() if isinstance(layer, _KINDS)):
            block.begin_as_identity()
            done.append(path)
    if blocks:
        return done
    generator = torch.Generator().manual_seed(seed)
    for path, layer in _layers(model, x, seed).items():
        if layer.weight.shape[0] == layer.weight.shape[1] and getattr(layer, "groups", 1) == 1 and not _strided(layer):
            weight = torch.randn(layer.weight.shape, generator=generator) * NOISE * layer.weight[0].numel() ** -0.5
            middle = weight[(..., *(size // 2 for size in weight.shape[2:]))]  # of a kernel
            middle += torch.eye(len(weight))
            layer.weight.copy_(weight)
            done.append(path)
    return done


def _strided(layer: nn.Module) -> bool:
    stride = getattr(layer, "stride", 1)
    return max(stride) > 1 if isinstance(stride, tuple) else stride > 1


def orthogonal(model: nn.Module, x: Any, seed: int) -> list[str]:
    """Weights of layers become orthogonal: rows of length 1 at right angles, or columns (Saxe et al. 2014)."""
    generator = torch.Generator().manual_seed(seed)
    layers = _layers(model, x, seed)
    for layer in layers.values():
        layer.weight.copy_(nn.init.orthogonal_(torch.empty(layer.weight.shape), generator=generator))
    return list(layers)


def fluctuation(model: nn.Module, x: Any, seed: int) -> list[str]:
    """Weights are scaled so that the currents of each neuron deviate as much as it takes to make it fire.

    So a norm would leave them; here without one, one neuron after the other in a single pass (as in Mishkin and Matas
    2016; for spikes, Rossbroich et al. 2022).
    """
    layers = _layers(model, x, seed)
    made = iter(_heard(model, x, seed, nearest=True))
    done: list[str] = []

    def hears(neuron: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        currents = given[0]
        deviation = float(currents.float().std())
        paths = [name.removesuffix(".weight") for name in next(made)]
        paths = [path for path in paths if path in layers]
        if paths and deviation > 0 and isinstance(neuron, LIF):
            factor = float((neuron.threshold / neuron.input_scale).mean()) / deviation
            for path in paths:
                for parameter in layers[path].parameters(recurse=False):
                    parameter.mul_(factor)
                done.append(path)
            currents = currents * factor
        return (currents, *given[1:])

    with ExitStack() as hooks, untouched(model, seed, model.training), kernels.engine(fused=False):
        for neuron in outermost(model).values():
            hooks.callback(neuron.register_forward_pre_hook(hears).remove)
        model(x)
    return done


STARTS: dict[str, Callable[[nn.Module, Any, int], list[str]]] = {
    "identity": identity,
    "orthogonal": orthogonal,
    "fluctuation": fluctuation,
}
"""Each sets the weights of a model, given a batch of inputs and a seed, and tells the paths of what it has set."""


def begin(model: nn.Module, start: str, x: Any, seed: int) -> list[str]:
    """One of them."""
    with torch.no_grad():
        return STARTS[start](model, x, seed)


def why_not(model: nn.Module, start: str, skips: bool) -> str | None:
    """Why a start does not go with a model, which has skips or not; None if it does."""
    own = not any(isinstance(module, Block) for module in model.modules())
    if start == "identity" and skips and own:
        return "it knows the residual blocks of rheobase.models; in yours let the last norm of a branch begin at zero"
    normed = any(isinstance(module, NORMS) for module in model.modules())
    if start == "fluctuation" and (skips or normed):
        return "it is for nets without norms and without skips, where one neuron's currents are one layer's"
    return None


def _layers(model: nn.Module, x: Any, seed: int) -> dict[str, Any]:
    """Layers that some neuron hears once, by path; not those in one, or whose weights are computed or frozen."""
    names = [name for names in _heard(model, x, seed) for name in names]
    found = {path: module for path, module in model.named_modules() if isinstance(module, _KINDS)}
    return {
        path: layer
        for path, layer in found.items()
        if names.count(f"{path}.weight") == 1 and not is_parametrized(layer) and layer.weight.requires_grad
    }


def _heard(model: nn.Module, x: Any, seed: int, nearest: bool = False) -> list[list[str]]:
    """Of each neuron that runs, in order, the parameters that its currents are made of; see `heard`."""
    with untouched(model, seed, model.training), unfrozen(model), kernels.engine(fused=False), torch.enable_grad():
        with running(model) as run:
            model(x)
        currents, outputs = [ran.drive for _, ran in run.calls], [ran.outputs for _, ran in run.calls]
        return heard(currents, outputs, run.parameters, nearest)

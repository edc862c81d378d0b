"""How a net begins: weights with which the signal gets through."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import Tensor, nn

from rheobase import kernels
from rheobase.models.resnet import Block
from rheobase.neurons import LIF
from rheobase.neurons.base import outermost
from rheobase.signal.passing import untouched

Start = Literal["identity", "orthogonal", "fluctuation"]
NOISE = 0.3
"""Of the noise on the identity in a layer's weights, over that of random ones."""


def identity(model: nn.Module, x: Any, seed: int) -> list[str]:
    """Residual blocks begin as the identity; in a net without any, layers that can do, but for noise.

    Blocks whose shortcut is a convolution with a stride stay as they are: it throws most places away. In a net without
    blocks, a layer of as many outputs as inputs begins as the identity plus noise.
    """
    blocks = {path: module for path, module in model.named_modules() if isinstance(module, Block)}
    done = []
    for path, block in blocks.items():
        if all(getattr(layer, "stride", (1, 1)) in ((1, 1), 1) for layer in _layers(block.shortcut).values()):
            block.begin_as_identity()
            done.append(path)
    if blocks:
        return done
    generator = torch.Generator().manual_seed(seed)
    for path, layer in list(_layers(model).items())[:-1]:
        if layer.weight.shape[0] == layer.weight.shape[1] and getattr(layer, "groups", 1) == 1:
            weight = torch.randn(layer.weight.shape, generator=generator) * NOISE * layer.weight[0].numel() ** -0.5
            middle = weight[(..., *(size // 2 for size in weight.shape[2:]))]  # of a kernel
            middle += torch.eye(len(weight))
            layer.weight.copy_(weight)
            done.append(path)
    return done


def orthogonal(model: nn.Module, x: Any, seed: int) -> list[str]:
    """Weights of all layers become orthogonal: rows of length 1 at right angles, or columns (Saxe et al. 2014)."""
    generator = torch.Generator().manual_seed(seed)
    layers = dict(list(_layers(model).items())[:-1])
    for layer in layers.values():
        nn.init.orthogonal_(layer.weight, generator=generator)
    return list(layers)


def fluctuation(model: nn.Module, x: Any, seed: int) -> list[str]:
    """Weights are scaled so that the currents of each neuron deviate as much as it takes to make it fire.

    So a norm would leave them; here without one, one neuron after the other in a single pass (as in Mishkin and Matas
    2016; for spikes, Rossbroich et al. 2022).
    """
    layers = list(_layers(model).items())[:-1]
    pending: list[nn.Module] = []
    done: list[str] = []
    inside = {child for neuron in outermost(model).values() for child in neuron.modules()}
    paths = {layer: path for path, layer in layers if layer not in inside}

    def ran(layer: nn.Module, *_: Any) -> None:
        pending.append(layer)

    def hears(neuron: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        currents = given[0]
        deviation = float(currents.float().std())
        if pending and deviation > 0 and isinstance(neuron, LIF):
            factor = float((neuron.threshold / neuron.input_scale).mean()) / deviation
            for layer in pending:
                for parameter in layer.parameters(recurse=False):
                    parameter.mul_(factor)
                done.append(paths[layer])
            currents = currents * factor
        pending.clear()
        return (currents, *given[1:])

    with ExitStack() as hooks, untouched(model, seed, model.training), kernels.engine(fused=False):
        for layer in paths:
            hooks.callback(layer.register_forward_hook(ran).remove)
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


def _layers(model: nn.Module) -> dict[str, Any]:
    """Layers of weights by path; a model's last is what reads out, and is left alone."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return {path: module for path, module in model.named_modules() if isinstance(module, kinds)}

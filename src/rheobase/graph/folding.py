"""Batch norms in evaluation are linear maps: folded into the layer before them, or layers of their own."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rheobase.graph.layers import Graph, Layer
from rheobase.graph.spiking import current_norm

FOLDABLE = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class Affine(nn.Module):
    """weight x + bias, a channel (axis 1) at a time."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        """The map."""
        shape = (-1, *[1] * (x.dim() - 2))
        return x * self.weight.reshape(shape) + self.bias.reshape(shape)

    def extra_repr(self) -> str:
        """The channels."""
        return f"{len(self.weight)}"


def folded(graph: Graph) -> tuple[Graph, dict[str, str]]:
    """The network in evaluation, without norms and dropout; every module in it is a copy of its own.

    Returns:
        The layers, and what became of those that are no longer there.
    """
    gone = {layer.name: "nothing, as in evaluation" for layer in graph.of("dropout")}
    graph = _without_dropout(graph)
    uses = graph.uses
    layers: dict[str, Layer] = {}
    now: dict[str, str] = {}  # the layer whose output a layer's is now
    for layer in graph.layers:
        inputs = tuple(now.get(name, name) for name in layer.inputs)
        before = layers.get(inputs[0])
        if layer.kind == "norm":
            scale, shift = _linear(layer.module)
            if before is not None and uses[layer.inputs[0]] == 1 and _foldable(before.module, scale):
                _fold(before.module, scale, shift)
                now[layer.name], gone[layer.name] = before.name, f"folded into {before.name}"
                continue
            dtype = current_norm(layer.module).weight.dtype
            layer = replace(layer, kind="weights", module=Affine(scale.to(dtype), shift.to(dtype)))
        layers[layer.name] = replace(layer, inputs=inputs, module=_plain(copy.deepcopy(layer.module).eval()))
    return replace(graph, layers=tuple(layers.values()), output=now.get(graph.output, graph.output)), gone


def _without_dropout(graph: Graph) -> Graph:
    layers: list[Layer] = []
    now: dict[str, str] = {}
    for layer in graph.layers:
        inputs = tuple(now.get(name, name) for name in layer.inputs)
        if layer.kind == "dropout":
            now[layer.name] = inputs[0]
        else:
            layers.append(replace(layer, inputs=inputs))
    return replace(graph, layers=tuple(layers), output=now.get(graph.output, graph.output))


def _foldable(module: Any, scale: Tensor) -> bool:
    """Whether a norm, which is of axis 1, is of a layer's outputs (those of a linear one may be another axis)."""
    return isinstance(module, FOLDABLE) and len(module.weight) == len(scale)


def _plain(module: Any) -> nn.Module:
    """A module with the weights that its parametrizations (such as `weight_norm`) make.

    (torch's `remove_parametrizations` takes them from the class, which is that of what it is a copy of too.)
    """
    if parametrize.is_parametrized(module):
        made = {name: getattr(module, name).detach().clone() for name in module.parametrizations}
        module.__class__ = type(module).__bases__[0]
        del module.parametrizations
        for name, value in made.items():
            setattr(module, name, nn.Parameter(value))
    return module


def _linear(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """A norm as scale and shift, in float64."""
    found = current_norm(norm)
    scale = found.scale * found.weight.detach().double() * (found.running_var.double() + found.eps).rsqrt()
    return scale, found.bias.detach().double() - found.running_mean.double() * scale


@torch.no_grad()
def _fold(module: Any, scale: Tensor, shift: Tensor) -> None:
    """Let a convolution or linear layer do what a norm behind it does."""
    weight = module.weight.double() * scale.reshape(-1, *[1] * (module.weight.dim() - 1))
    bias = shift if module.bias is None else shift + scale * module.bias.double()
    module.weight = nn.Parameter(weight.to(module.weight.dtype))
    module.bias = nn.Parameter(bias.to(module.weight.dtype))

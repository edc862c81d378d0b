"""Currents that are the same at every step, in the biases of the linear layers before a network's activations."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from rheobase.graph.distribution import ann
from rheobase.graph.folding import Affine
from rheobase.graph.layers import Graph, Layer


def carrier(graph: Graph, activation: Layer) -> Layer | None:
    """A linear layer whose output, itself or in a sum, drives that activation and nothing else."""
    by, uses = {layer.name: layer for layer in graph.layers}, graph.uses
    names = list(activation.inputs)
    while names:
        name = names.pop(0)
        layer = by.get(name)
        if layer is None or uses[name] > 1:
            continue
        if layer.kind == "weights":
            return layer
        if layer.kind == "add":
            names += layer.inputs
    return None


@torch.no_grad()
def with_carriers(graph: Graph, images: Tensor) -> Graph:
    """A copy of folded layers in which each activation has such a layer with a bias: where there is none, a new one.

    Args:
        graph: folded layers.
        images: to see how many channels there are.
    """
    channels: dict[str, int] = {}
    ann(graph)(images, lambda name, value: channels.update({name: value.shape[1]}))
    channels |= {one.name: one.module.out_features for one in graph.layers if isinstance(one.module, nn.Linear)}
    layers: list[Layer] = []
    for layer in graph.layers:
        inputs = layer.inputs
        if layer.kind == "activation" and carrier(graph, layer) is None:
            width = channels.get(inputs[0], images.shape[1])
            shift = Affine(images.new_ones(width), images.new_zeros(width))
            layers.append(Layer(f"{layer.name}_bias", "weights", shift, inputs, layer.where))
            inputs = (layers[-1].name,)
        layers.append(replace(layer, inputs=inputs, module=copy.deepcopy(layer.module)))
    found = replace(graph, layers=tuple(layers))
    for layer in found.of("activation"):
        before = carrier(found, layer)
        assert before is not None
        module: Any = before.module
        if module.bias is None:
            module.bias = nn.Parameter(images.new_zeros(channels[before.name]))
    return found


@torch.no_grad()
def add_bias(graph: Graph, activation: Layer, value: float | Tensor) -> None:
    """Add a number, or of those of its neurons each channel's mean, to what drives an activation with a carrier."""
    before = carrier(graph, activation)
    assert before is not None
    module: Any = before.module
    if isinstance(value, Tensor):
        channels = value.movedim(-1, 0) if isinstance(module, nn.Linear) else value
        value = channels.reshape(len(channels), -1).mean(1)
    module.bias.add_(torch.as_tensor(value, dtype=module.bias.dtype, device=module.bias.device))

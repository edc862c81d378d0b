"""Weights without a norm: uniform, with thresholds in proportion to them (Lee, Delbruck and Pfeiffer 2016)."""

from __future__ import annotations

import math

import torch
from torch import nn

from rheobase.layers import Fire, PerStep
from rheobase.models.net import Rate
from rheobase.neurons import LIF, Recurrent
from rheobase.neurons.numbers import spread
from rheobase.rules.spike_train_topology import Masked, begin

HEARD = 11  # neurons that one of 400 hears, on a grid of 5 x 5 x 16


def uniform(layer: PerStep, fire: Fire | None, alpha: float) -> None:
    """Begin a convolution or linear layer, and the neurons behind it (None: there are none), anew.

    Weights of M inputs are uniform between -r and r = sqrt(3 / M), so that the sum of their squares is 1 on average;
    there is no bias; thresholds, one a channel, are alpha r. Where N neurons hear each other, the weights between them
    are within r sqrt(11 / N): as if each heard 11 others, as in the layers of Zhang and Li 2019, with weights within r.
    Where they lie on a grid, and hear as many in truth, the weights that there are are within r.

    Raises:
        ValueError: neurons without a threshold of their own.
    """
    module = layer.module
    weight = module.weight
    assert isinstance(weight, nn.Parameter)
    edge = math.sqrt(3 / weight[0].numel())
    nn.init.uniform_(weight, -edge, edge)
    module.register_parameter("bias", None)
    if fire is None or isinstance(fire.neuron, Rate):
        return
    neuron = fire.neuron
    if isinstance(neuron, Recurrent):
        assert isinstance(neuron.module, nn.Linear)
        sparse = isinstance(neuron.module, Masked)
        begin(neuron.module, edge if sparse else edge * math.sqrt(min(1, HEARD / len(weight))))
        neuron = neuron.neuron
    if not isinstance(neuron, LIF):
        raise ValueError(f"alpha must be null for a {type(neuron).__name__}, whose threshold it would set")
    spread(neuron, "threshold", torch.full((len(weight),), alpha * edge))

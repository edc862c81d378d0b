"""Weights without a norm: uniform, with thresholds in proportion to them (Lee, Delbruck and Pfeiffer 2016)."""

from __future__ import annotations

import math

import torch
from torch import nn

from rheobase.layers import Fire, PerStep
from rheobase.models.net import Rate
from rheobase.neurons import LIF
from rheobase.neurons.numbers import spread


def uniform(layer: PerStep, fire: Fire | None, alpha: float) -> None:
    """Begin a convolution or linear layer, and the neurons behind it (None: there are none), anew.

    Weights of M inputs are uniform between -r and r = sqrt(3 / M), so that the sum of their squares is 1 on average;
    there is no bias; thresholds, one a channel, are alpha r.

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
    if not isinstance(fire.neuron, LIF):
        raise ValueError(f"alpha must be null for a {type(fire.neuron).__name__}, whose threshold it would set")
    spread(fire.neuron, "threshold", torch.full((len(weight),), alpha * edge))

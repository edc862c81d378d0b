"""A net of endless width, simulated: what goes up and what comes down in random weights, before there is a net.

With wide random weights and normed currents, the currents of a layer are Gaussian, and all that counts is their
covariance over time and between inputs, which is that of the spikes below (as in Poole et al. 2016, for sequences). So a
layer is a population of neurons that get such currents, and a net is one population after the other.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from rheobase.neurons import LIF
from rheobase.signal.gain import Profile, through_neuron

Junction = Literal["none", "classic", "sew", "ms"]


@dataclass(frozen=True)
class Stack:
    """What is simulated: blocks, one after the other, all alike.

    Attributes:
        neuron: of every layer.
        steps: T; the input is the same at every step.
        blocks: how many.
        layers: of weights in the branch of a block; without a junction, of the block.
        junction: how a block joins its branch to its input: not at all, or as in `models.resnet`.
        gain: initial weight of the branch's last norm; 0: the block begins as the identity.
        identity: of a weight matrix that is identity + noise, the size of the noise; None: random.
        neurons: in the population.
        seed: of it.
    """

    neuron: LIF
    steps: int = 4
    blocks: int = 20
    layers: int = 1
    junction: Junction = "none"
    gain: float = 1.0
    identity: float | None = None
    neurons: int = 8192
    seed: int = 0


@dataclass
class Field:
    """The populations of a stack, from the input on, and the gradient's way down."""

    likeness: list[list[float]] = field(default_factory=list)
    """Of each block's output: cosine, about the mean, between the rates of two inputs; one for each pair."""
    rates: list[float] = field(default_factory=list)
    """Spikes a step of each neuron layer."""


def _normed(currents: Tensor) -> Tensor:
    """With mean 0 and variance 1 over all of it."""
    return (currents - currents.mean()) / currents.std()


def _mixed(spikes: Tensor, identity: float | None, generator: torch.Generator) -> Tensor:
    """Normed currents `[T, M, N]` from spikes `[T, M, N]` through weights."""
    steps, inputs, neurons = spikes.shape
    centred = (spikes - spikes.mean()).transpose(0, 1).reshape(-1, neurons).double()
    covariance = centred @ centred.T / neurons
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp(min=0).sqrt()).float()
    random = root @ torch.randn(len(root), neurons, generator=generator)
    random = random.view(inputs, steps, neurons).transpose(0, 1)
    return _normed(random if identity is None else spikes - spikes.mean() + identity * random)

"""A net of endless width, simulated: what goes up and comes down in random weights, before there is a net.

With wide random weights and normed currents, the currents of a layer are Gaussian, and all that counts is their
covariance over time and between inputs, which is that of the spikes below (as in Poole et al. 2016; here for
sequences). So a layer is a population of neurons that get such currents, and a net is one population after the other.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from rheobase.neurons import LIF
from rheobase.signal.gain import Profile, through_neuron
from rheobase.signal.search import stretched
from rheobase.surrogate import Surrogate

VIEWS = 0.995
"""Correlation of two views of one input: that of x and x + noise a tenth of its size."""
INPUTS = 0.5
"""Correlation of two inputs."""
Junction = Literal["none", "classic", "sew", "ms"]


@dataclass(frozen=True)
class Stack:
    """A net of blocks that are all alike, on an input that is the same at every step; behind it, the mean over time.

    Attributes:
        neuron: of every layer.
        steps: T.
        blocks: how many.
        layers: of weights in a block.
        junction: how a block joins what comes out of its layers to its input: not at all, or as in `models.resnet`.
        gain: initial weight of a block's last norm; 0: with a junction, the block begins as the identity.
        identity: weights that are identity + so much noise; None: random.
        samples: that a norm sees of a channel: batch size times places.
        neurons: in a population.
        seed: of it.
    """

    neuron: LIF
    steps: int = 4
    blocks: int = 20
    layers: int = 1
    junction: Junction = "none"
    gain: float = 1.0
    identity: float | None = None
    samples: int = 64
    neurons: int = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        if self.junction not in get_args(Junction):
            raise ValueError(f"Stack: junction must be one of {', '.join(get_args(Junction))}, got {self.junction!r}")
        for name, least in (("steps", 1), ("blocks", 0), ("layers", 1), ("samples", 1), ("neurons", 2)):
            value = getattr(self, name)
            if not isinstance(value, int) or value < least:
                raise ValueError(f"Stack: {name} must be a whole number, at least {least}, got {value!r}")


class Population(NamedTuple):
    """A layer: what it does, and by how much its weights and norm change a gradient's size."""

    potentials: Tensor  # [T, N] of the first input
    rate: float
    weights: float
    normed: Tensor  # products of the currents after the norm at two steps, [T, T]


class Up(NamedTuple):
    """The way up.

    Attributes:
        stem: the first population.
        blocks: those of each block.
        views: of the stem and of each block's output, cosine about the mean between rates of two views of one input.
        inputs: the same of two inputs.
    """

    stem: Population
    blocks: list[list[Population]]
    views: list[float]
    inputs: list[float]


def up(stack: Stack) -> Up:
    """Simulate the way up: of an input, another view of it, an input like it, and one that is not."""
    generator = torch.Generator().manual_seed(stack.seed)
    noise = torch.randn(4, stack.neurons, generator=generator)
    first = torch.stack([c * noise[0] + (1 - c * c) ** 0.5 * noise[k] for k, c in enumerate((1.0, VIEWS, INPUTS, 0.0))])
    potential = first.expand(stack.steps, -1, -1)  # of an MS net, what goes past its neurons
    spikes, stem = _fire(stack, potential, potential, 1.0)
    blocks, likeness = [], [_alike(spikes)]
    for _ in range(stack.blocks):
        populations = []
        inner = spikes
        for _ in range(stack.layers - 1):
            currents, weights = _mixed(inner, stack.identity, generator)
            inner, population = _fire(stack, currents, currents, weights)
            populations.append(population)
        currents, weights = _mixed(inner, stack.identity, generator)
        normed, currents, weights = currents, stack.gain * currents, stack.gain * weights
        if stack.junction == "classic":
            currents = currents + spikes
        elif stack.junction == "ms":
            potential = currents = currents + potential
        outputs, population = _fire(stack, currents, normed, weights)
        populations.append(population)
        spikes = outputs + spikes if stack.junction == "sew" else outputs
        blocks.append(populations)
        likeness.append(_alike(spikes))
    views, inputs = (list(each) for each in zip(*likeness, strict=True))
    return Up(stem, blocks, views, inputs)


def _fire(stack: Stack, currents: Tensor, normed: Tensor, weights: float) -> tuple[Tensor, Population]:
    """Spikes of currents `[T, M, N]`, and their population."""
    with torch.no_grad():
        ran = stack.neuron._call(currents.contiguous(), None, watch=True)
    assert ran.potentials is not None
    products = Profile.of(normed[:, 0]).products
    return ran.outputs, Population(ran.potentials[:, 0], float(ran.outputs.mean()), weights, products)


def _mixed(spikes: Tensor, identity: float | None, generator: torch.Generator) -> tuple[Tensor, float]:
    """Normed currents `[T, M, N]` from spikes through weights, and what these do to the size of a gradient."""
    steps, inputs, neurons = spikes.shape
    centred = spikes - spikes.mean()
    rows = centred.transpose(0, 1).reshape(-1, neurons).double()
    covariance = rows @ rows.T / neurons
    covariance -= covariance[:steps, -steps:].mean()  # what all inputs have in common: the norm takes it away
    values, vectors = torch.linalg.eigh(covariance)
    root = (vectors * values.clamp(min=0).sqrt()).float()
    random = (root @ torch.randn(len(root), neurons, generator=generator)).view(inputs, steps, neurons).transpose(0, 1)
    currents = random if identity is None else centred + identity * random
    size = 1.0 if identity is None else (1 + identity**2) ** 0.5
    deviation = currents.std()
    if not deviation > 0:
        raise ValueError("the neurons all do the same, whatever they hear: none ever fires, or all always do")
    return (currents - currents.mean()) / deviation, size / float(deviation)


def _alike(spikes: Tensor) -> tuple[float, float]:
    """Cosines about the mean between rates of the first input and of the others."""
    rates = spikes.mean(0)
    rates = rates - rates.mean(1, keepdim=True)
    first, *others = rates / rates.norm(dim=1, keepdim=True).clamp(min=1e-12)
    view, other, _ = (float(first @ each) for each in others)
    return view, other


def down(stack: Stack, climbed: Up) -> list[Profile]:
    """The gradient of the currents of the stem's neurons and of each block's last, from the bottom on.

    It comes from a loss on the mean over time, in which each neuron counts as much as any other.
    """
    spikes = Profile.constant(stack.steps)
    past = spikes.scaled(0.0)  # of an MS net's potentials
    found = []
    for populations in reversed(climbed.blocks):
        *inner, last = populations
        currents = through_neuron(stack.neuron, last.potentials, spikes)
        if stack.junction == "ms":
            past = currents = currents.plus(past)
        found.append(currents)
        branch = currents.through_norm(last.normed, stack.samples).scaled(last.weights)
        for each in reversed(inner):
            branch = through_neuron(stack.neuron, each.potentials, branch)
            branch = branch.through_norm(each.normed, stack.samples).scaled(each.weights)
        if stack.junction in ("classic", "sew"):  # the way past the branch: currents to spikes, or spikes to spikes
            branch = branch.plus(currents if stack.junction == "classic" else spikes)
        spikes = branch
    stem = through_neuron(stack.neuron, climbed.stem.potentials, spikes)
    return [stem.plus(past), *reversed(found)]


def critical(stack: Stack) -> LIF:
    """The stack's neuron, its surrogate so wide that the gradient is as large at the first neurons as at the last.

    Raises:
        ValueError: no width from a 20th to 20 times the given one does it.
    """
    climbed, neuron = up(stack), copy.deepcopy(stack.neuron)

    def ratio(surrogate: Surrogate) -> float:
        neuron.surrogate = surrogate
        sizes = [each.size for each in down(replace(stack, neuron=neuron), climbed)]
        return sizes[0] / sizes[-1]

    found = so_wide(stack.neuron.surrogate, ratio)
    if found is None:
        raise ValueError(f"no surrogate like {stack.neuron.surrogate} levels the gradient of {stack}")
    neuron.surrogate = found
    return neuron


def so_wide(surrogate: Surrogate, ratio: Callable[[Surrogate], float]) -> Surrogate | None:
    """The surrogate, stretched until a ratio that grows with its width is 1; None: no 20th to 20-fold width does it."""
    log, reached = stretched(surrogate, ratio, most=20.0)
    return surrogate.stretched(math.exp(log)) if reached else None

"""A start without norms: weights for a rate that stays, and surrogates for a gradient that does (the baseline arm).

After SpikeInit (Shi and Yu, ICML 2026), as its code sets a net up, for neurons with a hard reset without a gradient:

- A layer's membrane is taken for a Gaussian of mean m and deviation s. With z = (threshold - m) / s and u = k v + l I,
  m = k (m Phi(z) - s phi(z)) and E[u^2] = k^2 (E[u^2] Phi(z) - s (threshold + m) phi(z)) + d^2, where d is what l I
  deviates by. d is searched for until the neuron fires at the rate p, and weights deviate by d / (l sqrt(fan-in p)).
- The first layer hears the same at every step; its d is searched for in a simulation (there: a series).
- The surrogate's width is searched for until E[h^2] = (1 - (1 - p) k^2) / (size l)^2, where size is that of the
  weights times the root of their fan-in, and h that of ATan (there: an exponential).
- Biases and the classifier begin at zero.

Of what it does *in* training nothing is here: there the width follows each channel's membrane, with a scale and a shift
that are learned.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import NormalDist

import torch
from torch import Tensor, nn

import rheobase as rb

RATE = 0.1
NORMAL = NormalDist()


def membrane(deviation: float, decay: float, threshold: float) -> tuple[float, float]:
    """Mean and deviation of a membrane before its reset, at rest in time, whose input deviates by so much."""
    m, square = 0.0, deviation**2
    for _ in range(1000):
        s = math.sqrt(square - m**2)
        z = (threshold - m) / s
        below, density = NORMAL.cdf(z), NORMAL.pdf(z)
        before = m, square
        m, square = (
            decay * (m * below - s * density),
            decay**2 * (square * below - s * (threshold + m) * density) + deviation**2,
        )
        if max(abs(m - before[0]), abs(square - before[1])) < 1e-12:
            break
    return m, math.sqrt(square - m**2)


def searched(of: Callable[[float], float], wanted: float, low: float, high: float) -> float:
    """Where a growing function is as wanted, by bisection of the logarithm."""
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if of(middle) < wanted else (low, middle)
    return math.sqrt(low * high)


def by_rate(decay: float, threshold: float, rate: float = RATE) -> float:
    """What a layer's input deviates by for this rate."""

    def fires(deviation: float) -> float:
        m, s = membrane(deviation, decay, threshold)
        return 1 - NORMAL.cdf((threshold - m) / s)

    return searched(fires, rate, 1e-3 * threshold, 1e3 * threshold)


def by_rate_of_constant(neuron: rb.LIF, steps: int, rate: float = RATE) -> float:
    """The same of the first layer, for currents that are Gaussian over neurons, and constant in time."""
    draws = torch.special.ndtri((torch.arange(4096) + 0.5) / 4096)

    def fires(deviation: float) -> float:
        with torch.no_grad():
            return float(neuron((deviation * draws).expand(steps, -1).contiguous()).mean())

    return float(neuron.input_scale) * searched(fires, rate, 1e-3, 1e3)


def width(size: float, decay: float, threshold: float, rate: float = RATE) -> float:
    """Of ATan, for a gradient whose size a layer keeps: `size` is that of its weights and of the neuron's input scale.

    A narrower one (a larger number) is higher and has the larger E[h^2].
    """
    m, s = membrane(by_rate(decay, threshold, rate), decay, threshold)
    x = m - threshold + s * torch.special.ndtri((torch.arange(4096, dtype=torch.float64) + 0.5) / 4096)
    square = (1 - (1 - rate) * decay**2) / size**2
    return searched(lambda a: float(rb.surrogate.ATan.formula(x, a).square().mean()), square, 1e-3, 1e3)


@torch.no_grad()
def spike_init(net: nn.Module, x: Tensor, steps: int) -> None:
    """Start a net of linear layers, each but the last before a LIF neuron with a hard reset."""
    neurons = [module for module in net.modules() if isinstance(module, rb.LIF)]
    layers = [module for module in net.modules() if isinstance(module, nn.Linear)]
    if len(layers) != len(neurons) + 1 or any(n.reset != "hard" or not n.detach_reset for n in neurons):
        raise ValueError("spike_init: wanted linear layers and LIF neurons with a detached hard reset in turn")
    for number, (layer, neuron) in enumerate(zip(layers[:-1], neurons, strict=True)):
        decay, threshold, scale = (float(n) for n in (neuron.decay, neuron.threshold, neuron.input_scale))
        if number:
            size = by_rate(decay, threshold) / RATE**0.5
        else:
            size = by_rate_of_constant(neuron, steps) / float(x.square().mean().sqrt())
        nn.init.normal_(layer.weight, std=size / (scale * layer.in_features**0.5))
        neuron.surrogate = rb.surrogate.ATan(width(size, decay, threshold))
    nn.init.zeros_(layers[-1].weight)
    for layer in layers:
        nn.init.zeros_(layer.bias)

"""How a neuron changes the size of a gradient that comes down through it: in closed form, from its potentials."""

from __future__ import annotations

import torch
from torch import Tensor

from rheobase.neurons import LIF


def through_neuron(neuron: LIF, potentials: Tensor, r: float) -> float:
    """Gain of the gradient through a neuron, rms(dLoss/dcurrents) / rms(dLoss/dspikes), from its potentials `[T, ...]`.

    The way down is d[t] = h[t] g[t] + J[t] d[t+1], where dLoss/dcurrents = input_scale d, h[t] is the surrogate's derivative at
    u[t] - threshold, and J[t] = decay dv[t]/du[t], by the reset
        soft: decay (1 - threshold h[t]);  hard: decay (1 - s[t] - u[t] h[t]);  none: decay;
    with `detach_reset` without the terms in h. Where the gradient g of the spikes does not depend on them, has one size
    at all steps and a correlation r from step to step (r^m over m steps), variance and covariance with g go down as
        C[t] = h[t] + J[t] r C[t+1],   V[t] = h[t]^2 + 2 h[t] J[t] r C[t+1] + J[t]^2 V[t+1],
    for each neuron exactly; the gain is input_scale times the root of the mean of V over steps and neurons.

    Args:
        neuron: a `LIF` or `IF` whose numbers are one for all.
        potentials: u, before the reset.
        r: correlation in time of the gradient that comes in.

    Raises:
        ValueError: another neuron, a delayed reset, or numbers that vary.
    """
    if not isinstance(neuron, LIF) or neuron.kind != "LIF" or not neuron.native or neuron.reset == "delayed":
        raise ValueError(f"the gain is known of LIF and IF with the resets soft, hard and none, got {neuron!r}")
    numbers = [getattr(neuron, name) for name in neuron.dynamics]
    if any(number.numel() > 1 for number in numbers):
        raise ValueError(f"the gain is known where a neuron's numbers are one for all, got {neuron!r}")
    decay, threshold, scale, *_ = (float(number) for number in numbers)
    u = potentials.double()
    h, fired = neuron.surrogate.derivative(u - threshold), (u >= threshold).double()
    passed = 1 - fired if neuron.reset == "hard" else torch.ones_like(u)
    if not neuron.detach_reset and neuron.reset != "none":
        passed = passed - h * (u if neuron.reset == "hard" else threshold)
    down = decay * passed
    variance, covariance = torch.zeros_like(u[0]), torch.zeros_like(u[0])
    total = 0.0
    for t in range(len(u) - 1, -1, -1):
        shared = r * down[t] * covariance
        variance = h[t].square() + 2 * h[t] * shared + down[t].square() * variance
        covariance = h[t] + shared
        total += float(variance.mean())
    return scale * (total / len(u)) ** 0.5

"""How a neuron changes the size of a gradient that comes down through it: in closed form, from its potentials."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rheobase.neurons import LIF


class Profile(NamedTuple):
    """Sizes of a gradient at the steps of time, and how alike neighbours are.

    Attributes:
        sizes: rms at each step, float64 `[T]`.
        r: correlation of each step with the next, float64 `[T - 1]`.
    """

    sizes: Tensor
    r: Tensor

    @classmethod
    def of(cls, gradient: Tensor) -> Profile:
        """That of a gradient `[T, ...]`."""
        g = gradient.double().flatten(1)
        sizes = g.square().mean(1).sqrt()
        r = (g[:-1] * g[1:]).mean(1) / (sizes[:-1] * sizes[1:]).clamp(min=torch.finfo(torch.float64).tiny)
        return cls(sizes, r)

    @property
    def size(self) -> float:
        """Rms over all steps."""
        return float(self.sizes.square().mean().sqrt())


def through_neuron(neuron: LIF, potentials: Tensor, above: Profile) -> Profile:
    """The gradient of the currents of a neuron, from its potentials `[T, ...]` and the gradient of its spikes.

    The way down is d[t] = h[t] g[t] + J[t] d[t+1], where dLoss/dcurrents = input_scale d, h[t] is the surrogate's derivative at
    u[t] - threshold, and J[t] = decay dv[t]/du[t], by the reset
        soft: decay (1 - threshold h[t]);  hard: decay (1 - s[t] - u[t] h[t]);  none: decay;
    with `detach_reset` without the terms in h. Where the gradient g of the spikes does not depend on them, and over m
    steps is correlated as the product of the r between them, covariance with g and variance go down, with
    f[t] = J[t] r[t] |g[t]| / |g[t+1]|, for each neuron exactly as
        C[t] = h[t] |g[t]|^2 + f[t] C[t+1],   V[t] = h[t] C[t] + h[t] f[t] C[t+1] + J[t]^2 V[t+1].

    Args:
        neuron: a `LIF` or `IF` whose numbers are one for all.
        potentials: u, before the reset.
        above: the gradient that comes in.

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
    down, g, steps = decay * passed, above.sizes, len(u)
    variance, covariance = torch.zeros_like(u[0]), torch.zeros_like(u[0])
    found, shared = torch.zeros(steps, dtype=torch.float64), torch.zeros(steps - 1, dtype=torch.float64)
    for t in range(steps - 1, -1, -1):
        later = torch.zeros_like(covariance)
        if t < steps - 1 and g[t + 1] > 0:
            later = covariance * (above.r[t] * g[t] / g[t + 1])  # of d[t+1] with g[t]
            shared[t] = (h[t] * later + down[t] * variance).mean()
        variance = h[t].square() * g[t].square() + 2 * h[t] * down[t] * later + down[t].square() * variance
        covariance = h[t] * g[t].square() + down[t] * later
        found[t] = variance.mean()
    sizes = found.sqrt()
    r = shared / (sizes[:-1] * sizes[1:]).clamp(min=torch.finfo(torch.float64).tiny)
    return Profile(scale * sizes, r)

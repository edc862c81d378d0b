"""How a neuron changes the size of a gradient that comes down through it: in closed form, from its potentials."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rheobase.neurons import LIF

MOST = 8192
"""So many neurons of a layer tell enough of it."""


@dataclass(frozen=True)
class Profile:
    """A gradient over time.

    Attributes:
        products: mean of the products of its values at two steps, float64 `[T, T]` over all neurons, or `[N, T, T]` of
            each over what it does not know of.
    """

    products: Tensor

    @classmethod
    def of(cls, gradient: Tensor) -> Profile:
        """That of a gradient `[T, ...]`."""
        g = gradient.detach().flatten(1).double()
        return cls(g @ g.T / g.shape[1])

    @classmethod
    def constant(cls, steps: int) -> Profile:
        """Of a gradient of size 1 that is the same at all steps."""
        return cls(torch.ones(steps, steps, dtype=torch.float64))

    @property
    def size(self) -> float:
        """Rms over all steps."""
        return float(self.products.diagonal(dim1=-2, dim2=-1).mean().sqrt())

    @property
    def r(self) -> float | None:
        """Correlation of a step with the next, over all of them; None at T = 1."""
        if self.products.shape[-1] < 2:
            return None
        products = self.mean().products
        sizes = products.diagonal()
        norm = float((sizes[:-1].sum() * sizes[1:].sum()).sqrt())
        return float(products.diagonal(1).sum()) / norm if norm > 0 else None

    def mean(self) -> Profile:
        """Over all neurons."""
        return self if self.products.dim() == 2 else Profile(self.products.mean(0))

    def scaled(self, factor: float) -> Profile:
        """So many times as large."""
        return Profile(self.products * factor**2)

    def through_norm(self, currents: Tensor, samples: int) -> Profile:
        """That before a norm of gain 1 over steps and samples, which takes from it what would move mean and variance.

        With x the normed currents and K the products, g - mean(g) - x mean(g x) has the products
            K - (k 1' + 1 k' - mean(k)) / B - (K X + X K) / (T B) + X tr(K X) / (T^2 B),
        k the mean of K over steps, X those of x, B the samples. (What remains is divided by the currents' deviation.)

        Args:
            currents: products of the normed currents, X `[T, T]`.
            samples: B.
        """
        products, steps = self.mean().products, self.products.shape[-1]
        mean, across = products.mean(1), products @ currents / steps
        found = products - (mean + mean.unsqueeze(1) - mean.mean() + across + across.T) / samples
        return Profile(found + currents * (across.trace() / (steps * samples)))

    def plus(self, other: Profile) -> Profile:
        """That of the sum with a gradient that has nothing to do with it."""
        return Profile(self.products + other.products)


def through_neuron(neuron: LIF, potentials: Tensor, above: Profile) -> Profile:
    """The gradient of the currents of each neuron, from its potentials `[T, ...]` and the gradient g of its spikes.

    The way down is d[t] = h[t] g[t] + J[t] d[t+1], where dLoss/dcurrents = input_scale d, h[t] is the surrogate's
    derivative at u[t] - threshold, and J[t] = decay dv[t]/du[t], by the reset
        soft: decay (1 - threshold h[t]);  hard: decay (1 - s[t] - u[t] h[t]);  none: decay;
    with `detach_reset` without the terms in h. So d = A g with a matrix for each neuron, and where g does not depend on
    the potentials, the products of d are A K A^T, with K those of g.

    Args:
        neuron: a `LIF` or `IF` whose numbers are one for all.
        potentials: u, before the reset; of more than `MOST` neurons and samples, so many are taken.
        above: the gradient that comes in.

    Raises:
        ValueError: another neuron, a delayed reset, or numbers that vary.
    """
    if not isinstance(neuron, LIF) or neuron.kind != "LIF" or not neuron.native or neuron.reset == "delayed":
        raise ValueError(f"the gain is known of LIF and IF with the resets soft, hard and none, got {neuron!r}")
    numbers = [getattr(neuron, name) for name in neuron.dynamics]
    if neuron.rule is not None:
        raise ValueError(f"the gain is known of surrogates, and the neuron has a gradient rule, {neuron.rule.name}")
    if any(number.numel() > 1 for number in numbers):
        raise ValueError(f"the gain is known where a neuron's numbers are one for all, got {neuron!r}")
    decay, threshold, scale, *_ = (float(number.detach()) for number in numbers)
    u = potentials.detach().flatten(1)
    u = u[:, :: -(-u.shape[1] // MOST)].double()
    h = neuron.surrogate.derivative(u - threshold)
    passed = 1 - (u >= threshold).double() if neuron.reset == "hard" else torch.ones_like(u)
    if not neuron.detach_reset and neuron.reset != "none":
        passed = passed - h * (u if neuron.reset == "hard" else threshold)
    steps, count = u.shape
    way = u.new_zeros(count, steps, steps)  # A
    for t in range(steps - 1, -1, -1):
        if t + 1 < steps:
            way[:, t] = (decay * passed[t]).unsqueeze(1) * way[:, t + 1]
        way[:, t, t] = h[t]
    return Profile(scale**2 * (way @ above.products @ way.mT))

"""Membrane-potential backpropagation as it is written: one sample at a time, event by event (Lee et al. 2016).

Fully connected layers, their own error normalisation, regularisation and plain gradient descent. What rheobase trains
networks with is the rule `rheobase.rules.Membrane`; this is what it is measured against.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from rheobase.rules.presented import NEVER, Array, present

STEEPEST = 10.0  # where the exponential regulariser goes on as its tangent


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The numbers of the method; times in ms.

    Attributes:
        tau: of membrane and traces.
        refractory: time until inputs count in full again.
        step: the grid of time.
        duration: of a sample.
        kappa: lateral inhibition in thresholds, in hidden layers and among the outputs, in [-1, 0].
        efficacy: sigma, the share of it that counts in learning.
        alpha: threshold over the bound of the weights at the beginning, in hidden layers and of the outputs.
        rate: learning rate of weights.
        threshold_rate: that of thresholds.
        penalty: lambda of the exponential weight regularisation.
        steepness: its beta.
        balance: rho of the threshold regularisation.
        least: the lower bound of thresholds, as a share of where they begin.
    """

    tau: float = 20.0
    refractory: float = 1.0
    step: float = 0.1
    duration: float = 50.0
    kappa: tuple[float, float] = (-0.4, -0.4)
    efficacy: float = 0.5
    alpha: tuple[float, float] = (6.0, 3.0)
    rate: float = 0.002
    threshold_rate: float = 0.0002
    penalty: float = 0.002
    steepness: float = 10.0
    balance: float = 0.00004
    least: float = 0.1

    @property
    def steps(self) -> int:
        """Steps of a sample."""
        return round(self.duration / self.step)


class Shown(NamedTuple):
    """What a sample did, of the inputs and then of each layer: the trace at the end, and the number of spikes."""

    traces: list[Array]
    counts: list[Array]


class Online:
    """A fully connected network that learns after each sample.

    Args:
        sizes: of the input and of each layer.
        settings: the method's numbers.
        seed: of the initial weights.

    Attributes:
        weights: `[M, N]` of each layer, from its inputs to its neurons.
        thresholds: `[N]` of each layer.

    Raises:
        ValueError: fewer than two sizes.
    """

    def __init__(self, sizes: Sequence[int], settings: Settings = Settings(), seed: int = 0) -> None:
        if len(sizes) < 2 or min(sizes) < 1:
            raise ValueError(f"Online: sizes must be of the input and of a layer at least, got {list(sizes)}")
        self.settings = settings
        rng = np.random.default_rng(seed)
        edges = [math.sqrt(3 / inputs) for inputs in sizes[:-1]]
        last = len(edges) - 1
        alphas = [settings.alpha[layer == last] for layer in range(len(edges))]
        self.weights = [rng.uniform(-e, e, (m, n)) for e, m, n in zip(edges, sizes, sizes[1:], strict=False)]
        self.thresholds = [np.full(n, a * e) for e, n, a in zip(edges, sizes[1:], alphas, strict=True)]
        self._least = settings.least * min(a * e for a, e in zip(alphas, edges, strict=True))
        self._kappa = np.array([settings.kappa[layer == last] for layer in range(len(edges))], float)
        self._powers = np.exp(-np.arange(settings.steps + 1) * settings.step / settings.tau)

    def present(self, times: Array, places: Array, learning: bool = False) -> Shown:
        """What events do, from rest; with `learning` the thresholds are balanced on the way.

        Args:
            times: step of each event, sorted, below `settings.steps`.
            places: input of each event.

        Raises:
            ValueError: events out of order or range.
        """
        s, sizes = self.settings, [len(self.weights[0]), *map(len, self.thresholds)]
        if len(times) and not (
            times[0] >= 0 and times[-1] < s.steps and (np.diff(times) >= 0).all() and places.min() >= 0
            and places.max() < sizes[0]
        ):  # fmt: skip
            raise ValueError(f"Online: events must be sorted, within {s.steps} steps and {sizes[0]} inputs")
        traces, counts = [np.zeros(n) for n in sizes], [np.zeros(n, np.int64) for n in sizes]
        rooms = [np.empty(max(n, len(times)), np.int64) for n in sizes]
        present(
            times, places, tuple(self.weights), tuple(self.thresholds),
            tuple(np.zeros(n) for n in sizes[1:]), tuple(np.full(n, NEVER, np.int64) for n in sizes[1:]),
            tuple(traces), tuple(counts), tuple(rooms), tuple(np.empty(n) for n in sizes[1:]),
            self._kappa, self._powers, s.refractory / s.step, s.balance if learning else 0.0, self._least,
        )  # fmt: skip
        return Shown(traces, counts)

    def errors(self, shown: Shown, label: int) -> list[Array]:
        """delta `[N]` of each layer: 0 of silent neurons, but for outputs, which could not begin to fire else.

        delta of the outputs: spikes over those of the class with most (0 where there are none), minus one-hot label.
        delta_i of layer l: g_i / rms(g) sqrt(M / m) sum_j w_ij delta_j, with g = 1 / threshold and its root mean square
        over active neurons, and of the layer above j, its inputs M and those m that fired.
        """
        counts = shown.counts
        output = counts[-1] / max(1, counts[-1].max())
        output[label] -= 1
        deltas = [output]
        for layer in range(len(self.weights) - 2, -1, -1):
            active = counts[layer + 1] > 0
            gain = active / self.thresholds[layer]
            fired = max(1, active.sum())
            scale = math.sqrt(len(active) / fired) / math.sqrt((gain @ gain) / fired or 1.0)
            deltas.insert(0, gain * scale * (self.weights[layer + 1] @ deltas[0]))
        return deltas

    def learn(self, shown: Shown, label: int, share: float = 1.0) -> None:
        """Change weights and thresholds after a sample: by `share` of the learning rates."""
        s = self.settings
        deltas = self.errors(shown, label)
        last = len(deltas) - 1
        for layer, delta in enumerate(deltas):
            w, x, a = self.weights[layer], shown.traces[layer], shown.traces[layer + 1]
            inputs, outputs = w.shape
            heard = shown.counts[layer].nonzero()[0]
            scale = math.sqrt(outputs / max(1, len(heard)))
            if layer < last and s.penalty:
                w -= share * s.rate * s.penalty * pull(w, s.steepness)
            w[heard] -= share * s.rate * scale * np.outer(x[heard], delta)
            taken = -a + s.efficacy * self._kappa[layer] * (a.sum() - a)
            th = self.thresholds[layer]
            th -= share * s.threshold_rate * scale / math.sqrt(inputs) * delta * taken
            np.maximum(th, self._least, out=th)

    def answer(self, shown: Shown) -> int:
        """The class with most spikes; of equals the one with the largest trace."""
        return int(np.lexsort((shown.traces[-1], shown.counts[-1]))[-1])


def pull(w: Array, steepness: float) -> Array:
    """Gradient of the sum over neurons of exp(steepness (sum of squared weights - 1)) / 2, `[M, N]` as the weights.

    Above an exponent of 10 the exponential goes on as its tangent: it would overflow, and its gradient, which leads
    back to 1, with it.
    """
    exponent = steepness * (np.square(w).sum(0) - 1)
    found: Array = steepness * w * np.exp(np.minimum(exponent, STEEPEST))
    return found


def poisson(image: Array, settings: Settings, rate: float, seed: int) -> tuple[Array, Array]:
    """Events of an image with values in [0, 1]: of each pixel a Poisson process of rate * value events a ms.

    Returns:
        Steps, sorted, and places, as `Online.present` takes them: a function of the seed.
    """
    rng = np.random.default_rng(seed)
    counts = rng.poisson(rate * settings.duration * image.ravel())
    places = np.repeat(np.arange(len(counts)), counts)
    times = rng.integers(0, settings.steps, len(places))
    order = np.argsort(times, kind="stable")
    return times[order], places[order]

"""One sample of events through fully connected layers, event by event: compiled, with a grid of time as fine as wanted.

The neurons are `rheobase.LateralLIF`, which the tests compare it with; it costs by events, not by steps.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from rheobase.compiled import compiled

Array = np.ndarray[Any, Any]
NEVER = -(1 << 40)  # a step long ago


@compiled
def present(
    times: Array,
    places: Array,
    weights: Any,
    thresholds: Any,
    potentials: Any,
    triggers: Any,
    traces: Any,
    counts: Any,
    fired: Any,
    drives: Any,
    kappa: Array,
    powers: Array,
    refractory: float,
    rho: float,
    least: float,
) -> None:
    """Run a sample; thresholds (and weights at the least threshold) move with rho > 0.

    Spikes of a layer reach the next one in the same step. Between two steps with input a layer only decays, so that
    nothing has to be done there.

    Args:
        times: steps of the input events, sorted, `[E]`.
        places: their inputs, `[E]`.
        weights: of each layer `[M, N]`, from inputs to neurons.
        thresholds: `[N]` of each layer, as what follows.
        potentials: 0 at rest.
        triggers: the last step in which a neuron fired or was inhibited; NEVER at rest.
        traces: the inputs' `[M]`, then each layer's: sum over spikes of decay^(T - t), here added to 0.
        counts: spikes of the same.
        fired: room for the events of one step, of inputs `[E]` and of each layer.
        drives: room, one a neuron.
        kappa: one a layer.
        powers: decay^0 ... decay^T.
        refractory: steps.
        rho: of threshold regularisation.
        least: threshold at which weights rise instead.
    """
    steps = len(powers) - 1
    layers = len(weights)
    before = np.zeros(layers, np.int64)  # the step up to which a layer has decayed
    event = 0
    while event < len(times):
        t = times[event]
        n = 0
        while event < len(times) and times[event] == t:
            fired[0][n] = places[event]
            traces[0][places[event]] += powers[steps - t]
            counts[0][places[event]] += 1
            n += 1
            event += 1
        for layer in range(layers):
            w, th, v, trigger, drive = (
                weights[layer], thresholds[layer], potentials[layer], triggers[layer], drives[layer]
            )  # fmt: skip
            drive[:] = 0
            for i in range(n):
                drive += w[fired[layer][i]]
            decay = powers[t - before[layer]]
            before[layer] = t
            n = 0
            for i in range(len(v)):
                gain = 1.0
                if t - trigger[i] < refractory:
                    gain = ((t - trigger[i]) / refractory) ** 2
                v[i] = max(decay * v[i] + gain * drive[i], -th[i])
                if v[i] >= th[i]:
                    fired[layer + 1][n] = i
                    n += 1
            if n == 0:
                break
            if kappa[layer] != 0:
                trigger[:] = t
            for k in range(n):
                i = fired[layer + 1][k]
                trigger[i] = t
                v[i] = min(v[i] - th[i], th[i])
                traces[layer + 1][i] += powers[steps - t]
                counts[layer + 1][i] += 1
            if kappa[layer] != 0:
                for i in range(len(v)):
                    v[i] += kappa[layer] * th[i] * n
                for k in range(n):  # not by its own spike
                    i = fired[layer + 1][k]
                    v[i] -= kappa[layer] * th[i]
                for i in range(len(v)):
                    v[i] = max(v[i], -th[i])
            if rho > 0:
                for k in range(n):
                    th[fired[layer + 1][k]] += rho * len(v)
                for i in range(len(v)):
                    th[i] -= rho * n
                    if th[i] < least:
                        w[:, i] += least - th[i]
                        th[i] = least

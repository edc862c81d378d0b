"""Neurons that pass on the spikes they get: what a classic residual block that begins as the identity stands on."""

from __future__ import annotations

import torch
from torch import nn

from rheobase.neurons import LIF


def margin(neuron: nn.Module, steps: int) -> float | None:
    """A constant current with which a neuron gives the spikes it gets, and gives them safely; None if it cannot.

    Spikes alone bring the potential just to the threshold, so that the least that comes with them from a branch, as it
    does after one step of training, drops half of them in every block. With the current b on top, a potential that
    spikes bring is b input_scale above the threshold or more, and without spikes it stays below half of it:
        b = threshold / (2 input_scale (1 + decay + ... + decay^(steps - 1))).

    Args:
        neuron: any; it takes LIF or IF with a soft or hard reset, numbers that are one for all, and a threshold that
            a spike reaches but that is not far below it (then a soft reset leaves more than it takes).
        steps: T.
    """
    if type(neuron) is not LIF and getattr(neuron, "kind", None) != "LIF":
        return None
    assert isinstance(neuron, LIF)
    numbers = [neuron.decay, neuron.threshold, neuron.input_scale]
    if not neuron.native or neuron.reset not in ("soft", "hard") or any(number.numel() > 1 for number in numbers):
        return None
    if any(number.is_meta for number in numbers):
        return 0.0  # (nothing has values there)
    decay, threshold, scale = (float(number.detach()) for number in numbers)
    found = threshold / (2 * scale * sum(decay**k for k in range(steps)))
    trains = torch.rand(steps, 512, generator=torch.Generator().manual_seed(0)) < torch.linspace(0, 1, 512)
    potential = torch.zeros(512)
    for spikes in trains.float():
        potential = decay * potential + scale * (spikes + found)
        fired = (potential >= threshold).float()
        if not torch.equal(fired, spikes):
            return None
        potential = potential - threshold * fired if neuron.reset == "soft" else potential * (1 - fired)
    return found

"""What is near to a potential over time: addition, subtraction and distance of waveforms that a neuron could have."""

from __future__ import annotations

import torch
from torch import Tensor

from rheobase.kernels.spec import Spec


def charged(spec: Spec, currents: Tensor, i: Tensor | None = None) -> Tensor:
    """What each step adds to the potential: input_scale times the current, of a CubaLIF the synaptic one, from i on."""
    if spec.how.kind == "CubaLIF":
        leak, found = spec.numbers["current_decay"].detach(), []
        i = torch.zeros_like(currents[0]) if i is None else i.to(currents.dtype)
        for current in currents:
            i = leak * i + current
            found.append(i)
        currents = torch.stack(found)
    return spec.numbers["input_scale"].detach() * currents


def left(spec: Spec, u: Tensor, spikes: Tensor) -> Tensor:
    """What the reset of a step leaves of the potential u."""
    if spec.how.reset == "soft":
        return u - spec.numbers["threshold"].detach() * spikes
    return u * (1 - spikes) if spec.how.reset == "hard" else u


def just_below(threshold: Tensor) -> Tensor:
    """The largest potential at which a neuron is silent."""
    return torch.nextafter(threshold, torch.zeros_like(threshold))


def added(spec: Spec, charge: Tensor, eps: Tensor, v: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """u + eps: what the neuron does when eps comes to its charge, each reset where it fires then.

    Args:
        spec: the neuron, with numbers that fit (`Spec.fitted`).
        charge: `[T, B, ...]`, as of `charged`.
        eps: `[T, B, ...]`.
        v: the potential that it starts from (None: rest).

    Returns:
        Its potentials before the reset, and its spikes, both `[T, B, ...]`.
    """
    potentials, spikes = [], []
    v = torch.zeros_like(charge[0]) if v is None else v
    for c, more in zip(charge, eps, strict=True):
        u = spec.numbers["decay"].detach() * v + c + more
        s = (u >= spec.numbers["threshold"].detach()).to(u.dtype)
        v = left(spec, u, s)
        potentials.append(u)
        spikes.append(s)
    return torch.stack(potentials), torch.stack(spikes)


def difference(spec: Spec, charge: Tensor, other: Tensor, v: Tensor | None = None) -> Tensor:
    """u' - u: what must come to the charge of each step to make the potentials `other`; the inverse of `added`."""
    before = torch.zeros_like(charge[0]) if v is None else v
    eps = []
    for c, u in zip(charge, other, strict=True):
        eps.append(u - (spec.numbers["decay"].detach() * before + c))
        before = left(spec, u, (u >= spec.numbers["threshold"].detach()).to(u.dtype))
    return torch.stack(eps)


def distance(spec: Spec, charge: Tensor, other: Tensor, v: Tensor | None = None) -> Tensor:
    """The L2 norm over time of that, `[B, ...]`: how far the potentials `other` are."""
    return difference(spec, charge, other, v).norm(dim=0)


def aggregated(eps: Tensor, change: Tensor) -> Tensor:
    """The gradient of the charge `[T, ...]` that has each neighbour's change of the loss, by least squares.

    Args:
        eps: `[M, T, ...]`, what leads to each of M neighbours (`difference`).
        change: `[M, ...]`, of the loss on the way there.

    With unit vectors o_m = eps_m / |eps_m| it is the pseudo-inverse of O times change / |eps|.
    """
    far = eps.norm(dim=1)
    directions = (eps / far.unsqueeze(1)).flatten(2).movedim(2, 0)  # [n, M, T]
    slopes = (change / far).flatten(1).movedim(1, 0).unsqueeze(2)
    return (torch.linalg.pinv(directions) @ slopes).squeeze(2).movedim(0, 1).reshape(eps.shape[1:])

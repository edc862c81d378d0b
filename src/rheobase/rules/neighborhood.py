"""Neighborhood aggregation (Yang, Zhang and Li 2021): finite differences between a neuron and its neighbours."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from rheobase import kernels
from rheobase.kernels import registry
from rheobase.kernels.spec import Spec, parted
from rheobase.rules.waveforms import charged, just_below, left

KINDS = ("LIF", "CubaLIF")
NUMBERS = ("decay", "threshold", "input_scale", "current_decay", "surrogate_width", "surrogate_height")
ELEMENTS = 1 << 15  # of a sequence looked at together, about: what stays in a cache


class Saved(NamedTuple):
    """What the backward pass needs: currents and spikes `[T, B, ...]`, the initial state, and an engine's kernel."""

    currents: Tensor
    spikes: Tensor
    state: Any
    by: Callable[..., Tensor] | None


@dataclass(frozen=True)
class Neighborhood:
    """What a neuron would do if its potential, at one step, just reached the threshold, or just missed it.

    Of each step t the neuron has one neighbour (the paper's simple neighborhood selection): it does at t what the
    neuron does not, with u'[t] = threshold, and then runs on with the same currents, resets of its own included. With
    the gradient g of spikes and the neighbour's spikes s', the gradient of the charge (input_scale times the current,
    of a CubaLIF the synaptic one) is

    delta[t] = sum over t' >= t of g[t'] (s'[t'] - s[t']) / (threshold - u[t]),

    and from there to the currents all is linear. Sums over T neighbours take about T^2 / 2 steps of the neuron, and
    memory for T. Where a spike is followed by a synaptic filter, g is what comes back through it, so that this is the
    difference of filtered spikes too. The surrogate is not asked. With a threshold - u near 0 comes a large factor.

    Args:
        power: of the distance |threshold - u|, by which is divided.
        clip: the largest factor that 1 / distance^power may be.
        twice: as the paper's published code has it, g meets the neighbour's spikes after the synaptic filter although
            it came through that filter itself; of a CubaLIF, by its own current_decay.

    It goes with LIF, IF and CubaLIF, whose memory of a spike is their potential, unless the reset is "delayed".

    Raises:
        ValueError: power or clip not positive, or not finite.
    """

    power: float = 1.0
    clip: float = 10.0
    twice: bool = False
    name: ClassVar[str] = "neighborhood"

    def __post_init__(self) -> None:
        for key in ("power", "clip"):
            if not 0 < getattr(self, key) < math.inf:
                raise ValueError(f"Neighborhood: {key} must be positive and finite, got {getattr(self, key)}")

    @classmethod
    def published(cls) -> Neighborhood:
        """As in the code of the paper's runs: cubic, and the synaptic filter twice."""
        return cls(power=3.0, clip=5.0, twice=True)

    def why_not(self, spec: Spec, currents: Tensor) -> str | None:
        """Why it does not go with such a neuron, or None."""
        if spec.how.kind not in KINDS:
            return f"it knows {', '.join(KINDS)}, whose memory of a spike is their potential, not {spec.how.kind}"
        if spec.how.reset == "delayed":
            return "a neighbour's potential must tell what it did (reset soft, hard or none), got reset='delayed'"
        if self.twice and spec.how.kind != "CubaLIF":
            return f"twice=True is for CubaLIF, which has a synaptic filter, not {spec.how.kind}"
        others = [name for name in spec.numbers if name not in NUMBERS]
        if others and not currents.is_meta and any(bool((spec.numbers[name] != 0).any()) for name in others):
            return f"it knows {spec.how.kind} without {others[0]}, which must be 0"
        return None

    def forward(self, spec: Spec, currents: Tensor, state: Any) -> tuple[Tensor, Any, Saved]:
        """The neuron's own spikes and state, by whichever engine."""
        ran, by = kernels.fire(spec, currents, state), registry.of_rule(self.name, spec.how, currents)
        return ran.outputs, ran.state, Saved(currents.detach(), ran.outputs.detach(), state, by)

    def backward(self, spec: Spec, grad_spikes: Tensor, saved: Saved) -> Tensor:
        """The gradient of the currents: by the engine, or in plain torch, a few samples at a time."""
        if saved.by is not None and float(self.power).is_integer():
            given = kernels.inputs_of(spec, saved.currents, saved.state)
            return saved.by(given, spec.how, grad_spikes, int(self.power), self.clip, self.twice)
        grad = torch.empty_like(grad_spikes)
        samples = grad.shape[1]
        few = max(1, ELEMENTS * samples // max(1, grad.numel()) if grad.device.type == "cpu" else samples)
        state = parted(spec.how.kind, saved.state)
        for first in range(0, samples, few):
            part = slice(first, first + few)
            v, i = (None if each is None else each[part] for each in state)
            grad[:, part] = self._some(spec, grad_spikes[:, part], saved.currents[:, part], saved.spikes[:, part], v, i)
        return grad

    def _some(
        self, spec: Spec, grad: Tensor, currents: Tensor, spikes: Tensor, v: Tensor | None, i: Tensor | None
    ) -> Tensor:
        wide = torch.promote_types(grad.dtype, torch.float32)
        grad, currents, spikes = grad.to(wide), currents.to(wide), spikes.to(wide)
        spec = spec.fitted(currents[0])
        decay, threshold = spec.numbers["decay"].detach(), spec.numbers["threshold"].detach().to(wide)
        leak = spec.numbers["current_decay"].detach() if spec.how.kind == "CubaLIF" else None
        charge = charged(spec, currents, i)
        v = torch.zeros_like(currents[0]) if v is None else v.to(wide)
        flip = 1 - 2 * spikes
        changes = flip.clone() if self.twice else None  # s' - s after the filter, of the neighbours, by their steps
        delta, potential = grad * flip, torch.empty_like(charge)
        # what a neighbour has left of the threshold that it reached, or just missed
        there = left(spec, threshold, torch.ones_like(v)), left(spec, just_below(threshold), torch.zeros_like(v))
        others = torch.where(spikes != 0, there[1], there[0])
        for t, (g, s) in enumerate(zip(grad, spikes, strict=True)):
            u = torch.add(decay * v, charge[t], out=potential[t])
            v = left(spec, u, s)
            if t:
                near = others[:t].mul_(decay).add_(charge[t])
                fired = (near >= threshold).to(wide)
                others[:t] = left(spec, near, fired)
                change = fired.sub_(s)
                if changes is not None:
                    assert leak is not None
                    change = changes[:t].mul_(leak).add_(change)
                delta[:t].addcmul_(g, change)
        delta *= flip * (threshold - potential).abs_().pow_(-self.power).clamp_(max=self.clip)
        delta *= spec.numbers["input_scale"].detach()
        if leak is not None:
            for t in range(len(delta) - 2, -1, -1):
                delta[t].addcmul_(leak, delta[t + 1])
        return delta


RULE = Neighborhood()
"""What `rule: neighborhood` stands for in recipes and in `rheobase.models.create`."""

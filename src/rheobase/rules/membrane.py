"""Membrane-potential backpropagation (Lee, Delbruck and Pfeiffer 2016): no surrogate of the spike's derivative."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from rheobase import kernels
from rheobase.kernels.spec import Spec, fitted
from rheobase.norm import lengths
from rheobase.padded import real_mask

KINDS = ("LIF", "LateralLIF")


class Saved(NamedTuple):
    """What the backward pass needs.

    fired: `[B, ...]`, which neurons fired in which sample. full: which did so in each of its steps.
    spikes: `[T, B, ...]`, where thresholds are learned.
    """

    fired: Tensor
    full: Tensor
    spikes: Tensor | None


@dataclass(frozen=True)
class Membrane:
    """The jump of the potential at a spike is noise, and what is left is linear.

    With the traces x of currents and a of spikes, both filtered by the neuron's own decay, a soft reset makes the
    potential V = input_scale x - threshold a (+ efficacy threshold inhibition (sum of the others' a) in a LateralLIF).
    V is small and counts as noise, so of neurons that fired at all
    a = input_scale x / threshold (+ efficacy inhibition (sum of the others' a)),
    and the filter, which is on both sides, falls away: this holds between spikes and currents of a step. Its Jacobian,
    of the active neurons of a sample, is the backward pass, in closed form; silent neurons have none. It takes no time
    step into account but its own, and the surrogate is not asked. A neuron that fires in each of several steps cannot
    fire more: a gradient that would have it do so is dropped, or its potential would run away.

    Args:
        efficacy: sigma, the share of lateral inhibition that counts (the rest meets the floor of the potential).
        normalise: the paper's error normalisation: in place of 1 / threshold its ratio to the root mean square over
            the active neurons of a sample, times sqrt(neurons / active ones).
        output: whether their spikes are the model's answer. All neurons count as active then, as a silent one could not
            begin to fire otherwise; but a gradient that would have a silent neuron fire less is dropped, as it cannot.

    It goes with LIF, IF and LateralLIF with a soft reset, and has a gradient of their threshold (`learn`).

    Raises:
        ValueError: efficacy outside [0, 1].
    """

    efficacy: float = 0.5
    normalise: bool = False
    output: bool = False
    name: ClassVar[str] = "membrane"
    learns: ClassVar[tuple[str, ...]] = ("threshold",)

    def __post_init__(self) -> None:
        if not 0 <= self.efficacy <= 1:
            raise ValueError(f"Membrane: efficacy must be in [0, 1], got {self.efficacy}")

    @property
    def at_output(self) -> Membrane:
        """The rule for neurons whose spikes are the model's answer."""
        return replace(self, output=True)

    def why_not(self, spec: Spec, currents: Tensor) -> str | None:
        """Why it does not go with such a neuron, or None."""
        if spec.how.kind not in KINDS:
            return f"it knows {', '.join(KINDS)}, whose spikes are all that their potential loses, not {spec.how.kind}"
        if spec.how.reset != "soft":
            return f"a spike must take one threshold from the potential (reset='soft'), got reset={spec.how.reset!r}"
        if spec.how.kind == "LateralLIF" and not currents.is_meta and self._coupling(spec) <= -1:
            return (
                "efficacy * inhibition must be above -1, where two neurons that inhibit each other have no one answer"
            )
        return None

    def forward(self, spec: Spec, currents: Tensor, state: Any) -> tuple[Tensor, Any, Saved]:
        """The neuron's own spikes and state, by whichever engine."""
        ran = kernels.fire(spec, currents, state)
        spikes, known = ran.outputs.detach(), lengths()  # (the outputs themselves will hold what holds this)
        most = least = spikes
        if known is not None and len(spikes) > 1:  # what fires in padding is not active
            real = real_mask(spikes, known, "Membrane")
            most, least = spikes.where(real, 0), spikes.where(real, 1)
        fired = most.amax(0) > 0
        full = least.amin(0) > 0
        learned = spec.numbers["threshold"].requires_grad
        return ran.outputs, ran.state, Saved(fired, full, spikes if learned else None)

    def backward(self, spec: Spec, grad_spikes: Tensor, saved: Saved) -> Tensor:
        """The gradient of the currents."""
        return self._charge(spec, grad_spikes, saved, "input_scale").to(grad_spikes.dtype)

    def numbers(self, spec: Spec, grad_spikes: Tensor, saved: Saved) -> dict[str, Tensor]:
        """The gradient of the threshold: of its charge, times what a larger one takes from it."""
        assert saved.spikes is not None
        spikes = saved.spikes.to(torch.promote_types(saved.spikes.dtype, torch.float32))
        taken = spikes
        if spec.how.kind == "LateralLIF":
            others = spikes.sum(2, keepdim=True) - spikes
            taken = spikes - self._coupling(spec).to(spikes.dtype) * others
        whole = (self._charge(spec, grad_spikes, saved) * taken).sum((0, 1)).neg()
        threshold = spec.numbers["threshold"]
        if not threshold.dim():
            whole = whole.sum()
        elif threshold.dim() < whole.dim():
            whole = whole.flatten(1).sum(1)
        return {"threshold": whole.to(threshold.dtype)}

    def _coupling(self, spec: Spec) -> Tensor:
        return self.efficacy * spec.numbers["inhibition"].detach()

    def _charge(self, spec: Spec, grad_spikes: Tensor, saved: Saved, number: str | None = None) -> Tensor:
        """The gradient of the charge that each neuron gets in each step: the transposed Jacobian; times a number."""
        active, grad = saved.fired, grad_spikes.to(torch.promote_types(grad_spikes.dtype, torch.float32))
        if self.output or len(grad) > 1:  # of a single step all that fires is full
            grad = grad.clamp(min=0).where(saved.full, grad)
        if self.output:
            grad = grad.clamp(max=0).where(~active, grad)
            active = torch.ones_like(active)
        gain = active / fitted("threshold", spec.numbers["threshold"].detach(), grad[0])
        if self.normalise:
            places = tuple(range(1, active.dim()))
            count = active.sum(places, keepdim=True).clamp(min=1).to(gain.dtype)
            mean = gain.square().sum(places, keepdim=True) / count
            gain = gain / mean.clamp(min=1e-30).sqrt() * (active[0].numel() / count).sqrt()
        if number is not None:
            gain = gain * fitted(number, spec.numbers[number].detach(), grad[0])
        if spec.how.kind == "LateralLIF":
            grad = uncoupled(grad * active, self._coupling(spec).to(grad.dtype), active)
        return grad * gain.to(grad.dtype)


def uncoupled(grad: Tensor, coupling: Tensor, active: Tensor) -> Tensor:
    """The gradient of b where a_i = b_i + coupling (sum of the other active a_j): the inverse matrix, in closed form.

    Args:
        grad: of a, `[T, B, C, ...]`, zero where a neuron is not active; C is the group.
        coupling: c <= 0, one number.
        active: `[B, C, ...]`.

    M = (1 + c) I - c 1 1' has the inverse (I + c / (1 - c (n - 1)) 1 1') / (1 + c) for n active neurons.
    """
    count = active.sum(1, keepdim=True)
    shared = coupling / (1 - coupling * (count - 1)) * grad.sum(2, keepdim=True)
    return (grad + shared) * active / (1 + coupling)


RULE = Membrane()
"""What `rule: membrane` stands for in recipes and in `rheobase.models.create`."""

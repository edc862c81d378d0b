"""Spike-train-level backpropagation (Zhang and Li 2019): the gradient of spike counts, a whole train at a time."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from rheobase import kernels
from rheobase.compat import batched
from rheobase.kernels import registry
from rheobase.kernels.spec import Ran, Spec, fitted
from rheobase.norm import lengths
from rheobase.padded import real_mask

KINDS = ("LIF", "CubaLIF")
COUPLINGS = ("exact", "first_order", "none")
TRUSTED = 0.7  # .76 was there where Fashion-MNIST ran away, .21 where it learned (docs/spike-train.md)


class Saved(NamedTuple):
    """What the backward pass needs.

    trains: `[T, B, ...]`, the spikes of real steps, and the regular trains that silent neurons count with.
    counts: how many they are. charge: the sum of the currents over real steps. full: which neurons fire at each of
    them, all three `[B, ...]`. steps: `[B]`, how many there are. by: a kernel.
    """

    trains: Tensor
    counts: Tensor
    charge: Tensor
    full: Tensor
    steps: Tensor
    by: Callable[..., Tensor] | None = None


class Parts(NamedTuple):
    """What the backward pass is made of.

    responses: `[T, B, ...]`, see `responses`. errors: delta = dE/da. own: the denominators s. full: which neurons fire
    at every step, all three `[B, ...]`.
    """

    responses: Tensor
    errors: Tensor
    own: Tensor
    full: Tensor

    def obeyed(self, errors: Tensor) -> Tensor:
        """What the neurons can obey: those that fire at every step cannot fire more."""
        return errors.masked_fill(self.full & (errors < 0), 0)


@dataclass(frozen=True)
class SpikeTrain:
    """The gradient of spike counts: a neuron fires as often as its inputs lift it to the threshold.

    Let a_i be the sum of the potentials of neuron i at its spikes. It is linear in the spikes of each neuron j before
    it, a_i = sum_j w_ij e_ij with the post-synaptic potentials e_ij of whole trains (S-PSP), and near o_i threshold for
    o_i spikes. With the derivatives of e by both counts, those of the counts by each other and by the weights follow:
        s_i da_i = sum_j (dw_ij e_ij + w_ij (e_ij / o_j) do_j),   s_i = 1 - (sum_j w_ij de_ij/do_i) / threshold.
    As da_i / dI_i[t] = b_i[t] (`responses`) needs nothing of the layer before, all of it is a neuron's backward:
        g_i = mean of dE/ds_i[t] over the spikes of i = dE/do_i,   dE/dI_i[t] = g_i / (threshold s_i) b_i[t].
    A neuron that does not fire in a sample passes nothing, and one that fires at every step nothing that asks for more:
    its current, and not its count, would grow without end. In a `Recurrent` the neurons' own spikes are among j, and
    the equation is solved for all neurons together, once a sample (`first_order`, `together`).

    Args:
        self_consistent: s_i as above, with de/do of trains that know nothing of each other (`growth`); else 1.
        floor: the least s_i, > 0.
        coupling: of neurons in a `Recurrent`: "first_order" in what they hear of each other; "exact", which has a
            meaning only while they do not excite each other without end; "none": each by itself.
        silent: a silent neuron counts with a regular train, as in the authors' code: a spike every floor(T / silent)
            steps (each step, where T < 2 silent); 0: with none.

    It goes with LIF, IF and CubaLIF with reset="hard", alone or in a `Recurrent` with a `torch.nn.Linear`.

    Raises:
        ValueError: floor, coupling or silent out of range.
    """

    self_consistent: bool = True
    floor: float = 0.1
    coupling: Literal["exact", "first_order", "none"] = "first_order"
    silent: int = 0
    name: ClassVar[str] = "spike_train"

    def __post_init__(self) -> None:
        if not self.floor > 0:
            raise ValueError(f"SpikeTrain: floor must be above 0, got {self.floor}")
        if self.coupling not in COUPLINGS:
            raise ValueError(f"SpikeTrain: coupling must be one of {', '.join(COUPLINGS)}, got {self.coupling!r}")
        if self.silent < 0 or int(self.silent) != self.silent:
            raise ValueError(f"SpikeTrain: silent must be a whole number from 0 on, got {self.silent}")

    @property
    def at_output(self) -> SpikeTrain:
        """The rule for neurons whose spikes are the model's answer: silent ones could not begin to fire otherwise."""
        return replace(self, silent=self.silent or 35)

    def why_not(self, spec: Spec, currents: Tensor) -> str | None:
        """Why it does not go with such a neuron, or None."""
        if spec.how.kind not in KINDS:
            return f"it knows {', '.join(KINDS)}, not {spec.how.kind}"
        if spec.how.reset != "hard":
            return f"a spike must take all of the potential (reset='hard'), got reset={spec.how.reset!r}"
        decay = spec.numbers.get("current_decay")
        if decay is not None and not decay.is_meta and bool((decay == 1).any()):
            return "current_decay must be below 1, else what an input spike brings in all is infinite"
        return None

    def forward(self, spec: Spec, currents: Tensor, state: Any) -> tuple[Tensor, Any, Saved]:
        """The neuron's own spikes and state, by whichever engine."""
        ran, by = kernels.fire(spec, currents, state), registry.of_rule(self.name, spec.how, currents)
        return ran.outputs, ran.state, self.saved(ran.outputs.detach(), currents)._replace(by=by)

    def backward(self, spec: Spec, grad_spikes: Tensor, saved: Saved) -> Tensor:
        """The gradient of the currents: by the engine, or in plain torch."""
        if saved.by is not None and not batched(grad_spikes):
            numbers = self._numbers(spec, saved)
            weight = 1 / (saved.counts.clamp(min=1) * numbers["threshold"] * self._own(numbers, saved))
            weight = torch.where(saved.full, -weight, weight)  # negative: it takes what asks for less alone
            return saved.by(kernels.inputs_of(spec, saved.trains, None), spec.how, weight, grad_spikes)
        parts = self.parts(spec, grad_spikes, saved)
        return (parts.responses * (parts.errors / parts.own)).to(grad_spikes.dtype)

    def recurrent(self, weight: Tensor, ran: Ran) -> _Recurrent:
        """The rule for one call of neurons that hear each other's spikes of the step before through this weight."""
        return _Recurrent(self, weight, ran)

    def saved(self, spikes: Tensor, currents: Tensor) -> Saved:
        """What `backward` needs of these spikes and currents `[T, B, ...]`."""
        total, batch = spikes.shape[:2]
        known = lengths() if total > 1 else None
        steps = torch.full((batch,), total, device=spikes.device) if known is None else known.to(spikes.device).long()
        if known is not None:
            real = real_mask(spikes, known, "SpikeTrain")
            spikes, currents = spikes * real, currents * real
        charge = currents.sum(0, dtype=torch.promote_types(currents.dtype, torch.float32))
        counts = spikes.sum(0, dtype=charge.dtype)
        full = counts >= _beside(steps, counts)
        if self.silent:
            regular = _regular(self.silent, total, steps).view(total, batch, *[1] * (spikes.dim() - 2))
            spikes = torch.where(counts != 0, spikes, regular.to(spikes.dtype))
            counts = torch.where(counts != 0, counts, regular.sum(0).to(counts.dtype))
        return Saved(spikes, counts, charge, full, steps)

    def parts(self, spec: Spec, grad_spikes: Tensor, saved: Saved) -> Parts:
        """What the backward pass is made of."""
        numbers, trains = self._numbers(spec, saved), saved.trains.to(saved.charge.dtype)
        errors = (trains * grad_spikes).sum(0) / (saved.counts.clamp(min=1) * numbers["threshold"])
        made, own = self._responses(spec, numbers, trains, saved), self._own(numbers, saved)
        found = Parts(made, errors, own, saved.full)
        return found._replace(errors=found.obeyed(errors))

    @staticmethod
    def _numbers(spec: Spec, saved: Saved) -> dict[str, Tensor]:
        like = saved.charge
        found = {name: fitted(name, number.detach(), like) for name, number in spec.numbers.items()}
        return {"current_decay": like.new_zeros(()), **found}

    def _own(self, numbers: dict[str, Tensor], saved: Saved) -> Tensor:
        """The denominators s."""
        if not self.self_consistent:
            return torch.ones_like(saved.counts)
        steps = _beside(saved.steps, saved.counts)
        grown = growth(saved.counts, steps, numbers["decay"], numbers["current_decay"], numbers["input_scale"])
        return (1 - grown * saved.charge / numbers["threshold"]).clamp(min=self.floor)

    @staticmethod
    def _responses(spec: Spec, numbers: dict[str, Tensor], trains: Tensor, saved: Saved) -> Tensor:
        if saved.by is not None:
            return saved.by(kernels.inputs_of(spec, trains, None), spec.how, torch.ones_like(trains[0]))
        return responses(trains, numbers["decay"], numbers["current_decay"], numbers["input_scale"])


@dataclass(frozen=True)
class _Recurrent:
    """`SpikeTrain` for one call of neurons that have run, and hear each other through `weight` `[N, N]`."""

    rule: SpikeTrain
    weight: Tensor
    ran: Ran
    name: ClassVar[str] = SpikeTrain.name

    def why_not(self, spec: Spec, currents: Tensor) -> str | None:
        """As `SpikeTrain`."""
        return self.rule.why_not(spec, currents)

    def forward(self, spec: Spec, currents: Tensor, state: Any) -> tuple[Tensor, Any, Saved]:
        """What the neurons have done."""
        # detached: the outputs themselves will hold what holds this, a circle that nothing could free
        outputs, state = self.ran.outputs.detach(), self.ran.state
        state = tuple(each.detach() for each in state) if isinstance(state, tuple) else state.detach()
        saved = self.rule.saved(outputs, currents)
        return outputs, state, saved._replace(by=registry.of_rule(self.name, spec.how, currents))

    def backward(self, spec: Spec, grad_spikes: Tensor, saved: Saved) -> Tensor:
        """The gradient of the currents."""
        parts = self.rule.parts(spec, grad_spikes, saved)
        errors = parts.errors / parts.own
        if self.rule.coupling != "none":
            theta = theta_of(spec, self.weight, parts, saved)
            errors = together(parts, theta) if self.rule.coupling == "exact" else first_order(parts, theta)
            errors = parts.obeyed(errors)
        return (parts.responses * errors).to(grad_spikes.dtype)


def _beside(steps: Tensor, counts: Tensor) -> Tensor:
    """The real steps of each sample, in the shape of counts `[B, ...]`."""
    return steps.view(-1, *[1] * (counts.dim() - 1))


def responses(trains: Tensor, decay: Tensor, current_decay: Tensor, scale: Tensor) -> Tensor:
    """b[t] = d(sum of the potentials at the spikes) / dI[t], at these spikes `[T, B, ...]`; in the same shape.

    The potential is u[t] = decay u[t-1] (1 - s[t-1]) + scale i[t], of the current i[t] = current_decay i[t-1] + I[t];
    backwards in time, b[t] = scale p[t] + current_decay b[t+1] with p[t] = s[t] + (1 - s[t]) decay p[t+1].
    """
    found = torch.empty_like(trains)
    p, b = torch.zeros_like(trains[0]), torch.zeros_like(trains[0])
    one = p.new_ones(())
    for t in range(len(trains) - 1, -1, -1):
        p = torch.lerp(decay * p, one, trains[t])
        b = torch.addcmul(current_decay * b, p, scale.expand_as(p), out=found[t])
    return found


def growth(counts: Tensor, steps: Tensor, decay: Tensor, current_decay: Tensor, scale: Tensor) -> Tensor:
    """d f / d n of f(n), the S-PSP of one input spike at any of T steps, with n spikes at random; elementwise.

    A spike brings scale / (1 - current_decay) in all. Of a constant current 1 the potential is (1 - decay^D) / (1 -
    decay) after D steps, and steps between two of n spikes at random are geometric with p = (n + 1) / T, which leaves
        f(n) = scale / (1 - current_decay) n / ((1 - decay) T + decay (n + 1)).
    """
    rest = (1 - decay) * steps + decay
    return scale / (1 - current_decay) * rest / (rest + decay * counts).square()


def theta_of(spec: Spec, weight: Tensor, parts: Parts, saved: Saved) -> Tensor:
    """Theta `[B, N, N]` of neurons that hear each other through `weight` `[N, N]`."""
    threshold = fitted("threshold", spec.numbers["threshold"].detach(), saved.charge).expand_as(saved.charge)
    ratios = psp_ratios(parts.responses, saved.trains.to(saved.charge.dtype))
    return weight.to(ratios.dtype) * ratios / threshold.unsqueeze(-2)


def psp_ratios(responses: Tensor, trains: Tensor, delay: int = 1) -> Tensor:
    """e_lp / o_p of neurons l that hear the spikes `[T, B, N]` of `delay` steps ago, `[B, L, N]`; 0 of a silent p."""
    heard = trains[: len(trains) - delay].permute(1, 0, 2)
    psps = torch.bmm(responses[delay:].permute(1, 2, 0), heard)
    return psps / trains.sum(0).clamp(min=1).unsqueeze(-2)


def together(parts: Parts, theta: Tensor) -> Tensor:
    """dE/da of neurons that hear each other: z of (diag(s) - theta)^T z = delta, `[B, N]`.

    The equation has a solution beyond the point where the neurons excite each other without end, but it is no
    derivative of anything: where the determinant is not positive, a RuntimeWarning says so.

    Args:
        parts: delta and s.
        theta: `[B, N, N]`, of neuron l by what neuron p, which it hears, has for a.
    """
    factors, pivots, _ = torch.linalg.lu_factor_ex(torch.diag_embed(parts.own) - theta)
    swaps = (pivots != torch.arange(1, pivots.shape[-1] + 1, device=pivots.device)).sum(-1)
    sign = factors.diagonal(dim1=-2, dim2=-1).sign().prod(-1) * (1 - 2 * (swaps % 2))
    if bool((sign <= 0).any()):
        warnings.warn(
            "the rule 'spike_train': the neurons of a Recurrent excite each other so strongly, in some sample, that "
            "their counts have no derivative: coupling='first_order' goes on there, or make the weights between them "
            "smaller",
            RuntimeWarning,
            stacklevel=2,
        )
    return torch.linalg.lu_solve(factors, pivots, parts.errors.unsqueeze(-1), adjoint=True).squeeze(-1)


def first_order(parts: Parts, theta: Tensor) -> Tensor:
    """As `together`, to the first order in theta: z = (delta + theta^T (delta / s)) / s.

    Where what comes by the other neurons is more than TRUSTED of what comes without them, a RuntimeWarning says so: the
    orders that are left out are no smaller then.
    """
    alone = parts.errors / parts.own
    others = (theta.mT @ alone.unsqueeze(-1)).squeeze(-1) / parts.own
    if bool(others.norm() > TRUSTED * alone.norm()):
        warnings.warn(
            "the rule 'spike_train': the neurons of a Recurrent excite each other so strongly that the gradient to "
            "first order says little, and training may run away: make the weights between them fewer (layers such as "
            "R5x5x16) or smaller, or the learning rate",
            RuntimeWarning,
            stacklevel=2,
        )
    return alone + others


def _regular(count: int, total: int, steps: Tensor) -> Tensor:
    """Trains `[T, B]` with a spike every floor(steps / count) steps, at least one, of the real steps of a sample."""
    period = (steps // count).clamp(min=1)
    at = torch.arange(1, total + 1, device=steps.device).unsqueeze(1)
    return (at % period == 0) & (at <= steps)


RULE = SpikeTrain()
"""What `rule: spike_train` stands for in recipes and in `rheobase.models.create`."""

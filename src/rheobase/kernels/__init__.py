"""The hot loops: one definition (`reference.py`), the engines for it, and the choice between them."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rheobase.kernels import ops, processes, reference, registry
from rheobase.kernels.packing import keeping
from rheobase.kernels.recurrent import Recurrent
from rheobase.kernels.registry import Engine, Running, engine, settings
from rheobase.kernels.rules import Rule, by_rule
from rheobase.kernels.spec import HALF, How, Ran, Spec, check_shape, joined, parted

__all__ = [
    "Engine",
    "Norm",
    "Rule",
    "Running",
    "Spec",
    "back",
    "can_fuse",
    "engine",
    "fire",
    "follow",
    "inputs_of",
    "keeping",
    "moments",
    "recur",
]


class Norm(NamedTuple):
    """The norm in front of a neuron: weight (x - mean) / sqrt(var + eps) + bias, a channel at a time.

    With samples, mean and m2 are as `moments` gives them, and gradients go through them; with samples = 0, m2 is
    var, and both are constants. None of them: `fire` takes those of the currents, and the running ones follow. Of
    several processes, samples are this one's, m2 is what comes to them, and `share` is the part of all samples that
    they are.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor | None
    m2: Tensor | None
    eps: float
    samples: int
    share: Tensor | None = None
    running: Running | None = None


def can_fuse(spec: Spec, currents: Tensor, residual: Tensor | None, skip: Tensor | None) -> Engine | None:
    """The engine by which `fire` may be called with a norm, this residual and this skip; None if there is none."""
    if not settings().fused or currents.dim() < 3:
        return None
    for other in (residual, skip):
        if other is not None and (other.shape != currents.shape or other.dtype != currents.dtype):
            return None
    return registry.choose(spec.how, currents)


def moments(currents: Tensor, by: Engine, running: Running | None = None) -> tuple[int, Tensor, Tensor]:
    """Of the values of each channel: how many, their mean, and the sum of their squared deviations (float64).

    Running statistics, where given, move towards them. (Those of several processes are joined first.)
    """
    count = currents.numel() // currents.shape[2]
    mean, m2 = ops.moments(currents, by.name)
    if running is not None:
        follow(running, mean, m2 / max(1, count - 1))
    return count, mean, m2


def _float32(mean: Tensor, var: Tensor, _: float) -> bool:
    return mean.dtype is var.dtype is torch.float32 and mean.is_contiguous() and var.is_contiguous()


def follow(running: Running, mean: Tensor, var: Tensor) -> None:
    """Move running statistics towards a mean and an unbiased variance."""
    running_mean, running_var, momentum = running
    running_mean.lerp_(mean.to(running_mean.dtype), momentum)
    running_var.lerp_(var.to(running_var.dtype), momentum)


def fire(
    spec: Spec,
    currents: Tensor,
    state: Any,
    *,
    rule: Rule | None = None,
    by: Engine | None = None,
    norm: Norm | None = None,
    residual: Tensor | None = None,
    skip: Tensor | None = None,
    keep_state: bool = True,
    keep_drive: bool = False,
) -> Ran:
    """Spikes of neurons over a sequence of currents `[T, B, ...]`, from a state (None: rest).

    With a norm (only with an engine of `can_fuse`) the currents go through it first, then a residual is added: that
    drives the neuron; and a skip is added to its spikes. A rule takes the place of the gradient.
    """
    if rule is not None:
        by = by_rule(rule, spec, currents)
    elif by is None:
        by = registry.choose(spec.how, currents)
    if by is None:
        return _by_definition(spec, currents, state)
    affine: Any
    how, affine, running = spec.how, (None, None, None, None), None
    if norm is not None:
        *affine, eps, samples, share, running = norm
        how = How(*how[:4], eps, samples)
        if share is not None:
            by = processes.together(by, share)
    keep_drive = keep_drive and (norm is not None or residual is not None)  # else it is the currents
    inputs = inputs_of(spec, currents, state, residual, skip, affine)
    compiling = torch.compiler.is_compiling()
    plain = not compiling and ops.plain(inputs if running is None else (*inputs, *running[:2]))
    if running is not None and not (plain and _float32(*running)):
        _, mean, m2 = moments(currents, by, running)
        inputs, running = inputs._replace(mean=mean, m2=m2), None
    if compiling and by.operators:
        found = ops.fire(*inputs, *how, keep_state, keep_drive, by.name)
    else:
        call = (by, how, keep_state, keep_drive, plain or not by.operators, running)
        found = (ops.fire_plain if plain else ops.Fire.apply)(call, *inputs)
    spikes, drive, v, other = found
    return Ran(spikes, currents if drive is None else drive, joined(how.kind, v, other) if keep_state else None)


def back(spec: Spec, currents: Tensor, grad_spikes: Tensor) -> Tensor:
    """The gradient of currents, from that of spikes, of neurons that began at rest: the way down of `fire` alone."""
    by = registry.choose(spec.how, currents)
    if by is None or not by.operators:
        with torch.enable_grad():
            currents = currents.detach().requires_grad_()
            return torch.autograd.grad(fire(spec, currents, None, by=by).outputs, currents, grad_spikes)[0]
    grads = (grad_spikes, None, None, None)
    learned = (False,) * len(ops.LEARNABLE)
    found: Tensor = ops.fire_backward(*inputs_of(spec, currents, None), *spec.how, *grads, None, learned, by.name)[0]
    return found


def recur(spec: Spec, currents: Tensor, state: Any, before: Tensor, weight: Tensor, bias: Tensor | None) -> Ran | None:
    """Spikes of neurons that hear those of the step before through a linear layer; None where no engine can.

    Args:
        spec: the neurons.
        currents: `[T, B, N]`.
        state: theirs (None: rest).
        before: the spikes before the first step, `[B, N]`.
        weight, bias: of the layer.
    """
    by = registry.choose(spec.how, currents)
    plain = ops.plain((currents, before, weight, bias)) and currents.dtype is weight.dtype is before.dtype
    if by is None or by.recur is None or not plain or torch.compiler.is_compiling():
        return None
    inputs = inputs_of(spec, currents, state)
    ops.check(inputs)
    spikes, *states = Recurrent.apply(by, spec.how, before, weight, bias, *inputs)
    return Ran(spikes, currents, joined(spec.how.kind, *states))


def inputs_of(
    spec: Spec,
    currents: Tensor,
    state: Any,
    residual: Tensor | None = None,
    skip: Tensor | None = None,
    affine: Any = (None, None, None, None),
) -> ops.Inputs:
    """What the operators take."""
    kind, numbers = spec.how.kind, spec.numbers
    v, other = parted(kind, state)
    for name, number in numbers.items():
        if number.dim():
            check_shape(name, number, currents.shape[2:])
    leak = numbers.get("current_decay" if kind == "CubaLIF" else "adaptation_decay")
    return ops.Inputs(
        currents, residual, skip, v, other,
        numbers["decay"], numbers["threshold"], numbers["input_scale"], leak, numbers.get("adaptation"),
        numbers["surrogate_width"], numbers["surrogate_height"], *affine,
    )  # fmt: skip


def _by_definition(spec: Spec, currents: Tensor, state: Any) -> Ran:
    x = currents.float() if currents.dtype in HALF else currents  # states are float32 in every engine
    if state is None:
        rest = torch.zeros_like(x[0])
        state = rest if spec.how.kind == "LIF" else (rest, rest)
    (spikes, _), final = reference.unroll(stepper(spec, x[0]), x, state)
    return Ran(spikes.to(currents.dtype), currents, final)


def stepper(spec: Spec, current: Tensor) -> Any:
    """A step of the definition for currents like this one: (current, state) -> (spikes, state, potential)."""
    spec, step = spec.fitted(current), reference.STEPS[spec.how.kind]

    def one(current: Tensor, state: Any) -> tuple[Tensor, Any, Tensor]:
        return step(spec, current, state)

    return one


registry.load()

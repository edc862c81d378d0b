"""Does a gradient rule lead downhill? Its gradient beside the one that the spiking loss has when noise smooths it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rheobase.chance import forked
from rheobase.kernels import Rule
from rheobase.kernels.rules import placed
from rheobase.modes import in_mode
from rheobase.neurons import LIF, Integrator, Recurrent
from rheobase.neurons.base import outermost


class Direction(NamedTuple):
    """Cosines between a rule's gradient and the finite differences: of all that was compared, and of each parameter.

    NaN where one of the two is zero. `norm` is the length of the rule's gradient over that of the differences.
    `ceiling` and `ceilings` are the cosines to expect of the true gradient, as the differences have an error.
    """

    cosine: float
    norm: float
    parameters: dict[str, float]
    ceiling: float
    ceilings: dict[str, float]


def directions(
    model: nn.Module,
    inputs: Tensor,
    labels: Tensor,
    rules: Mapping[str, Rule | None],
    *,
    loss: Callable[[Tensor, Tensor], Tensor],
    noise: float,
    draws: int = 100,
    step: float = 0.02,
    elements: int | None = None,
    seed: int = 0,
) -> dict[str, Direction]:
    """Cosine of each rule's gradient to central differences of the spiking loss, smoothed over input noise.

    The loss of a spiking net is a staircase in its weights; its mean over noise on the inputs is smooth, and what
    finite differences find of that asks no rule. All is measured with the same draws (also those that the model makes
    itself). The differences have an error of their own, which falls with `draws`: from the cosine c between those of
    either half of the draws follows sqrt(2 c / (1 + c)), what the true gradient would have with the mean of both.

    Args:
        model: it stays as it is, rules included; its neurons must take every rule.
        inputs, labels: a batch; inputs `[T, B, ...]`, or images `[B, C, H, W]`.
        rules: by any name; None is the surrogate, through time. Neurons of a model's head get what a rule has for them.
        loss: (logits, labels) -> a scalar, a mean over the batch.
        noise: standard deviation of what is added to the inputs.
        draws: of noise, for each sample; an even number.
        step: of each difference, as a share of the root mean square of its parameter.
        elements: compare at most so many of each parameter, chosen by the seed; None: all.
        seed: of noise and choice.

    Raises:
        ValueError: draws, step or noise out of range; or a rule that a neuron does not take.
    """
    if draws < 2 or draws % 2 or not 0 < step < math.inf or not 0 <= noise < math.inf:
        raise ValueError(
            "directions: draws must be even and at least 2, step above 0 and noise at least 0, got "
            f"{draws}, {step} and {noise}"
        )
    generator = torch.Generator().manual_seed(seed)
    batch = 0 if inputs.dim() == 4 else 1
    many = inputs.repeat_interleave(draws, batch)
    many = many + noise * torch.randn(many.shape, generator=generator, dtype=many.dtype).to(many.device)
    repeated = labels.repeat_interleave(draws, 0)
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    chosen = {
        name: torch.randperm(p.numel(), generator=generator)[: elements or p.numel()] for name, p in named.items()
    }

    def halves() -> Tensor:
        with forked(seed):
            logits = model(many)
        return torch.stack([loss(logits[:, half::2], repeated[half::2]) for half in (0, 1)])

    within = {path: n.neuron if isinstance(n, Recurrent) else n for path, n in outermost(model).items()}
    strange = [f"{type(n).__name__} {path}" for path, n in within.items() if not isinstance(n, LIF | Integrator)]
    if strange and any(rule is not None for rule in rules.values()):
        raise ValueError(f"directions: a rule knows LIF and what is derived from it, not the {strange[0]}")
    found, neurons = {}, {path: n for path, n in within.items() if isinstance(n, LIF)}
    before = [neuron.rule for neuron in neurons.values()]
    with in_mode(model, training=False):
        wanted = {
            name: finite_differences(halves, p, chosen[name], step * float(p.detach().square().mean().sqrt()) or step)
            for name, p in named.items()
        }
        try:
            for name, rule in rules.items():
                for path, neuron in neurons.items():
                    neuron.rule = placed(rule, path)
                gradients = torch.autograd.grad(halves().mean(), list(named.values()), allow_unused=True)
                got = {
                    key: torch.zeros(len(chosen[key])) if g is None else g.detach().flatten()[chosen[key]]
                    for key, g in zip(named, gradients, strict=True)
                }
                found[name] = _compared(got, wanted)
        finally:
            for neuron, rule in zip(neurons.values(), before, strict=True):
                neuron.rule = rule
    return found


@torch.no_grad()
def finite_differences(value: Callable[[], Tensor], parameter: Tensor, places: Tensor, step: float) -> Tensor:
    """(value(p + step) - value(p - step)) / (2 step) at each of these places of a flat parameter, float64.

    `[places, ...]` for a value of any shape.
    """
    found = []
    for place in zip(*torch.unravel_index(places, parameter.shape), strict=True) if parameter.dim() else [()]:
        kept, ends = parameter[place].clone(), []
        try:
            for sign in (1, -1):
                parameter[place] = kept + sign * step
                ends.append(value().double())
        finally:
            parameter[place] = kept
        found.append((ends[0] - ends[1]) / (2 * step))
    return torch.stack(found).cpu()


def _compared(got: Mapping[str, Tensor], halves: Mapping[str, Tensor]) -> Direction:
    wanted = {name: half.mean(1) for name, half in halves.items()}
    every = _whole(got.values()), _whole(wanted.values())
    return Direction(
        cosine(*every),
        float(every[0].norm() / every[1].norm()),
        {name: cosine(got[name], wanted[name]) for name in wanted},
        _ceiling(_whole(halves.values())),
        {name: _ceiling(half) for name, half in halves.items()},
    )


def _whole(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.double().cpu() for tensor in tensors])


def _ceiling(halves: Tensor) -> float:
    """Of the mean of two vectors `[N, 2]`, a truth and errors of their own, the cosine to expect with the truth."""
    c = cosine(*halves.unbind(1))
    return c if math.isnan(c) else math.sqrt(2 * max(c, 0) / (1 + max(c, 0)))


def cosine(a: Tensor, b: Tensor) -> float:
    """Of the angle between two vectors; NaN where one is zero."""
    a, b = a.double().cpu(), b.double().cpu()
    return float(a @ b / (a.norm() * b.norm()))

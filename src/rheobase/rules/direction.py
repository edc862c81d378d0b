"""Does a gradient rule lead downhill? Its gradient beside the one that the spiking loss has when noise smooths it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rheobase.chance import forked
from rheobase.kernels import Rule
from rheobase.kernels.rules import placed
from rheobase.modes import in_mode
from rheobase.neurons import LIF
from rheobase.neurons.base import outermost


class Direction(NamedTuple):
    """Cosines between a rule's gradient and the finite differences: of all that was compared, and of each parameter.

    NaN where one of the two is zero. `norm` is the length of the rule's gradient over that of the differences.
    """

    cosine: float
    norm: float
    parameters: dict[str, float]


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
    itself). The differences have an error of their own, which falls with `draws`: look at it with another seed.

    Args:
        model: it stays as it is, rules included; its neurons must take every rule.
        inputs, labels: a batch; inputs `[T, B, ...]`, or images `[B, C, H, W]`.
        rules: by any name; None is the surrogate, through time. Neurons of a model's head get what a rule has for them.
        loss: (logits, labels) -> a scalar, a mean over the batch.
        noise: standard deviation of what is added to the inputs.
        draws: of noise, for each sample.
        step: of each difference, as a share of the root mean square of its parameter.
        elements: compare at most so many of each parameter, chosen by the seed; None: all.
        seed: of noise and choice.

    Raises:
        ValueError: draws, step or noise out of range; or a rule that a neuron does not take.
    """
    if draws < 1 or step <= 0 or noise < 0:
        raise ValueError(
            f"directions: draws must be at least 1, step above 0 and noise at least 0, got {draws}, {step} and {noise}"
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

    def value() -> Tensor:
        with forked(seed):
            return loss(model(many), repeated)

    found, neurons = {}, {path: n for path, n in outermost(model).items() if isinstance(n, LIF)}
    before = [neuron.rule for neuron in neurons.values()]
    with in_mode(model, training=False):
        wanted = {
            name: finite_differences(value, p, chosen[name], step * float(p.detach().square().mean().sqrt()) or step)
            for name, p in named.items()
        }
        try:
            for name, rule in rules.items():
                for path, neuron in neurons.items():
                    neuron.rule = placed(rule, path)
                gradients = torch.autograd.grad(value(), list(named.values()), allow_unused=True)
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
    """(value(p + step) - value(p - step)) / (2 step) at each of these places of a flat parameter, float64."""
    flat = parameter.view(-1)
    found = []
    for place in places.tolist():
        kept = flat[place].clone()
        ends = []
        for sign in (1, -1):
            flat[place] = kept + sign * step
            ends.append(value().double())
        flat[place] = kept
        found.append((ends[0] - ends[1]) / (2 * step))
    return torch.stack(found).cpu()


def _compared(got: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Direction:
    every = _whole(got.values()), _whole(wanted.values())
    norm = float(every[0].norm() / every[1].norm())
    return Direction(cosine(*every), norm, {name: cosine(got[name], wanted[name]) for name in wanted})


def _whole(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([tensor.double().cpu() for tensor in tensors])


def cosine(a: Tensor, b: Tensor) -> float:
    """Of the angle between two vectors; NaN where one is zero."""
    a, b = a.double().cpu(), b.double().cpu()
    return float(a @ b / (a.norm() * b.norm()))

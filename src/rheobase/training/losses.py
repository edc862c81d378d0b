"""What training minimises, from logits `[T, B, classes]` and labels `[B]`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from rheobase.layers import readout
from rheobase.neurons import Integrator
from rheobase.padded import real_steps
from rheobase.training.optimization import decayed
from rheobase.training.recipe import LossOptions


def scores(logits: Tensor, options: LossOptions, lengths: Tensor | None = None) -> Tensor:
    """What decides for a class, `[B, classes]`: the mean over time, or of `membrane` the potential."""
    logits = logits.float()
    if options.name != "membrane":
        return readout(logits, lengths)
    potentials = Integrator(options.membrane_decay).to(logits.device)(logits)
    if lengths is None or len(logits) == 1:  # (an ANN twin's)
        return potentials[-1] if options.membrane_at == "last" else potentials.amax(0)
    if options.membrane_at == "last":
        return potentials[lengths - 1, torch.arange(len(lengths), device=logits.device)]
    real = real_steps(lengths, len(logits), len(lengths), "membrane")
    return potentials.where(real.unsqueeze(-1), -torch.inf).amax(0)


def loss(logits: Tensor, labels: Tensor, options: LossOptions, lengths: Tensor | None = None) -> Tensor:
    """Mean loss of a batch, a scalar; `LossOptions` has the formulas.

    Args:
        logits: `[T, B, classes]`.
        labels: `[B]`, or shares of classes `[B, classes]`.
        options: what to minimise.
        lengths: `[B]`, each sample's real steps; those after them do not count.
    """
    logits, classes = logits.float(), logits.shape[-1]
    if options.name in ("cross_entropy", "membrane"):
        return F.cross_entropy(scores(logits, options, lengths), labels, label_smoothing=options.label_smoothing)
    if options.name == "count":
        wanted = labels if labels.dim() == 2 else F.one_hot(labels, classes).float()
        wanted = wanted.lerp(logits.new_tensor(1 / classes), options.label_smoothing)
        wanted = options.count_low + (options.count_high - options.count_low) * wanted
        error = readout(logits, lengths) - wanted
        return error.where(error.abs() > options.count_margin, 0 * error).square().mean()
    repeated = labels.repeat(len(logits), *[1] * (labels.dim() - 1))
    entropy = F.cross_entropy(
        logits.flatten(0, 1), repeated, label_smoothing=options.label_smoothing, reduction="none"
    ).unflatten(0, logits.shape[:2])
    pull = (logits - options.tet_target).square().mean(-1)
    steps = (1 - options.tet_lambda) * entropy + options.tet_lambda * pull  # [T, B]
    return steps.mean() if lengths is None else readout(steps.unsqueeze(-1), lengths).mean()


def rate_penalty(spikes: Iterable[Tensor], options: LossOptions) -> Tensor:
    """Weight times the mean over layers of (mean rate - target)^2, a scalar, from the spikes of each layer."""
    rates = torch.stack([layer.float().mean() for layer in spikes])
    return options.rate_penalty * (rates - options.rate_target).square().mean()


_STEEPEST = 10.0  # e^10: from there on the exponential goes on as its tangent


def hidden(net: nn.Module, run: Callable[[], Any]) -> list[int]:
    """Which of `net.parameters()` are weights of hidden layers: all layers' but those of the last to run in a pass."""
    last: list[Tensor] = []
    weights = decayed(net)

    class Noting(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            last.extend(leaf for leaf in tree_leaves((args, kwargs)) if any(leaf is weight for weight in weights))
            return function(*args, **(kwargs or {}))

    with Noting():
        run()
    output = (last or weights)[-1:]
    return [
        place
        for place, parameter in enumerate(net.parameters())
        if any(parameter is weight for weight in weights) and not any(parameter is weight for weight in output)
    ]


def weight_penalty(weights: Sequence[Tensor], options: LossOptions) -> Tensor:
    """lambda / 2 times the sum over hidden neurons of exp(beta (sum of squared weights - 1)), a scalar.

    A channel of a convolution counts as one neuron. Where the exponent is above 10 the tangent there takes the place
    of the exponential, which in float32 is infinite soon after: the penalty stays finite, and its gradient still leads
    back.

    Args:
        weights: of hidden layers (`hidden`), `[neurons, ...]` each.
        options: lambda and beta.

    Source: Lee, Delbruck and Pfeiffer 2016.
    """
    x = torch.cat([options.weight_penalty_beta * (w.flatten(1).square().sum(1) - 1) for w in weights])
    steady = x.clamp(max=_STEEPEST).exp()
    return options.weight_penalty / 2 * (steady * (1 + (x - _STEEPEST).clamp(min=0))).sum()


def correct(logits: Tensor, labels: Tensor, options: LossOptions, lengths: Tensor | None = None) -> Tensor:
    """Which of a batch the largest score gets right, bool `[B]`; of mixed labels the largest counts."""
    labels = labels.argmax(1) if labels.dim() == 2 else labels
    return scores(logits, options, lengths).argmax(1) == labels

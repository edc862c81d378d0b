"""How weights move: the optimizer, its learning rate, and the average of where they were."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from rheobase.neurons import Neuron
from rheobase.training.recipe import OptimizerOptions, Recipe


def decayed(net: nn.Module) -> list[nn.Parameter]:
    """Weights of layers: what is trained of two axes or more, and is no neuron's."""
    neurons = {p for m in net.modules() if isinstance(m, Neuron) for p in m.parameters(recurse=False)}
    return [p for p in net.parameters() if p.requires_grad and p.dim() > 1 and p not in neurons]


def groups(net: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two parameter groups: weights of layers (two axes or more), and norms, biases and neurons, without decay."""
    weights = decayed(net)
    apart = set(weights)
    others = [p for p in net.parameters() if p.requires_grad and p not in apart]
    return [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def optimizer(net: nn.Module, options: OptimizerOptions) -> torch.optim.Optimizer:
    """The optimizer over all trainable parameters of a net."""
    parts = groups(net, options.weight_decay)
    if options.name == "sgd":
        return torch.optim.SGD(parts, lr=options.lr, momentum=options.momentum, nesterov=options.momentum > 0)
    return torch.optim.AdamW(parts, lr=options.lr, betas=(options.momentum, 0.999))


def learning_rate(recipe: Recipe, step: int, steps_per_epoch: int) -> float:
    """Learning rate of a step (0, 1, ...), of which it is a pure function.

    cosine: peak (1 + cos(pi p)) / 2, p from 0 towards 1; constant: peak; both after a rise peak (step + 1) / w over w
    warmup steps. one_cycle: cosine from peak/25 up to peak at step w - 1, then down to peak/250000 at the last
    step, as torch.optim.lr_scheduler.OneCycleLR.
    """
    options, peak, epochs = recipe.schedule, recipe.optimizer.lr, recipe.trainer.epochs
    total = epochs * steps_per_epoch
    if options.name == "one_cycle":
        share = 0.3 if options.warmup_epochs is None else options.warmup_epochs / epochs
        top = share * total - 1
        if step <= top:
            return _between(peak / 25, peak, step / top if top > 0 else 1.0)
        return _between(peak, peak / 25 / 1e4, (step - top) / max(total - 1 - top, 1))
    warmup = round((options.warmup_epochs or 0) * steps_per_epoch)
    if step < warmup:
        return peak * (step + 1) / warmup
    if options.name == "constant":
        return peak
    return _between(peak, 0.0, (step - warmup) / max(total - warmup, 1))


def _between(start: float, end: float, share: float) -> float:
    """From start to end along half a cosine."""
    return end + (start - end) * (1 + math.cos(math.pi * share)) / 2


def average(net: nn.Module, decay: float) -> AveragedModel:
    """A moving average of a net's weights, and of its buffers of floating point; all else is the net's own.

    So are the numbers in them that are not finite, as in a mask: there is no mean of infinities.
    """
    average_of = get_ema_multi_avg_fn(decay)

    def mix(means: Sequence[Tensor], values: Sequence[Tensor], count: Tensor | int) -> None:  # of one dtype
        if means[0].is_floating_point():
            average_of(means, values, count)
        for mean, value in zip(means, values, strict=True):
            mean.copy_(mean.where(mean.isfinite(), value) if mean.is_floating_point() else value)

    return AveragedModel(net, multi_avg_fn=mix, use_buffers=True)

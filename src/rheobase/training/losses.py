"""What training minimises, from logits `[T, B, classes]` and labels `[B]`."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from rheobase.layers import readout
from rheobase.training.recipe import LossOptions


def loss(logits: Tensor, labels: Tensor, options: LossOptions) -> Tensor:
    """Mean loss of a batch, a scalar; `LossOptions` has the formulas."""
    logits = logits.float()
    if options.name == "cross_entropy":
        return F.cross_entropy(readout(logits), labels, label_smoothing=options.label_smoothing)
    if options.name == "count":
        classes = logits.shape[-1]
        wanted = F.one_hot(labels, classes).float().lerp(logits.new_tensor(1 / classes), options.label_smoothing)
        return (readout(logits) - wanted).square().mean()
    repeated = labels.expand(len(logits), -1).flatten()
    entropy = F.cross_entropy(logits.flatten(0, 1), repeated, label_smoothing=options.label_smoothing)
    pull = (logits - options.tet_target).square().mean()
    return (1 - options.tet_lambda) * entropy + options.tet_lambda * pull


def rate_penalty(spikes: Iterable[Tensor], options: LossOptions) -> Tensor:
    """Weight times the mean over layers of (mean rate - target)^2, a scalar, from the spikes of each layer."""
    rates = torch.stack([layer.float().mean() for layer in spikes])
    return options.rate_penalty * (rates - options.rate_target).square().mean()


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """How many of a batch the mean over time gets right, a scalar."""
    return (readout(logits.float()).argmax(1) == labels).sum()

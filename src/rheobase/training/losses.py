"""What training minimises, from logits `[T, B, classes]` and labels `[B]`."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from rheobase.layers import readout
from rheobase.training.recipe import LossOptions


def loss(logits: Tensor, labels: Tensor, options: LossOptions) -> Tensor:
    """Mean loss of a batch, a scalar; `LossOptions` has the formulas."""
    logits = logits.float()
    if options.name == "cross_entropy":
        return F.cross_entropy(readout(logits), labels, label_smoothing=options.label_smoothing)
    repeated = labels.expand(len(logits), -1).flatten()
    entropy = F.cross_entropy(logits.flatten(0, 1), repeated, label_smoothing=options.label_smoothing)
    pull = (logits - options.tet_target).square().mean()
    return (1 - options.tet_lambda) * entropy + options.tet_lambda * pull


def correct(logits: Tensor, labels: Tensor) -> Tensor:
    """How many of a batch the mean over time gets right, a scalar."""
    return (readout(logits.float()).argmax(1) == labels).sum()

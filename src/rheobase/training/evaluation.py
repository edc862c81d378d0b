"""Accuracy against time steps, and the weights as a number."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rheobase.data import Batches
from rheobase.data.dataset import Samples
from rheobase.graph.accuracy import Leaving
from rheobase.norm import TEBN
from rheobase.training.losses import scores
from rheobase.training.passes import padded
from rheobase.training.recipe import LossOptions

CONFIDENCES = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
"""Of the early exits of a figure."""


@dataclass(frozen=True)
class Exit:
    """Samples decided as soon as the softmax of the scores reaches a confidence in some class, or at the last step.

    Attributes:
        confidence: in (0, 1).
        steps: the mean step of the decision.
        accuracy: the share of samples that are decided rightly.
    """

    confidence: float
    steps: float
    accuracy: float


@torch.no_grad()
def accuracies(
    model: nn.Module,
    batches: Batches,
    steps: Sequence[int | None],
    device: torch.device | str = "cpu",
    precision: str = "32",
    loss: LossOptions = LossOptions(),  # noqa: B008  (it is frozen)
    exits: list[Exit] | None = None,
) -> list[float]:
    """Accuracy of the model in evaluation at each number of time steps, in one pass over the batches.

    A network from rest cannot see the future: its first t logits of T are those of a run of t steps. None stands for
    the model's own number (in an ANN twin, its one pass). Of a sequence the first t steps count, or all that it has.

    Args:
        exits: takes what early exits would do within the largest of the numbers, one at each of `CONFIDENCES`.

    Raises:
        ValueError: a number below 1, or more steps than the model, or the longest sequence, has (an ANN twin has one).
    """
    model.eval().to(device)
    wanted = [count for count in steps if count is not None]
    if any(count < 1 for count in wanted):
        raise ValueError(f"steps must be at least 1, got {min(wanted)}")
    correct = torch.zeros(len(steps), dtype=torch.int64, device=device)
    left = torch.zeros(2, len(CONFIDENCES), dtype=torch.int64, device=device)
    total = 0
    batches.seek(0)
    # (a norm with factors of steps wants them all, of which the first count)
    least: list[Any] = [model.steps] if any(isinstance(part, TEBN) for part in model.modules()) else []
    takes_steps = None not in steps and "steps" in inspect.signature(model.forward).parameters
    for batch in batches:
        images, labels, lengths = batch.to(device)
        autocast = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bf16")
        with autocast, padded(lengths):
            logits = model(images, steps=max(wanted + least)) if takes_steps and images.dim() == 4 else model(images)
        most = longest(batches.split, images, logits)
        if wanted and max(wanted) > most:
            raise ValueError(f"steps must be at most {most} for this model, got {max(wanted)}")
        for place, count in enumerate(steps):
            few = logits[:count]
            real = None if lengths is None else lengths.clamp(max=len(few))
            correct[place] += (scores(few, loss, real).argmax(1) == labels).sum()
        if exits is not None:
            left += _left(logits[: max(wanted, default=most)], labels, lengths, loss)
        total += len(labels)
    if exits is not None:
        exits += [
            Exit(p, *(count / total for count in found)) for p, found in zip(CONFIDENCES, left.T.tolist(), strict=True)
        ]
    return [count / total for count in correct.tolist()]


def _left(logits: Tensor, labels: Tensor, lengths: Tensor | None, loss: LossOptions) -> Tensor:
    """At each confidence, the sum of the steps of the decisions, and how many are right: `[2, confidences]`."""
    counts = range(1, len(logits) + 1)
    reals = [None if lengths is None else lengths.clamp(max=count) for count in counts]
    given = torch.stack([scores(logits[:n], loss, real) for n, real in zip(counts, reals, strict=True)])  # [T, B, C]
    found = []
    for confidence in CONFIDENCES:
        leaving = Leaving(confidence, labels)
        leaving.see(given, 0)
        steps = leaving.left if lengths is None else leaving.left.minimum(lengths)
        found.append(torch.stack([steps.sum(), (leaving.decided == labels).sum()]))
    return torch.stack(found, 1)


def longest(split: Samples, inputs: Tensor, logits: Tensor) -> int:
    """Time steps of a model's logits: those that it gave; where these are a batch's own, the longest sequence's."""
    if inputs.dim() == 4 or len(logits) != len(inputs):
        return len(logits)
    lengths: Tensor | None = getattr(split, "lengths", None)
    return split.shape[0] if lengths is None else int(lengths.max())


def weights_sha256(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over a state_dict: name, dtype, shape and bytes of each tensor, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

"""Accuracy of a spiking net against the number of time steps, in one pass."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from rheobase.graph.layers import table
from rheobase.graph.simulation import stream
from rheobase.models import Net

STEPS = tuple(2**i for i in range(11))


@dataclass(frozen=True)
class Curve:
    """Accuracy against time steps.

    Attributes:
        accuracy: {T: share of samples that the mean of the first T logits without the first `skip` decides rightly}.
        samples: how many there were.
        confidence: of the early exit; None: there is none.
        exit_accuracy: of decisions that are taken as soon as the softmax of the mean logits reaches it in a class (or
            at the last step).
        exit_steps: the mean step at which they are.
        skip: so many logits at the beginning do not count.
    """

    accuracy: dict[int, float]
    samples: int
    confidence: float | None = None
    exit_accuracy: float | None = None
    exit_steps: float | None = None
    skip: int = 0

    def __str__(self) -> str:
        rows = [(str(steps), f"{share:.2%}") for steps, share in self.accuracy.items()]
        if self.confidence is not None:
            rows.append((f"{self.exit_steps:.1f} (exit at {self.confidence:g})", f"{self.exit_accuracy:.2%}"))
        return table((f"steps, the first {self.skip} not counted" if self.skip else "steps", "accuracy"), rows)


@torch.no_grad()
def accuracies(
    net: Net, batches: Iterable[Any], steps: Sequence[int] = STEPS, confidence: float | None = None, skip: int = 0
) -> Curve:
    """Accuracy at each of these numbers of time steps, in one pass; memory does not grow with them.

    A net from rest cannot see the future, so the first t steps of T are those of a run of t steps.

    Args:
        net: a net for static images, in evaluation mode.
        batches: (images `[B, C, H, W]`, labels `[B]`, ...), such as `rb.data.Batches` gives.
        steps: numbers of time steps.
        confidence: in (0, 1), for an early exit.
        skip: so many logits at the beginning do not count.

    Raises:
        TypeError: the net is none of ours, or a batch begins with other things than images and labels.
        ValueError: no or bad steps, a skip that is not below all of them, a confidence out of range, sequences, no
            samples, labels or logits of another shape, or a net in training mode.
    """
    if not isinstance(net, Net):
        raise TypeError(f"accuracies: net must be a rheobase.models.Net, as rb.convert gives it, got {_kind(net)}")
    if not steps or any(type(count) is not int or count < 1 for count in steps):
        raise ValueError(f"accuracies: steps must be numbers from 1 on, got {list(steps)}")
    if type(skip) is not int or not 0 <= skip < min(steps):
        raise ValueError(f"accuracies: skip must be an integer from 0 to {min(steps) - 1}, got {skip!r}")
    if confidence is not None and not 0 < confidence < 1:
        raise ValueError(f"accuracies: confidence must be in (0, 1), got {confidence}")
    if net.training:
        raise ValueError("accuracies: the net is in training mode: net.eval() first")
    wanted = sorted(set(steps))
    right = dict.fromkeys(wanted, 0)
    samples, exit_right, exit_steps = 0, 0, 0
    parts = nn.Sequential(net.features, net.head)
    device = next((one.device for one in net.parameters()), torch.device("cpu"))
    for images, labels in map(_given, batches):
        if images.dim() != net.rank + 1:
            raise ValueError(f"accuracies: images must be static, [B, ...], got {list(images.shape)}")
        if labels.shape != images.shape[:1] or labels.is_floating_point():
            got = f"{labels.dtype} {list(labels.shape)}"
            raise ValueError(f"accuracies: labels must be classes, of integers [{len(images)}], got {got}")
        if not len(labels):
            continue
        images, labels = images.to(device), labels.to(device)
        done, total, leaving = 0, torch.zeros((), dtype=torch.float64, device=device), Leaving(confidence, labels)
        for logits in stream(parts, net.frames(images, 1)[0], wanted[-1]):
            early = min(max(skip - done, 0), len(logits))
            if logits.dim() != 3:
                raise ValueError(f"accuracies: the net must give logits [T, B, classes], got {list(logits.shape)}")
            done, logits = done + early, logits[early:]
            if not len(logits):
                continue
            means = logits.double().cumsum(0) + total
            total = means[-1]
            counted = torch.arange(done + 1, done + len(means) + 1, device=means.device) - skip
            means = means / counted.view(-1, 1, 1)
            for count in wanted:
                if done < count <= done + len(means):
                    right[count] += int((means[count - done - 1].argmax(1) == labels).sum())
            leaving.see(means, done)
            done += len(means)
        samples += len(labels)
        exit_right += int((leaving.decided == labels).sum())
        exit_steps += int(leaving.left.sum())
    if not samples:
        raise ValueError("accuracies: batches must have at least one sample")
    accuracy = {count: right[count] / samples for count in steps}
    if confidence is None:
        return Curve(accuracy, samples, skip=skip)
    return Curve(accuracy, samples, confidence, exit_right / samples, exit_steps / samples, skip)


def _given(batch: Any) -> tuple[Tensor, Tensor]:
    """The images and labels of a batch."""
    first = tuple(batch)[:2] if isinstance(batch, tuple | list) else (batch,)
    if len(first) < 2 or not all(isinstance(each, Tensor) for each in first):
        got = _kind(batch) if len(first) < 2 else " and ".join(map(_kind, first))
        raise TypeError(f"accuracies: a batch must begin with two tensors, images and labels, got {got}")
    return first[0], first[1]


def _kind(value: Any) -> str:
    return type(value).__name__


class Leaving:
    """The samples of a batch, each until it is decided: early exits.

    Attributes:
        decided, left: `[B]`, the class of each, and the step of the decision: that at which the softmax reaches the
            confidence in some class, or the last.
    """

    def __init__(self, confidence: float | None, labels: Tensor) -> None:
        self.confidence = confidence
        self.decided = torch.full_like(labels, -1)
        self.left = torch.zeros_like(labels)
        self._open = torch.ones_like(labels, dtype=torch.bool)

    def see(self, means: Tensor, done: int) -> None:
        """The mean logits of the steps after so many."""
        if self.confidence is None:
            return
        for step, logits in enumerate(means, done + 1):
            sure, best = logits.softmax(1).max(1)
            self.decided = torch.where(self._open, best, self.decided)
            self.left = torch.where(self._open, step, self.left)
            self._open &= sure < self.confidence

"""One pass up and down a model, seen from every neuron, that leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rheobase import kernels
from rheobase.layers import readout
from rheobase.modes import untouched
from rheobase.neurons.base import Neuron, outermost
from rheobase.recording import record

Loss = Callable[[Any, Any], Tensor]


@dataclass(frozen=True)
class Layer:
    """What a neuron met on the way, all `[T, B, ...]`.

    Attributes:
        path: of the neuron in the model.
        neuron: itself.
        currents, potentials, spikes: on the way up.
        currents_grad, spikes_grad: of the loss, on the way down; one for each part of the batch.
    """

    path: str
    neuron: Neuron
    currents: Tensor
    potentials: Tensor
    spikes: Tensor
    currents_grad: tuple[Tensor, ...] = ()
    spikes_grad: tuple[Tensor, ...] = ()


@dataclass(frozen=True)
class Passed:
    """A pass: its neurons in the order in which they ran, what came out, and the gradients of the weights.

    Attributes:
        layers: the neurons.
        outputs: of the model.
        weights: of each parameter with a gradient, by name, those for each part of the batch.
        losses: of each part of the batch, weighted by its share.
    """

    layers: list[Layer]
    outputs: Any
    weights: dict[str, tuple[Tensor, ...]]
    losses: tuple[Tensor, ...]


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Of the mean over time of logits `[T, B, classes]`, one a sample."""
    return F.cross_entropy(readout(logits.float()), labels, reduction="none")


def passing(
    model: nn.Module, x: Any, y: Any, loss: Loss = cross_entropy, parts: int = 1, seed: int = 0, training: bool = True
) -> Passed:
    """Run a model on a batch, and its gradient down again, once for each part of the batch.

    Args:
        model: any module with neurons.
        x: what it takes.
        y: what the loss takes besides its outputs.
        loss: (outputs, y) -> one a sample, `[B]`.
        parts: the batch is cut into so many; the gradients' sum is that of the mean loss.
        seed: of what is random in it.
        training: the mode of its modules.

    Raises:
        ValueError: no neuron, no parameter, or another kind of loss.
    """
    neurons = outermost(model)
    with untouched(model, seed, training), kernels.engine(fused=False), torch.enable_grad():
        with record(model, potentials=True) as tape:
            outputs = model(x)
        losses = loss(outputs, y)
        if losses.dim() != 1 or len(losses) < parts:
            raise ValueError(f"probe: the loss must be one a sample, [B] with B >= {parts}, got {list(losses.shape)}")
        shares = tuple(part.sum() / len(losses) for part in losses.chunk(parts))
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        wanted = [t for trace in tape.values() for t in (trace.currents, trace.spikes)] + list(named.values())
        found = [_gradients(share, wanted, keep=share is not shares[-1]) for share in shares]
    gradients = list(zip(*found, strict=True))
    layers = []
    for index, (path, trace) in enumerate(tape.items()):
        assert trace.potentials is not None
        seen = (trace.currents.detach(), trace.potentials.detach(), trace.spikes.detach())
        layers.append(Layer(path, neurons[path], *seen, *gradients[2 * index : 2 * index + 2]))
    weights = dict(zip(named, gradients[2 * len(layers) :], strict=True))
    return Passed(layers, outputs, weights, tuple(share.detach() for share in shares))


def _gradients(loss: Tensor, wanted: Sequence[Tensor], keep: bool) -> list[Tensor]:
    """Of a loss, zeros where it does not depend."""
    reached = [i for i, t in enumerate(wanted) if t.requires_grad]
    found = torch.autograd.grad(loss, [wanted[i] for i in reached], retain_graph=keep, allow_unused=True)
    gradients = [torch.zeros_like(t) for t in wanted]
    for i, gradient in zip(reached, found, strict=True):
        if gradient is not None:
            gradients[i] = gradient
    return gradients

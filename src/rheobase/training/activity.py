"""What the neurons of each layer do: the table at the end of a run."""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor, nn

from rheobase.neurons.base import outermost
from rheobase.recording import record


class Layer(TypedDict):
    """A layer of neurons: its module path, shape [C, H, W], mean spikes per step, share that never fired."""

    layer: str
    shape: list[int]
    rate: float
    dead: float


@torch.no_grad()
def activity(model: nn.Module, images: Tensor) -> list[Layer]:
    """One entry a layer of neurons, in the order in which they run; none in an ANN twin.

    Of the model in evaluation mode; its mode stays. A neuron counts as dead if it is silent at all steps for all images
    `[B, C, H, W]`.
    """
    if not outermost(model):
        return []
    training = model.training
    with record(model.eval()) as tape:
        model(images)
    model.train(training)
    layers: list[Layer] = []
    for path, trace in tape.items():
        count = trace.spikes.float().sum((0, 1))
        steps, batch = trace.spikes.shape[:2]
        rate, dead = count.double().mean() / (steps * batch), (count == 0).double().mean()
        layers.append({"layer": path, "shape": list(count.shape), "rate": rate.item(), "dead": dead.item()})
    return layers

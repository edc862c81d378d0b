"""What the neurons of each layer do: the table at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from typing_extensions import TypedDict  # (pydantic, which reads it in a summary, wants that one below Python 3.12)

from rheobase.neurons import Integrator
from rheobase.neurons.base import outermost
from rheobase.recording import Trace, record


class Layer(TypedDict):
    """A layer of neurons: its module path, shape [C, H, W], mean spikes per step, share that never fired."""

    layer: str
    shape: list[int]
    rate: float
    dead: float


def firing(model: nn.Module, tape: Mapping[str, Trace]) -> dict[str, Tensor]:
    """The spikes of each layer of neurons that fires, which integrators do not, in the order in which they ran."""
    fires = {path for path, neuron in outermost(model).items() if not isinstance(neuron, Integrator)}
    return {path: trace.spikes for path, trace in tape.items() if path in fires}


@torch.no_grad()
def recorded(model: nn.Module, images: Tensor) -> Mapping[str, Trace]:
    """What the neurons do in evaluation, by module path; the model's mode stays."""
    if not outermost(model):
        return {}
    training = model.training
    with record(model.eval()) as tape:
        model(images)
    model.train(training)
    return tape


def activity(model: nn.Module, images: Tensor) -> list[Layer]:
    """One entry a layer of neurons that fire, in evaluation, in the order in which they run; none in an ANN twin.

    A neuron counts as dead if it is silent at all steps for all images `[B, C, H, W]`.
    """
    layers: list[Layer] = []
    for path, spikes in firing(model, recorded(model, images)).items():
        count = spikes.float().sum((0, 1))
        rate, dead = count.double().mean() / (spikes.shape[0] * spikes.shape[1]), (count == 0).double().mean()
        layers.append({"layer": path, "shape": list(count.shape), "rate": rate.item(), "dead": dead.item()})
    return layers

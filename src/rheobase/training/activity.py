"""What the neurons of each layer do: the table at the end of a run."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from typing_extensions import TypedDict  # (pydantic, which reads it in a summary, wants that one below Python 3.12)

from rheobase.data import Batch
from rheobase.modes import in_mode
from rheobase.neurons import Integrator
from rheobase.neurons.base import outermost
from rheobase.padded import real_steps
from rheobase.recording import Trace, record
from rheobase.training.passes import padded


class Layer(TypedDict):
    """A layer of neurons: its module path, shape [C, H, W], mean spikes per step, share that never fired."""

    layer: str
    shape: list[int]
    rate: float
    dead: float


def firing(model: nn.Module, tape: Mapping[str, Trace], batch: Batch) -> dict[str, Tensor]:
    """The spikes of each layer of neurons that fires, which integrators do not, in the order in which they ran.

    They are those of the real steps of all samples, `[N, ...]`; of all steps in a layer that has others than the input.
    """
    fires = {path for path, neuron in outermost(model).items() if not isinstance(neuron, Integrator)}
    inputs, _, lengths = batch

    def real(spikes: Tensor) -> Tensor:
        if lengths is None or spikes.shape[:2] != inputs.shape[:2]:
            return spikes.flatten(0, 1)
        return spikes[real_steps(lengths, len(inputs), len(lengths), "firing")]

    return {path: real(trace.spikes) for path, trace in tape.items() if path in fires}


@torch.no_grad()
def recorded(model: nn.Module, batch: Batch) -> Mapping[str, Trace]:
    """What the neurons do in evaluation, by module path; the model's mode stays."""
    if not outermost(model):
        return {}
    with in_mode(model, training=False), padded(batch.lengths), record(model) as tape:
        model(batch.inputs)
    return tape


def activity(model: nn.Module, batch: Batch) -> list[Layer]:
    """One entry a layer of neurons that fire, in evaluation, in the order in which they run; none in an ANN twin.

    A neuron counts as dead if it is silent at all real steps of all samples.
    """
    layers: list[Layer] = []
    for path, spikes in firing(model, recorded(model, batch), batch).items():
        count = spikes.float().sum(0)
        rate, dead = count.double().mean() / len(spikes), (count == 0).double().mean()
        layers.append({"layer": path, "shape": list(count.shape), "rate": rate.item(), "dead": dead.item()})
    return layers

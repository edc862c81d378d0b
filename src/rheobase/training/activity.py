"""What the neurons of each layer do: the table at the end of a run."""

from __future__ import annotations

import copy
from typing import TypedDict

import torch
from torch import Tensor, nn

from rheobase.neurons import Neuron


class Layer(TypedDict):
    """A layer of neurons: its module path, shape [C, H, W], mean spikes per step, share that never fired."""

    layer: str
    shape: list[int]
    rate: float
    dead: float


@torch.inference_mode()
def activity(model: nn.Module, images: Tensor) -> list[Layer]:
    """One entry a layer of neurons, in the order in which they run; none in an ANN twin.

    The model itself is not touched. A neuron counts as dead if it is silent at all steps for all images `[B, C, H, W]`.
    """
    model = copy.deepcopy(model).eval()
    layers: list[Layer] = []
    for name, module in model.named_modules():
        if isinstance(module, Neuron):

            def note(module: nn.Module, inputs: object, spikes: Tensor, name: str = name) -> None:
                count = spikes.float().sum((0, 1))
                layers.append(
                    {
                        "layer": name,
                        "shape": list(count.shape),
                        "rate": (count.double().mean() / (spikes.shape[0] * spikes.shape[1])).item(),
                        "dead": (count == 0).double().mean().item(),
                    }
                )

            module.register_forward_hook(note)
    model(images)
    return layers

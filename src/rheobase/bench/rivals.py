"""Other libraries' LIF layers in their fastest mode on the CPU, doing the mathematics of `rb.LIF(decay=0.5)`.

u[t] = v[t-1] / 2 + I[t], threshold 1, soft reset, detached, ATan(2). Each is checked against ours before it is timed.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

import rheobase as rb

Layer = Callable[[Tensor], Tensor]


def lif_rivals() -> Iterator[tuple[str, Layer | None, str]]:
    """Name, layer, and why there is none."""
    for name, build in (("SpikingJelly, multi-step", _spikingjelly), ("snnTorch Leaky", _snntorch)):
        try:
            layer = build()
        except ImportError as error:
            yield name, None, f"not installed: {error}"
            continue
        difference = _difference(layer)
        yield (name, layer, "") if not difference else (name, None, difference)


def _spikingjelly() -> Layer:
    neuron: Any = importlib.import_module("spikingjelly.activation_based.neuron")
    shapes: Any = importlib.import_module("spikingjelly.activation_based.surrogate")
    functional: Any = importlib.import_module("spikingjelly.activation_based.functional")
    lif = neuron.LIFNode(
        tau=2.0,
        decay_input=False,
        v_threshold=1.0,
        v_reset=None,
        surrogate_function=shapes.ATan(2.0),
        detach_reset=True,
        step_mode="m",
    )

    def layer(currents: Tensor) -> Tensor:
        functional.reset_net(lif)
        spikes: Tensor = lif(currents)
        return spikes

    return layer


def _snntorch() -> Layer:
    snntorch: Any = importlib.import_module("snntorch")
    shapes: Any = importlib.import_module("snntorch.surrogate")
    # its reset follows a step later, as a subtraction of the last step's spike: u[t] = u[t-1]/2 + I[t] - s[t-1]/2
    leaky = snntorch.Leaky(0.5, 1.0, spike_grad=shapes.atan(alpha=2.0), reset_mechanism="subtract")

    def layer(currents: Tensor) -> Tensor:
        membrane, spikes = leaky.init_leaky(), []
        for current in currents.unbind(0):
            spike, membrane = leaky(current, membrane)
            spikes.append(spike)
        return torch.stack(spikes)

    return layer


def _difference(layer: Layer) -> str:
    """What a layer does differently from ours, or nothing."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(-64, 129, (6, 3, 50), generator=generator) / 64
    grad = torch.randn(6, 3, 50, generator=generator)
    found = []
    for module in (rb.LIF(), layer):
        x = values.clone().requires_grad_()
        spikes = module(x)
        spikes.backward(grad)
        found.append((spikes, x.grad))
    if not torch.equal(found[0][0], found[1][0]):
        return "its spikes differ from ours: it is not the same neuron"
    assert found[0][1] is not None
    assert found[1][1] is not None
    if not torch.allclose(found[0][1], found[1][1], atol=1e-5):
        return "its input gradients differ from ours: it is not the same neuron"
    return ""

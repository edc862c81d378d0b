"""Other libraries' LIF layers on the CPU, each beside the neuron of ours that does the same mathematics.

Before a rival is timed its spikes and input gradients are compared with ours. The currents are random, so that no
potential is exactly at the threshold, where some fire and some do not.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

import rheobase as rb

Layer = Callable[[Tensor], Tensor]
Build = Callable[[], Layer]  # a partial of something in a module: it may go to another process

PACKAGES = ("spikingjelly", "snntorch", "norse")


@dataclass(frozen=True)
class Neuron:
    """A neuron of ours and the rivals that claim to be the same; a string in a layer's place says why one is not."""

    title: str
    ours: Callable[[], rb.LIF]
    rivals: dict[str, Build | str]


def builds(neuron: Neuron) -> Iterator[tuple[str, Build | None, str]]:
    """Name, how to build it, and why it cannot be, of each rival."""
    for name, build in neuron.rivals.items():
        if isinstance(build, str):
            yield name, None, build
            continue
        try:
            difference = _difference(neuron.ours(), build())
        except ImportError as error:
            yield name, None, f"not installed: {error}"
            continue
        yield (name, build, "") if not difference else (name, None, difference)


def _difference(ours: rb.LIF, layer: Layer) -> str:
    """What a layer does differently from ours, or nothing."""
    generator = torch.Generator().manual_seed(0)
    values, grad = torch.randn(2, 8, 3, 50, generator=generator)
    found = []
    for module in (ours, layer):
        x = (2 * values).requires_grad_()
        spikes = module(x)
        spikes.backward(grad)
        assert x.grad is not None
        found.append((spikes.detach(), x.grad))
    (spikes, gradient), (its_spikes, its_gradient) = found
    if not torch.equal(spikes, its_spikes):
        return "its spikes differ from ours: it is not the same neuron"
    if not torch.allclose(gradient, its_gradient, atol=1e-5):
        return "its input gradients differ from ours: it is not the same neuron"
    return ""


def lif_arguments(v_reset: float | None = None, detach_reset: bool = True) -> dict[str, Any]:
    """What makes SpikingJelly's LIFNode our `LIF()`, or with `v_reset=0.0` the one with a hard reset."""
    shapes: Any = importlib.import_module("spikingjelly.activation_based.surrogate")
    return {
        "tau": 2.0,
        "decay_input": False,
        "v_threshold": 1.0,
        "v_reset": v_reset,
        "surrogate_function": shapes.ATan(2.0),
        "detach_reset": detach_reset,
        "step_mode": "m",
    }


def _spikingjelly(v_reset: float | None, detach_reset: bool) -> Layer:
    neuron: Any = importlib.import_module("spikingjelly.activation_based.neuron")
    functional: Any = importlib.import_module("spikingjelly.activation_based.functional")
    lif = neuron.LIFNode(**lif_arguments(v_reset, detach_reset))

    def layer(currents: Tensor) -> Tensor:
        functional.reset_net(lif)
        spikes: Tensor = lif(currents)
        return spikes

    return layer


def _snntorch() -> Layer:
    snntorch: Any = importlib.import_module("snntorch")
    shapes: Any = importlib.import_module("snntorch.surrogate")
    leaky = snntorch.Leaky(0.5, spike_grad=shapes.atan(2.0), reset_mechanism="zero", reset_delay=False)

    def layer(currents: Tensor) -> Tensor:
        membrane, spikes = leaky.reset_mem(), []
        for current in currents.unbind(0):
            spike, membrane = leaky(current, membrane)
            spikes.append(spike)
        return torch.stack(spikes)

    return layer


def _norse() -> Layer:
    norse: Any = importlib.import_module("norse.torch")
    half, one = torch.tensor(0.5), torch.tensor(1.0)
    cell = norse.LIFBoxCell(norse.LIFBoxParameters(tau_mem_inv=half, alpha=one), dt=1.0)
    lift = norse.Lift(cell)

    def layer(currents: Tensor) -> Tensor:
        spikes: Tensor = lift(currents)[0]
        return spikes

    return layer


NEURONS = (
    Neuron(
        "LIF, soft reset",
        rb.LIF,
        {
            "SpikingJelly LIFNode, multi-step": partial(_spikingjelly, None, True),
            "snnTorch Leaky": "its subtraction follows a step later, another neuron; see hard reset",
            "Norse LIFBox": "it has no ATan surrogate; see hard reset, SuperSpike",
        },
    ),
    Neuron(
        "LIF, hard reset with gradient",
        partial(rb.LIF, reset="hard", detach_reset=False),
        {
            "SpikingJelly LIFNode, multi-step": partial(_spikingjelly, 0.0, False),
            "snnTorch Leaky": _snntorch,
        },
    ),
    Neuron(
        "LIF, hard reset with gradient, SuperSpike, input halved",
        partial(
            rb.LIF, reset="hard", detach_reset=False, surrogate=rb.surrogate.SuperSpike(alpha=1.0), input_scale=0.5
        ),
        {"Norse LIFBox": _norse},
    ),
)
"""The first is our default, timed against everything; the others are for rivals that do not offer that one."""

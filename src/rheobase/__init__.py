"""Train deep spiking neural networks directly, at few time steps.

    import rheobase as rb
    model = rb.models.create("sew_resnet18", classes=10, in_channels=3, steps=4)
    logits = rb.readout(model(images))

Time is the first axis everywhere, `[T, B, ...]`; sequences go in and out; there is nothing to reset.
"""

from typing import TYPE_CHECKING, Any

from rheobase import models, surrogate
from rheobase.interop.weights import load, save
from rheobase.kernels import engine
from rheobase.layers import Fire, PerStep, readout
from rheobase.neurons import IF, LIF, Integrator, Neuron
from rheobase.norm import CurrentNorm
from rheobase.streaming import run

if TYPE_CHECKING:
    from rheobase.training import train

__version__ = "0.1.0"

__all__ = [
    "IF",
    "LIF",
    "CurrentNorm",
    "Fire",
    "Integrator",
    "Neuron",
    "PerStep",
    "engine",
    "load",
    "models",
    "readout",
    "run",
    "save",
    "surrogate",
    "train",
]


def __getattr__(name: str) -> Any:
    # training brings Lightning along: only who trains pays for it
    if name == "train":
        from rheobase.training import train

        return train
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

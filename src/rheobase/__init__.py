"""Train deep spiking neural networks directly, at few time steps.

    import rheobase as rb
    model = rb.models.create("sew_resnet18", classes=10, in_channels=3, steps=4)
    logits = rb.readout(model(images))

Time is the first axis everywhere, `[T, B, ...]`; sequences go in and out; there is nothing to reset.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rheobase import data, graph, models, rules, surrogate
    from rheobase.energetics import energy
    from rheobase.graph import QCFS, convert, to_spiking
    from rheobase.interop.weights import load, save
    from rheobase.kernels import engine
    from rheobase.layers import Fire, PerStep, Poisson, readout
    from rheobase.neurons import IF, LIF, AdaptiveLIF, CubaLIF, Integrator, LateralLIF, Neuron, Recurrent, SoftLIF
    from rheobase.norm import CurrentNorm, padding
    from rheobase.recording import record
    from rheobase.signal.probe import probe
    from rheobase.signal.tune import tune
    from rheobase.streaming import run
    from rheobase.surrogate import spike
    from rheobase.training import train

__version__ = "0.1.0"

# Names are looked up at their first use: the command sets its environment before torch is loaded, and only who trains
# pays for Lightning.
_WHERE = {
    "IF": "neurons",
    "LIF": "neurons",
    "AdaptiveLIF": "neurons",
    "CubaLIF": "neurons",
    "CurrentNorm": "norm",
    "Fire": "layers",
    "Integrator": "neurons",
    "LateralLIF": "neurons",
    "Neuron": "neurons",
    "PerStep": "layers",
    "Poisson": "layers",
    "QCFS": "graph",
    "Recurrent": "neurons",
    "SoftLIF": "neurons",
    "convert": "graph",
    "data": "",
    "energy": "energetics",
    "engine": "kernels",
    "graph": "",
    "load": "interop.weights",
    "models": "",
    "padding": "norm",
    "probe": "signal.probe",
    "readout": "layers",
    "record": "recording",
    "rules": "",
    "run": "streaming",
    "save": "interop.weights",
    "spike": "surrogate",
    "surrogate": "",
    "to_spiking": "graph",
    "train": "training",
    "tune": "signal.tune",
}

__all__ = [
    "IF",
    "LIF",
    "QCFS",
    "AdaptiveLIF",
    "CubaLIF",
    "CurrentNorm",
    "Fire",
    "Integrator",
    "LateralLIF",
    "Neuron",
    "PerStep",
    "Poisson",
    "Recurrent",
    "SoftLIF",
    "convert",
    "data",
    "energy",
    "engine",
    "graph",
    "load",
    "models",
    "padding",
    "probe",
    "readout",
    "record",
    "rules",
    "run",
    "save",
    "spike",
    "surrogate",
    "to_spiking",
    "train",
    "tune",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module(f"rheobase.{_WHERE[name] or name}")
    value = getattr(module, name) if _WHERE[name] else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

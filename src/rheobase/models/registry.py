"""Models by name."""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Callable
from typing import Any

import torch

from rheobase.models.net import Net
from rheobase.neurons import Neuron

_models: dict[str, Callable[..., Net]] = {}
_ELSEWHERE = {
    "num_classes": "classes",
    "n_classes": "classes",
    "in_chans": "in_channels",
    "input_channels": "in_channels",
    "T": "steps",
    "time_steps": "steps",
    "timesteps": "steps",
    "num_steps": "steps",
    "cnf": "connect",
    "spiking_neuron": "neuron",
}
"""What other libraries call an argument."""


def register(name: str, builder: Callable[..., Net]) -> None:
    """Make `builder(classes=, in_channels=, steps=, spiking=, **options)` available as `name`.

    Raises:
        ValueError: the name is taken.
    """
    if name in _models:
        raise ValueError(f"register: model {name!r} exists already")
    _models[name] = builder


def names() -> list[str]:
    """All registered names."""
    return sorted(_models)


def create(
    name: str,
    *,
    classes: int | None = None,
    in_channels: int = 3,
    steps: int = 4,
    spiking: bool = True,
    rule: str = "surrogate",
    **options: Any,
) -> Net:
    """A model by name, freshly initialised.

    `model(images, steps=None)` maps images `[B, C, H, W]`, or sequences `[T, B, C, H, W]`, to logits `[T, B, classes]`.

    Args:
        name: one of `names()`.
        classes: number of logits.
        in_channels: C.
        steps: T for static images.
        spiking: False gives the ANN twin: the same graph with ReLU for the neuron, one pass, logits `[1, B, classes]`.
        rule: how gradients pass a neuron; "surrogate" (backpropagation through time) is the one there is.
        options: what the family takes, such as `width`, `depth`, `stem`, `connect`, `neuron` (a prototype that each
            layer gets a copy of), `norm`, `image_size`.

    Raises:
        ValueError: an unknown name or option (the error names the nearest), or a value out of range.
        TypeError: no classes, or another library's name for an option.
    """
    if name not in _models:
        near = difflib.get_close_matches(name, _models, n=3, cutoff=0.5)
        hint = f"; nearest: {', '.join(near)}" if near else f"; there are: {', '.join(names())}"
        raise ValueError(f"create: no model {name!r}{hint}")
    for key in options.keys() & _ELSEWHERE.keys():
        raise TypeError(f"create({name!r}): no option {key!r}: it is called {_ELSEWHERE[key]!r} here")
    if classes is None:
        raise TypeError(f"create({name!r}): classes, the number of logits, must be given")
    for key, value in (("classes", classes), ("in_channels", in_channels), ("steps", steps)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"create({name!r}): {key} must be a positive integer, got {value!r}")
    if rule != "surrogate":
        raise ValueError(f"create({name!r}): rule must be 'surrogate', got {rule!r}")
    builder = _models[name]
    allowed = _options(builder)
    for key in options:
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"create({name!r}): no option {key!r}; {hint}it takes {', '.join(allowed)}")
    neuron = options.get("neuron")
    if neuron is not None and not isinstance(neuron, Neuron):
        raise ValueError(f"create({name!r}): neuron must be a rheobase.Neuron, got {neuron!r}")
    model = builder(classes=classes, in_channels=in_channels, steps=steps, spiking=spiking, **options)
    model.arguments = {
        "name": name,
        "classes": classes,
        "in_channels": in_channels,
        "steps": steps,
        "spiking": spiking,
        "rule": rule,
        **copy.deepcopy(options),
    }
    # images live in channels-last memory: convolutions, norms and neurons all walk it without copies
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _options(builder: Callable[..., Net]) -> list[str]:
    """Names of the builder's own options."""
    common = ("classes", "in_channels", "steps", "spiking")
    return [name for name in inspect.signature(builder).parameters if name not in common]

"""Models on disk: safetensors for the weights, JSON in its header for what they belong to. Never a pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import nn

from rheobase import models
from rheobase.files import write_atomic
from rheobase.models import Net
from rheobase.neurons import IF, LIF, Neuron
from rheobase.surrogate import KINDS, Surrogate

FORMAT = 1
_NEURONS: dict[str, type[LIF]] = {"LIF": LIF, "IF": IF}


def save(model: nn.Module, path: str | Path) -> None:
    """Write a model of the registry; `load` gives it back. An existing file is replaced in one step.

    Raises:
        TypeError: not a model of the registry, or with neurons of your own: keep its `state_dict` instead.
    """
    if not isinstance(model, Net) or not hasattr(model, "arguments"):
        raise TypeError(
            f"save: {type(model).__name__} is not of rheobase.models.create, so load could not rebuild it: "
            "use safetensors.torch.save_model(model, path) and build it yourself"
        )
    arguments = {**model.arguments, "steps": model.steps}
    recipe = {key: _describe(value) if isinstance(value, Neuron) else value for key, value in arguments.items()}
    neurons = {
        name: {"reset": module.reset, "detach_reset": module.detach_reset}
        for name, module in model.named_modules()
        if isinstance(module, LIF)
    }
    header = {"rheobase": json.dumps({"format": FORMAT, "model": recipe, "neurons": neurons})}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_atomic(Path(path), to_bytes(tensors, header))


def load(path: str | Path) -> Net:
    """The model that `save` wrote, in training mode, on the CPU.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a file of `save`, or of a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"load: no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("rheobase")
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (not a dict)
    except SafetensorError as error:
        raise ValueError(f"load: {path} is not a safetensors file ({error})") from error
    if header is None:
        raise ValueError(f"load: {path} was not written by rheobase.save: its header names no model")
    about = json.loads(header)
    if about["format"] > FORMAT:
        raise ValueError(f"load: {path} has format {about['format']}, this version reads up to {FORMAT}")
    recipe: dict[str, Any] = dict(about["model"])
    if recipe.get("neuron"):
        recipe["neuron"] = _neuron(recipe["neuron"])
    model = models.create(recipe.pop("name"), **recipe)
    modules = dict(model.named_modules())
    for name, own in about["neurons"].items():  # where single neurons were changed after create
        for key, value in own.items():
            setattr(modules[name], key, value)
    model.load_state_dict(tensors)
    return model


def _describe(neuron: Neuron) -> dict[str, Any]:
    """A neuron's arguments as JSON."""
    if type(neuron) not in _NEURONS.values() or not isinstance(neuron, LIF):
        raise TypeError(
            f"save: it does not know how to rebuild {type(neuron).__name__}: save model.state_dict() instead"
        )
    surrogate = neuron.surrogate
    about: dict[str, Any] = {
        "type": type(neuron).__name__,
        "threshold": neuron.threshold,
        "reset": neuron.reset,
        "detach_reset": neuron.detach_reset,
        "input_scale": neuron.input_scale,
        "surrogate": [type(surrogate).__name__, surrogate.parameter, surrogate.height],
    }
    return about if isinstance(neuron, IF) else {**about, "decay": neuron.decay}


def _neuron(about: dict[str, Any]) -> LIF:
    """The neuron that `_describe` described."""
    arguments = dict(about)
    kind = _NEURONS[arguments.pop("type")]
    name, parameter, height = arguments.pop("surrogate")
    shapes: dict[str, type[Surrogate]] = {shape.__name__: shape for shape in KINDS.values()}
    return kind(surrogate=shapes[name](parameter, height), **arguments)  # type: ignore[call-arg]

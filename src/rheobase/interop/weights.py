"""Models on disk: safetensors for the weights, JSON in its header for what they belong to. Never a pickle.

The tensors are those of the state_dict, by its names; a neuron in the model's description lies beside them, under
`arguments.`. The header tells that description, as arguments of `create`, which neurons and norms stand where (they may
be changed after create), which names are one tensor, and what is frozen. A neuron's choices, and which numbers it
learns, lie in the tensors.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from rheobase import models
from rheobase.files import write_atomic
from rheobase.models import registry
from rheobase.models.family import put_rule
from rheobase.neurons import IF, LIF, AdaptiveLIF, CubaLIF, Integrator, LateralLIF, Recurrent, SoftLIF
from rheobase.neurons.base import outermost
from rheobase.norm import TEBN, CurrentNorm
from rheobase.rules.spike_train_topology import Masked

FORMAT = 2
_NORM = "channels eps momentum scale sync"
_CONV = "in_channels out_channels kernel_size stride padding dilation groups bias padding_mode"
_ARGUMENTS: dict[type[nn.Module], str] = {
    **dict.fromkeys((LIF, IF, CubaLIF, AdaptiveLIF, LateralLIF, Integrator), ""),
    **{SoftLIF: "tau_rc tau_ref amplitude gain smoothing noise"},
    **{Recurrent: "neuron module", **dict.fromkeys((nn.Linear, Masked), "in_features out_features bias")},
    **{CurrentNorm: _NORM, TEBN: f"{_NORM} steps average"},
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), _CONV),
}
"""What load can make beside what create makes, and those of its arguments that the state_dict does not tell."""
_KINDS: dict[str, Any] = {kind.__name__: kind for kind in _ARGUMENTS}
_APART = {"_parameters", "_buffers", "_modules", "training"}  # compared by themselves, or not kept
_INSTEAD = "Use safetensors.torch.save_model(model, path), or keep model.state_dict(), and build the model yourself"
_FAILURES = (safetensors.SafetensorError, ValueError, TypeError, LookupError, AttributeError, RuntimeError)


def save(model: nn.Module, path: str | Path, half: bool = False) -> None:
    """Write a model of `rheobase.models.create`, for `load`; gradients and mode (training or evaluation) are not kept.

    What is to be written is read back first: it is the same model to the last bit, or the old file stays as it is.

    Args:
        model: what to write.
        path: of the file.
        half: whether float32 weights of layers are rounded to float16 in the file; load gives them as float32 again.
            Norms, biases and the neurons' numbers stay as they are.

    Raises:
        TypeError: load would not give the model back; the error says what is in the way, and what to do instead.
    """
    try:
        if not isinstance(model, models.Net) or not hasattr(model, "description"):
            raise TypeError(f"{type(model).__name__} is not of rheobase.models.create (if it wraps one: save that)")
        short = _short(model) if half else []
        if short:
            model = _rounded(model, short)
        content = _written(model, short)
        _compare(_portrait(model), _portrait(_read(content)))
    except _FAILURES as error:
        raise TypeError(f"save: load would not give this model back: {_reason(error)}. {_INSTEAD}") from error
    write_atomic(Path(path), content)


def saved(path: str | Path) -> bool:
    """Whether a file is one of `save`: not a bare state_dict.

    Raises:
        SafetensorError: not a file of safetensors, or not the whole of one.
    """
    with safetensors.safe_open(path, "pt") as file:
        return "rheobase" in (file.metadata() or {})


def load(path: str | Path) -> models.Net:
    """The model that `save` wrote, in training mode, on the CPU; the state of random generators stays as it is.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not a file of `save`, not the whole of one, of another version; or its model, or a surrogate, is not
            known here: import the module that defines it first.
    """
    content = Path(path).read_bytes()
    try:
        return _read(content)
    except safetensors.SafetensorError as error:
        raise ValueError(f"load: {path} is not a safetensors file, or not the whole of one: {error}") from error
    except _FAILURES as error:
        raise ValueError(f"load: {path} cannot be read here: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    missing = f"{error.args[0]!r} is missing, or not known here"
    return missing if type(error) is KeyError else " ".join(str(error).split()).rstrip(" .")


def _whole(model: models.Net) -> models.Net:
    """A view of the model that has the modules of its description for one more child."""
    whole = copy.copy(model)
    given = {
        name: value for name, value in vars(whole.__dict__.pop("description")).items() if isinstance(value, nn.Module)
    }
    whole._modules = {**model._modules, "arguments": nn.ModuleDict(given)}
    return whole


def _firsts(keys: dict[str, Any]) -> dict[str, str]:
    """For each name the first one that has the same key."""
    seen: dict[Any, str] = {}
    return {name: seen.setdefault(key, name) for name, key in keys.items()}


def _short(model: models.Net) -> list[str]:
    """Names of the weights of layers, which are rounded."""
    found = model.named_parameters()
    return [name for name, p in found if name.endswith("weight") and p.dim() > 1 and p.dtype == torch.float32]


def _rounded(model: models.Net, names: list[str]) -> models.Net:
    """A copy with these parameters rounded to float16."""
    model = copy.deepcopy(model)
    for name in names:
        weight = model.get_parameter(name)
        rounded = weight.data.half().float()
        off = (rounded - weight.data).norm() / weight.data.norm().clamp(min=1e-30)
        if weight.isfinite().all() and not off <= 1e-3:
            what = "largest" if rounded.isinf().any() else "small"
            raise ValueError(f"float16 cannot hold the {what} values of {name}, which wants half=False")
        weight.data = rounded
    return model


def _written(model: models.Net, short: list[str]) -> bytes:
    """The file."""
    whole = _whole(model)
    found = {name: value for name, value in whole.state_dict(keep_vars=True).items() if isinstance(value, Tensor)}
    firsts = _firsts({name: id(tensor) for name, tensor in found.items()})
    norms = {path: module for path, module in model.named_modules() if isinstance(module, CurrentNorm)}
    about = {
        "format": FORMAT,
        "arguments": _told(registry.arguments(model.description), "arguments"),
        "steps": model.steps,
        "modules": _told(outermost(model) | norms, ""),
        "tied": {name: first for name, first in firsts.items() if name != first},
        "half": short,
        "frozen": [name for name, t in found.items() if isinstance(t, nn.Parameter) and not t.requires_grad],
    }
    tensors = {name: found[name].detach().cpu().contiguous() for name in firsts.values()}
    tensors |= {name: tensors[name].half() for name in short}
    return safetensors.torch.save(tensors, {"rheobase": json.dumps(about)})


def _told(value: Any, path: str) -> Any:
    """A value as JSON: a module by its type and arguments, a bias by its being there."""
    if isinstance(value, nn.Module):
        kind = type(value)
        if kind not in _ARGUMENTS:
            raise TypeError(f"{path} is a {kind.__name__}, which load does not know how to make")
        value = {"type": kind.__name__, **{name: getattr(value, name) for name in _ARGUMENTS[kind].split()}}
    if isinstance(value, dict):
        return {name: _told(part, f"{path}.{name}".lstrip(".")) for name, part in value.items()}
    return True if isinstance(value, Tensor) else value


def _made(told: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """The value that `_told` told; a neuron with its numbers, which what is built from it may depend on."""
    if not isinstance(told, dict):
        return told
    made = {name: _made(part, f"{path}.{name}".lstrip("."), tensors) for name, part in told.items()}
    if "type" not in made:
        return made
    module = _KINDS[made.pop("type")](**made)
    for number in getattr(module, "dynamics", ()):
        raw = tensors.get(f"{path}.raw_{number}")
        if raw is None:
            module.register_buffer(number, tensors[f"{path}.{number}"].clone())
        else:
            del module._buffers[number]
            module.register_parameter(f"raw_{number}", nn.Parameter(raw.clone()))
    return module


def _read(content: bytes) -> models.Net:
    """The model of a file."""
    tensors = safetensors.torch.load(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    if "rheobase" not in header:
        raise ValueError("not written by rheobase.save: its header names no model")
    about = json.loads(header["rheobase"])
    if about["format"] != FORMAT:
        raise ValueError(f"it has format {about['format']}, and this version of rheobase reads format {FORMAT}")
    tensors |= {name: tensors[name].float() for name in about.get("half", ())}
    tensors |= {name: tensors[first] for name, first in about["tied"].items()}
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):  # what create draws must not be seen
        arguments = _made(about["arguments"], "arguments", tensors)
        rule = arguments.pop("rule", "surrogate")
        model = models.create(**arguments)
        for path, module in _made(about["modules"], "", tensors).items():
            model.set_submodule(path, module)
    whole = _whole(model)
    made = whole.state_dict(keep_vars=True)
    for name, tensor in made.items():
        tensor.data = tensor.data.to(tensors[name].dtype)
        tensor.requires_grad_(isinstance(tensor, nn.Parameter) and name not in about["frozen"])
    for name, first in about["tied"].items():
        owner, _, leaf = name.rpartition(".")
        nn.Module.__setattr__(whole.get_submodule(owner), leaf, made[first])  # a neuron's own takes a copy
    whole.load_state_dict(tensors)
    model.description = replace(model.description, rule=rule)
    put_rule(model, rule)  # which looks at what the neurons are, their reset among it
    model.steps = about["steps"]
    return model


def _portrait(model: models.Net) -> dict[str, Any]:
    """All that must come back."""
    whole = _whole(model)
    arguments = registry.arguments(model.description)
    portrait = {f"argument {n}": v for n, v in arguments.items() if not isinstance(v, nn.Module)}
    modules = dict(whole.named_modules(remove_duplicate=False))
    places = _firsts(modules)
    for path, module in modules.items():
        portrait[f"module {path}"] = type(module), module.extra_repr(), places[path]
        own = {name: value for name, value in vars(module).items() if name not in _APART and value is not None}
        portrait |= {f"{n} of module {path}": v.tolist() if hasattr(v, "tolist") else v for n, v in own.items()}
    tensors = whole.state_dict(keep_vars=True) | dict(whole.named_buffers(remove_duplicate=False))
    memory = _firsts({name: tensor.data_ptr() for name, tensor in tensors.items()})
    for name, tensor in tensors.items():
        portrait[name] = type(tensor), tensor.dtype, list(tensor.shape), tensor.requires_grad, memory[name]
        portrait[f"value of {name}"] = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    return portrait


def _compare(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    for what in ours | theirs:
        both = what in ours and what in theirs  # a private name that one alone has is a mark, such as torch.compile's
        if not (ours[what] == theirs[what] if both else what.startswith("_")):
            raise TypeError(f"{what} is {ours.get(what)}, and would come back as {theirs.get(what)}")

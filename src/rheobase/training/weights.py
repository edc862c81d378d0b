"""A net that begins with weights from elsewhere, in place of those that the seed draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from rheobase.interop.weights import load
from rheobase.neurons import Neuron
from rheobase.training.console import say
from rheobase.training.evaluation import weights_sha256
from rheobase.training.folder import RunFolder


def begin(net: nn.Module, source: str, classes: int) -> dict[str, Any]:
    """Give a net the weights of another: of the same network, spiking or not, or of one that tells other classes apart.

    Tensors go by their names: those of layers and norms, and the numbers that neurons learn. All else of neurons stays
    as the net has it. What has a row for each class, of a net with other classes, stays as it is drawn.

    Args:
        net: to be changed.
        source: a run folder, whose best model it is, or a file of safetensors: of `rheobase.save`, or a state_dict.
        classes: of the net.

    Returns:
        What it began with, for JSON.

    Raises:
        FileNotFoundError: no such file, or no best model in the folder.
        ValueError: not a file of safetensors; or a tensor of another network.
    """
    place = Path(source).expanduser()
    file = RunFolder(place).best if place.is_dir() else place
    if not file.is_file():
        raise FileNotFoundError(f"model.weights: there is no {file}")
    found, own = _read(file), net.state_dict()
    other = f"model.weights: {file} is of another network:"
    neurons = {path: module for path, module in net.named_modules() if isinstance(module, Neuron)}
    numbers = {f"{path}.{name}" for path, each in neurons.items() for name in (*each._buffers, "_extra_state")}
    taken: dict[str, Tensor] = {}
    drawn = []
    for name in sorted(own.keys() - numbers):
        ours, theirs = own[name], found.get(name)
        if theirs is not None and ours.shape == theirs.shape:
            taken[name] = theirs
        elif name.rpartition(".")[0] in neurons or (theirs is not None and _rows(ours, theirs, classes)):
            drawn.append(name)
        elif theirs is None:
            raise ValueError(f"{other} there is no {name!r} in it")
        else:
            raise ValueError(f"{other} {name!r} is {list(theirs.shape)} in it, not {list(ours.shape)}")
    passed_over = sorted(found.keys() - taken.keys() - set(drawn))
    for name in passed_over:
        if name not in numbers and not _acts(net, name.rpartition(".")[0]):
            raise ValueError(f"{other} {name!r} of it has no place here")
    net.load_state_dict(own | taken)
    say(f"begins with {len(taken)} tensors of {file}" + (f"; as drawn: {', '.join(drawn)}" if drawn else ""))
    return {"weights_sha256": weights_sha256(taken), "drawn": drawn, "passed_over": passed_over}


def _rows(ours: Tensor, theirs: Tensor, classes: int) -> bool:
    """Whether a tensor has a row for each class, and the other one for each of another number of classes."""
    return ours.dim() > 0 and len(ours) == classes and ours.shape[1:] == theirs.shape[1:]


def _read(file: Path) -> dict[str, Tensor]:
    try:
        with safetensors.safe_open(file, "pt") as content:
            whole = "rheobase" in (content.metadata() or {})
        return load(file).state_dict() if whole else safetensors.torch.load(file.read_bytes())
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"model.weights: {file} is not a safetensors file, or not the whole of one: {error}"
        ) from error
    except ValueError as error:
        raise ValueError(f"model.weights: {error}") from error


def _acts(net: nn.Module, path: str) -> bool:
    """Whether what a module path leads to is an activation: a neuron's numbers are of no use to a twin's ReLU."""
    try:
        module = net.get_submodule(path)
    except AttributeError:
        return False
    return isinstance(module, Neuron) or not any(isinstance(each, Tensor) for each in module.state_dict().values())

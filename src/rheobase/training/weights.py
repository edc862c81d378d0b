"""A net that begins with weights from elsewhere, in place of those that the seed draws."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from rheobase.graph.qcfs import QCFS
from rheobase.interop.weights import load, saved
from rheobase.neurons import LIF, AdaptiveLIF, CubaLIF, Integrator, LateralLIF, Neuron
from rheobase.norm import NORMS
from rheobase.training.evaluation import weights_sha256
from rheobase.training.folder import RunFolder

_ACTIVATIONS = (Neuron, QCFS)
_NUMBERS = {
    f"{raw}{name}" for kind in (LIF, CubaLIF, AdaptiveLIF, LateralLIF, Integrator) for name in kind.dynamics
    for raw in ("", "raw_")
} | {"_extra_state"}  # fmt: skip
"""What neurons call their own, which an ANN twin has no use for."""


def read(source: str) -> dict[str, Tensor]:
    """The tensors of a run's best model, or of a file of safetensors: of `rheobase.save`, or a state_dict.

    Raises:
        FileNotFoundError: no such file, or no best model in the folder.
        ValueError: not a file of safetensors, or not the whole of one.
    """
    place = Path(source).expanduser()
    file = RunFolder(place).best if place.is_dir() else place
    if not file.is_file():
        raise FileNotFoundError(f"model.weights: there is no {file}")
    try:
        return load(file).state_dict() if saved(file) else safetensors.torch.load(file.read_bytes())
    except safetensors.SafetensorError as error:
        what = "is not a safetensors file, or not the whole of one"
        raise ValueError(f"model.weights: {file} {what}: {error}") from error
    except ValueError as error:
        raise ValueError(f"model.weights: {error}") from error


def begin(net: nn.Module, found: Mapping[str, Tensor], classes: int) -> dict[str, Any]:
    """Give a net the weights of another: of the same network, spiking or not, or of one for more or fewer classes.

    Tensors go by their names: those of layers and norms, and the numbers that neurons (and QCFS activations) learn. All
    else of neurons stays as the net has it. What has a row for each class, where there are more or fewer of them, stays
    as it is drawn.

    Args:
        net: to be changed.
        found: what `read` gives.
        classes: of the net.

    Returns:
        For JSON: the sum of all that was found, how many tensors were taken, what stayed as drawn, and what their
        neurons learned that has no place here.

    Raises:
        ValueError: a tensor of another network, or one that is not finite.
    """
    own, modules = net.state_dict(keep_vars=True), dict(net.named_modules(remove_duplicate=False))
    fixed = {
        f"{path}.{name}"
        for path, module in modules.items()
        if isinstance(module, Neuron)
        for name in (*module._buffers, "_extra_state")
    }
    tied = {id(own[name]): name for name in own if name in found}  # (a file may have one name of several)
    taken: dict[str, Tensor] = {}
    drawn = []
    for name in sorted(own.keys() - fixed):
        ours, theirs = own[name], found.get(name if name in found else tied.get(id(own[name]), name))
        owner = modules.get(name.rpartition(".")[0])
        if theirs is None and isinstance(owner, _ACTIVATIONS):
            drawn.append(name)
        elif theirs is None:
            raise ValueError(f"model.weights: there is no {name!r} in it{_hint(found)}")
        elif ours.shape == theirs.shape and ours.is_floating_point() == theirs.is_floating_point():
            taken[name] = theirs
        elif not isinstance(owner, (*_ACTIVATIONS, *NORMS)) and _rows(ours, theirs, classes):
            drawn.append(name)
        else:
            told = [f"{each.dtype} {list(each.shape)}".removeprefix("torch.float32 ") for each in (ours, theirs)]
            raise ValueError(f"model.weights: {name!r} must be {told[0]}, and is {told[1]} in it: another network?")
        if name in taken and not taken[name].isfinite().all():
            raise ValueError(f"model.weights: {name!r} of it is not finite")
    left = sorted(found.keys() - taken.keys() - set(drawn))
    for name in left:
        path, _, leaf = name.rpartition(".")
        if not isinstance(modules.get(path), Neuron) and not (_holds_nothing(modules.get(path)) and leaf in _NUMBERS):
            raise ValueError(f"model.weights: {name!r} of it has no place here: another network?")
    for name in taken:
        other = tied[id(own[name])]
        if not torch.equal(taken[other], taken[name]):
            raise ValueError(f"model.weights: {name!r} and {other!r} are one tensor here, and two in it")
    net.load_state_dict(net.state_dict() | taken)
    learned = [name for name in left if name.rpartition(".")[2].startswith("raw_")]
    return {"sha256": weights_sha256(found), "taken": len(taken), "drawn": drawn, "left_out": learned}


def told(begun: Mapping[str, Any]) -> str:
    """What `begin` did, in words."""
    parts = [f"begins with {begun['taken']} tensors that were given"]
    for what, names in (("drawn", begun["drawn"]), ("left out", begun["left_out"])):
        parts += [f"{what}: {', '.join(names)}"] if names else []
    return "; ".join(parts)


def _rows(ours: Tensor, theirs: Tensor, classes: int) -> bool:
    """Whether a tensor has a row for each class, and the other one for each of another number of classes."""
    return ours.dim() > 0 and len(ours) == classes != len(theirs) and ours.shape[1:] == theirs.shape[1:]


def _holds_nothing(module: nn.Module | None) -> bool:
    """Whether it is a module without tensors, as a twin's ReLU."""
    return module is not None and not module.state_dict()


def _hint(found: Mapping[str, Tensor]) -> str:
    for prefix in ("module.", "_orig_mod."):
        if found and all(name.startswith(prefix) for name in found):
            return (
                f", whose names all begin with {prefix!r}: those of a wrapped net? Take the state_dict of what it wraps"
            )
    return ": another network?"

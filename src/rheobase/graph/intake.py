"""What comes before a network is read: whether it can be, and a copy of it."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable

from torch import Tensor, nn

from rheobase.compat import hooked
from rheobase.graph.tracing import Tracer
from rheobase.neurons import Neuron

_WRAPPERS = {
    **dict.fromkeys(("AveragedModel", "DataParallel", "DistributedDataParallel"), "its .module"),
    **{"OptimizedModule": "its ._orig_mod", "ScriptModule": "the module that was scripted"},
}
"""Classes of modules that hold the network, and where it is."""
CONSTANT = re.compile(r"(?<=_tensor_constant)\d+")
"""Tensors that a forward makes: each trace makes new ones."""


def taken_in(module: nn.Module) -> tuple[str, nn.Module]:
    """Its class's name, for errors, and a copy of it.

    Raises:
        TypeError: no module.
        ValueError: it is around a network, or has neurons already, hooks, or what a pass has left in it.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"the network must be a torch.nn.Module, got {type(module).__name__}")
    owner = type(module).__name__
    inside = next((_WRAPPERS[cls.__name__] for cls in type(module).__mro__ if cls.__name__ in _WRAPPERS), None)
    if inside is not None:
        raise ValueError(f"{owner} cannot be read: give what is in it, {inside}")
    for path, child in module.named_modules():
        if isinstance(child, Neuron):
            raise ValueError(f"{owner} is a spiking network already: {path or 'it'} is a {type(child).__name__}")
        if hooked(child):
            raise ValueError(f"{owner} cannot be read: hooks on {path or 'it'} would be lost; remove them")
    return owner, _copied(owner, module)


def _copied(owner: str, module: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(module)
    except RuntimeError as error:
        for path, part in module.named_modules():
            for name, value in vars(part).items():
                if isinstance(value, Tensor) and not value.is_leaf:
                    what = f"{path}.{name}".removeprefix(".")
                    raise ValueError(
                        f"{owner} cannot be read: a pass has left {what} there, a tensor with a gradient, which cannot "
                        "be copied; del it, or keep it detached"
                    ) from error
        raise


def same(owner: str, module: nn.Module, leaf: Callable[[nn.Module], bool]) -> None:
    """Refuse a network that takes another way in training, with a ValueError; `leaf` as in `Tracer`."""
    found = [list(Tracer(leaf).taken(module.train(mode)).nodes) for mode in (True, False)]
    for one, other in zip(*found, strict=False):
        told = [
            (n.op, *(CONSTANT.sub("", str(x)) for x in (n.target, n.args, {**n.kwargs, "training": None})))
            for n in (one, other)
        ]
        if told[0] != told[1]:
            raise ValueError(
                f"{owner} cannot be read: in {one.meta['path'] or 'its forward'} ({one.meta['where']}) it does "
                "something else in training than in evaluation"
            )
    if len(found[0]) != len(found[1]):
        raise ValueError(f"{owner} cannot be read: it does not do the same in training as in evaluation")

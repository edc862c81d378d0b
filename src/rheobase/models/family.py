"""What a model is, in one description, a frozen dataclass a family: registry, save and load, and recipes read it."""

from __future__ import annotations

import copy
import types
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from torch import nn

from rheobase.kernels import rules
from rheobase.models.net import Net, Norm, Parts, linear
from rheobase.models.segments import Segmented
from rheobase.neurons import LIF, Neuron, Recurrent, SoftLIF
from rheobase.neurons.base import outermost
from rheobase.rule_names import RuleName

Count = Annotated[int, "from 1 on"]
"""The type of an option that is a positive integer."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What every model takes. Fields are checked by their types.

    Attributes:
        classes: number of logits.
        in_channels: C of the images.
        steps: T for static images.
        spiking: False for the ANN twin.
        rule: how gradients pass the neurons, by name: "surrogate", through time with the surrogate derivative, or
            another (see `rheobase.rules`). (A rule of one's own is an object: `neuron.rule`.)

    Raises:
        ValueError: a value that its field does not take.
    """

    classes: Count
    in_channels: Count = 3
    steps: Count = 4
    spiking: bool = True
    rule: RuleName = "surrogate"

    def __post_init__(self) -> None:
        for name, kind in get_type_hints(type(self), include_extras=True).items():
            wanted = _wanted(kind, getattr(self, name))
            if wanted:
                raise ValueError(f"{name} must be {wanted}, got {getattr(self, name)!r}")

    def network(self) -> Net:
        """A new network."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its networks are")

    def build(self) -> Net:
        """The model, freshly initialised; its `description` is a copy of this one."""
        net = self.network()
        put_rule(net, self.rule)
        net.description = copy.deepcopy(self)
        # images live in channels-last memory: convolutions, norms and neurons all walk it without copies
        return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@dataclass(frozen=True, kw_only=True)
class Family(Description):
    """Base of a family of networks. A subclass, a frozen dataclass too, adds its options, and the layers in `stack`.

    Attributes:
        neuron: a prototype that each layer gets a copy of; default `LIF()`. `SoftLIF` is for the ANN twin.
        norm: of the input currents: "current" (`CurrentNorm`), "tdbn" (scaled by the threshold, Zheng et al. 2021),
            "tebn" (with a factor for each of `steps`, Duan et al. 2022), or "none".
    """

    neuron: Neuron | SoftLIF | None = None
    norm: Norm = "current"

    @property
    def parts(self) -> Parts:
        """What makes its layers."""
        return Parts(self.spiking, self.neuron, self.norm, self.steps)

    def stack(self, parts: Parts) -> tuple[list[nn.Module], int]:
        """The layers from frames `[T, B, C, H, W]` to features `[T, B, F]`, and F."""
        raise NotImplementedError(f"{type(self).__name__} does not say what its layers are")

    def top(self, parts: Parts, features: int) -> nn.Module:
        """The last layer, from features to logits."""
        return linear(features, self.classes)

    def network(self) -> Net:
        """The layers, and the last one, a linear head."""
        parts = self.parts
        layers, features = self.stack(parts)
        head = self.top(parts, features)
        return Net(Segmented(*layers), head, self.in_channels, self.steps, self.spiking)


def put_rule(net: Net, name: str) -> None:
    """Give all neurons of a net the rule of that name; those of its head what the rule is at the output.

    Raises:
        ValueError: there is a neuron that the rule does not go with.
    """
    rule = rules.named(name)
    if rule is None:
        return
    for path, neuron in outermost(net).items():
        if isinstance(neuron, Recurrent) and hasattr(rule, "recurrent"):
            neuron = neuron.neuron
        if not isinstance(neuron, LIF) or not neuron.native:
            raise ValueError(f"rule must be 'surrogate' for the {type(neuron).__name__} {path}, got {name!r}")
        mine = rules.placed(rule, path)
        try:
            rules.check(mine, neuron.spec(), neuron.threshold.new_empty(1, 1))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        neuron.rule = mine


def _wanted(kind: Any, value: Any) -> str | None:
    """What a value of a field of this type must be, where it is not."""
    if get_origin(kind) in (Union, types.UnionType):
        found = [_wanted(one, value) for one in get_args(kind) if one is not types.NoneType]
        fits = None in found or (value is None and types.NoneType in get_args(kind))
        return None if fits else " or ".join(one for one in found if one)
    if get_origin(kind) is Literal:
        choices = get_args(kind)
        text = " or ".join(map(repr, choices)) if len(choices) < 3 else f"one of {', '.join(map(str, choices))}"
        return None if any(type(value) is type(one) and value == one for one in choices) else text
    if kind == Count:
        return None if type(value) is int and value > 0 else "a positive integer"
    names = {Neuron: "a rheobase.Neuron", SoftLIF: "a rheobase.SoftLIF", bool: "true or false", str: "a string"}
    return names[kind] if kind in names and not isinstance(value, kind) else None

"""Models by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import MISSING, field, fields, make_dataclass
from typing import Any, NamedTuple, get_type_hints

from rheobase.models.family import Description
from rheobase.models.net import Net


class Option(NamedTuple):
    """What a family takes: its type, and its default (`dataclasses.MISSING` where there is none)."""

    type: Any
    default: Any


class _Model(NamedTuple):
    family: type[Description]
    fixed: dict[str, Any]


_models: dict[str, _Model] = {}
_COMMON = {one.name for one in fields(Description)}
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


def register(name: str, family: type[Description] | Callable[..., Net], **fixed: Any) -> None:
    """Make a family available as `name`, with some of its options fixed.

    Args:
        name: for `create`, and for the files of `rheobase.save`.
        family: a subclass of `rheobase.models.Family`; or a function that takes classes, in_channels, steps,
            spiking and its options by name, and returns a `Net`. What it does not name it is never given: an option
            (`neuron` too) that `options(name)` does not tell is refused.
        fixed: options that are the same in all models of that name.

    Raises:
        ValueError: the name is taken.
        TypeError: something else than such a family or function, or an option that it does not have.
    """
    if name in _models:
        raise ValueError(f"register: model {name!r} exists already")
    if not inspect.isclass(family):
        family = _described(name, family)
    elif not issubclass(family, Description) or "__dataclass_fields__" not in vars(family):
        raise TypeError(f"register: {family.__name__} must be a frozen dataclass that extends rheobase.models.Family")
    strange = fixed.keys() - {one.name for one in fields(family)}
    if strange:
        raise TypeError(f"register: {family.__name__} has no option {min(strange)!r}")
    _models[name] = _Model(family, fixed)


def _described(name: str, function: Callable[..., Net]) -> type[Description]:
    """The family whose options are the arguments of a function that builds its networks."""
    takes = inspect.signature(function).parameters
    unnamed = [one for one in takes.values() if one.kind not in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]
    absent = sorted(_COMMON - {"rule"} - takes.keys())
    if unnamed or absent:
        wrong = f"no {absent[0]!r}" if absent else f"{str(unnamed[0])!r}, which cannot be given by name"
        raise TypeError(
            f"register: a function must take classes, in_channels, steps, spiking and its options by name, and that of "
            f"{name!r} takes {wrong}"
        )
    try:
        kinds = get_type_hints(function, include_extras=True)
    except (NameError, TypeError):  # names for a type checker alone, or no plain function
        kinds = {}

    def values(self: Any) -> dict[str, Any]:
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def network(self: Any) -> Net:
        net = function(**{key: value for key, value in values(self).items() if key in takes})
        if not isinstance(net, Net):
            raise TypeError(f"the function of {name!r} must return a rheobase.models.Net, got {type(net).__name__}")
        return net

    options = [
        (one.name, kinds.get(one.name, Any), field() if one.default is one.empty else field(default=one.default))
        for one in takes.values()
        if one.name not in _COMMON
    ]
    methods = {"network": network, "__reduce__": lambda self: (_again, (name, values(self)))}
    return make_dataclass(name, options, bases=(Description,), namespace=methods, frozen=True, kw_only=True)


def _again(name: str, values: dict[str, Any]) -> Description:
    return _models[name].family(**values)


def names() -> list[str]:
    """All registered names."""
    return sorted(_models)


def options(name: str) -> dict[str, Option]:
    """What the family of that name takes besides what all take (classes, in_channels, steps, spiking, rule).

    Raises:
        ValueError: an unknown name.
    """
    family, fixed = _model(name, "options")
    kinds = get_type_hints(family)
    own = [one for one in fields(family) if one.name not in {*_COMMON, *fixed}]
    return {one.name: Option(kinds[one.name], one.default) for one in own}


def _model(name: str, caller: str) -> _Model:
    if name not in _models:
        near = difflib.get_close_matches(name, _models, n=3, cutoff=0.5)
        hint = f"; nearest: {', '.join(near)}" if near else f"; there are: {', '.join(names())}"
        raise ValueError(f"{caller}: no model {name!r}{hint}")
    return _models[name]


def create(
    name: str,
    *,
    classes: int | None = None,
    in_channels: int = 3,
    steps: int = 4,
    spiking: bool = True,
    rule: str = "surrogate",
    **given: Any,
) -> Net:
    """A model by name, freshly initialised.

    `model(images, steps=None)` maps images `[B, C, H, W]`, or sequences `[T, B, C, H, W]`, to logits `[T, B, classes]`.

    Args:
        name: one of `names()`.
        classes: number of logits.
        in_channels: C.
        steps: T for static images.
        spiking: False gives the ANN twin: the same graph with ReLU for the neuron, one pass, logits `[1, B, classes]`.
        rule: how gradients pass the neurons, by name: "surrogate", as their definition says, or another of
            `rheobase.rules`: "membrane", "neighborhood", "neighborhood_published", "spike_train".
        given: what the family takes, as `options(name)` lists it, such as `width`, `depth`, `stem`, `connect`,
            `neuron` (a prototype that each layer gets a copy of), `norm`, `image_size`.

    Raises:
        ValueError: an unknown name or option (the error names the nearest), or a value out of range.
        TypeError: no classes, or another library's name for an option.
    """
    family, fixed = _model(name, "create")
    for key in given.keys() & _ELSEWHERE.keys():
        raise TypeError(f"create({name!r}): no option {key!r}: it is called {_ELSEWHERE[key]!r} here")
    if classes is None:
        raise TypeError(f"create({name!r}): classes, the number of logits, must be given")
    allowed = options(name)
    for key in given:
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"create({name!r}): no option {key!r}; {hint}it takes {', '.join(allowed)}")
    for key, option in allowed.items():
        if option.default is MISSING and key not in given:
            raise TypeError(f"create({name!r}): {key} must be given")
    common = {"classes": classes, "in_channels": in_channels, "steps": steps, "spiking": spiking, "rule": rule}
    try:
        return family(**{**common, **fixed, **given}).build()
    except ValueError as error:
        raise ValueError(f"create({name!r}): {error}") from error


def arguments(description: Description) -> dict[str, Any]:
    """Those of `create` for a model of this description.

    Raises:
        TypeError: no name is registered for it.
    """
    for name, (family, fixed) in _models.items():
        if type(description) is family and all(getattr(description, key) == fixed[key] for key in fixed):
            own = [one.name for one in fields(family) if one.name not in fixed]
            return {"name": name, **{key: getattr(description, key) for key in own}}
    raise TypeError(f"no model is registered that is a {description!r}")

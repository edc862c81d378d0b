"""What can be chosen of a data set or of augmentation: told by the arguments and docstring of what takes it."""

from __future__ import annotations

import inspect
import math
import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from types import NoneType
from typing import Annotated, Any, NamedTuple, get_args, get_origin, get_type_hints

from pydantic import Field

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
_INSIDE = {
    "ge": (operator.ge, "at least"),
    "gt": (operator.gt, "above"),
    "le": (operator.le, "at most"),
    "lt": (operator.lt, "below"),
}


class Option(NamedTuple):
    """An argument: its type, its default, what it is, and its range, such as `{"gt": 0, "le": 1}`."""

    type: Any
    default: Any
    help: str
    range: dict[str, float]


def told(taker: Callable[..., Any]) -> dict[str, Option]:
    """The arguments with a default of a function or class.

    Types and ranges are those of its annotations (`Annotated[int, Field(ge=1)]`), meanings those of its docstring's
    `Args`.
    """
    origin = taker.func if isinstance(taker, partial) else taker
    kinds, bare, helps = get_type_hints(origin, include_extras=True), get_type_hints(origin), _helps(origin)
    return {
        one.name: Option(bare[one.name], one.default, helps.get(one.name, ""), _range(kinds[one.name]))
        for one in inspect.signature(taker).parameters.values()
        if one.default is not one.empty
    }


def check(owner: str, options: Mapping[str, Option], values: Mapping[str, Any]) -> None:
    """Refuse a value out of its option's range, with a ValueError that names the option."""
    for name, option in options.items():
        value, bounds = values[name], [(*_INSIDE[kind], end) for kind, end in option.range.items()]
        infinite = isinstance(value, float) and not math.isfinite(value)
        if value is not None and (infinite or not all(holds(value, end) for holds, _, end in bounds)):
            wanted = " and ".join([f"{words} {end:g}" for _, words, end in bounds] + ["finite"] * infinite)
            raise ValueError(f"{owner}: {name} must be {wanted}, got {value}")


def _range(kind: Any) -> dict[str, float]:
    """That of an annotated type, which may be a part of a union with None."""
    [kind, *_] = [one for one in get_args(kind) if one is not NoneType] if NoneType in get_args(kind) else [kind]
    if get_origin(kind) is not Annotated:
        return {}
    return {sign: end for field in kind.__metadata__ for bound in field.metadata for sign, end in asdict(bound).items()}


def _helps(taker: Callable[..., Any]) -> dict[str, str]:
    """{argument: what it is} of lines `name, other: text` in a docstring's `Args`."""
    found: dict[str, str] = {}
    _, _, section = (inspect.getdoc(taker) or "").partition("\nArgs:\n")
    for entry in re.findall(r"^    (\w.*(?:\n {5,}.*)*)", section.partition("\n\n")[0], flags=re.M):
        names, _, words = entry.partition(": ")
        found |= dict.fromkeys(names.split(", "), " ".join(words.split()))
    return found

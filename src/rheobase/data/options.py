"""What can be chosen of a data set or of augmentation: told by the arguments and docstring of what takes it."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, get_type_hints


class Option(NamedTuple):
    """An argument: its type, its default, and what it is."""

    type: Any
    default: Any
    help: str


def told(taker: Callable[..., Any]) -> dict[str, Option]:
    """The arguments with a default of a function or class; what they are is its docstring's `Args`."""
    origin = taker.func if isinstance(taker, partial) else taker
    kinds, helps = get_type_hints(origin), _helps(inspect.getdoc(origin) or "")
    return {
        one.name: Option(kinds[one.name], one.default, helps.get(one.name, ""))
        for one in inspect.signature(taker).parameters.values()
        if one.default is not one.empty
    }


def _helps(text: str) -> dict[str, str]:
    """{argument: what it is} of lines `name, other: text` in a docstring's `Args`."""
    found: dict[str, str] = {}
    _, _, section = text.partition("\nArgs:\n")
    for entry in re.findall(r"^    (\w.*(?:\n {5,}.*)*)", section.partition("\n\n")[0], flags=re.M):
        names, _, words = entry.partition(": ")
        found |= dict.fromkeys(names.split(", "), " ".join(words.split()))
    return found

"""Nested frozen dataclasses as a schema: keys with ranges and help, checks, and errors that name the nearest key."""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeVar

T = TypeVar("T")


def key(
    default: Any, help: str, *, low: float | None = None, high: float | None = None, above: float | None = None
) -> Any:
    """A field: its default, its meaning, and its range (`low` and `high` inside, `above` outside)."""
    return dataclasses.field(default=default, metadata={"help": help, "low": low, "high": high, "above": above})


@dataclasses.dataclass(frozen=True)
class Key:
    """A leaf of the schema: its dotted name, type, default and metadata."""

    name: str
    type: Any
    default: Any
    metadata: Mapping[str, Any]


def keys(schema: type, prefix: str = "") -> Iterator[Key]:
    """All leaves of a schema."""
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        name, hint = prefix + field.name, hints[field.name]
        if dataclasses.is_dataclass(hint):
            yield from keys(typing.cast(type, hint), name + ".")
        else:
            yield Key(name, hint, field.default, field.metadata)


def known(schema: type, name: str) -> None:
    """Refuse a dotted name that is not a leaf.

    Raises:
        ValueError: the error names the nearest key.
    """
    leaves = [leaf.name for leaf in keys(schema)]
    if name in leaves:
        return
    inside = [leaf for leaf in leaves if leaf.startswith(name + ".")]
    if inside:
        raise ValueError(f"{name!r} is a group, not a key: give one of {', '.join(inside)}")
    # a key written without its group, or in the wrong one, is nearer than one that merely looks alike
    near = [leaf for leaf in leaves if leaf.rpartition(".")[2] == name.rpartition(".")[2]]
    near = near or difflib.get_close_matches(name, leaves, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"keys are {', '.join(leaves)}"
    raise ValueError(f"unknown key {name!r}: {hint}")


def flatten(nested: Mapping[str, Any], schema: type, prefix: str = "") -> dict[str, Any]:
    """{dotted name: value} of nested groups, whose keys may be dotted too.

    Raises:
        ValueError: a key that is unknown or given twice, or a value where a group must be.
    """
    groups = {leaf.name[:dot] for leaf in keys(schema) for dot, c in enumerate(leaf.name) if c == "."}
    flat: dict[str, Any] = {}
    for part, value in nested.items():
        name = f"{prefix}{part}"
        if name not in groups:
            known(schema, name)
            _add(flat, {name: value})
        elif isinstance(value, Mapping):
            _add(flat, flatten(value, schema, name + "."))
        elif value is not None:  # a group with nothing in it
            raise ValueError(f"{name!r} is a group of keys, got {value!r}")
    return flat


def _add(flat: dict[str, Any], more: Mapping[str, Any]) -> None:
    for name in more:
        if name in flat:
            raise ValueError(f"{name!r} is given twice, with dots and within its group")
    flat.update(more)


def build(schema: type[T], nested: Mapping[str, Any]) -> T:
    """An instance from nested groups or dotted names; absent keys take their defaults.

    Raises:
        ValueError: not a mapping, an unknown key, or a bad value.
    """
    if not isinstance(nested, Mapping):
        raise ValueError(f"a recipe must be a mapping of keys, got {type(nested).__name__}")
    return _assemble(schema, flatten(nested, schema), "")


def _assemble(schema: type[T], flat: Mapping[str, Any], prefix: str) -> T:
    hints = typing.get_type_hints(schema)
    arguments: dict[str, Any] = {}
    for field in dataclasses.fields(typing.cast(Any, schema)):
        name, hint = prefix + field.name, hints[field.name]
        if dataclasses.is_dataclass(hint):
            arguments[field.name] = _assemble(typing.cast(type, hint), flat, name + ".")
        elif name in flat:
            arguments[field.name] = flat[name]
    return schema(**arguments)


def validate(instance: Any, prefix: str = "") -> None:
    """Check types and ranges of all leaves.

    Raises:
        ValueError: names the key, what it got and what it wants.
    """
    hints = typing.get_type_hints(type(instance))
    for field in dataclasses.fields(instance):
        name, hint, value = prefix + field.name, hints[field.name], getattr(instance, field.name)
        if dataclasses.is_dataclass(hint):
            if not isinstance(value, typing.cast(type, hint)):
                raise ValueError(f"{name} must be {getattr(hint, '__name__', hint)}, got {value!r}")
            validate(value, name + ".")
        elif not _fits(value, hint):
            raise ValueError(f"{name} must be {describe(hint)}, got {value!r}")
        elif type(value) is int and float in _options(hint):
            object.__setattr__(instance, field.name, float(value))  # equal recipes have equal JSON
            validate(instance, prefix)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            low, high, above = (field.metadata[bound] for bound in ("low", "high", "above"))
            inside = (low is None or value >= low) and (high is None or value <= high)
            if not (math.isfinite(value) and inside and (above is None or value > above)):
                bounds = [
                    f"{sign} {bound}" for sign, bound in ((">=", low), (">", above), ("<=", high)) if bound is not None
                ]
                raise ValueError(f"{name} must be a number {' and '.join(bounds) or 'that is finite'}, got {value!r}")


def _options(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the type itself."""
    return (
        typing.get_args(hint)
        if isinstance(hint, types.UnionType) or typing.get_origin(hint) is typing.Union
        else (hint,)
    )


def _fits(value: Any, hint: Any) -> bool:
    for option in _options(hint):
        if typing.get_origin(option) is Literal:
            if isinstance(value, str) and value in typing.get_args(option):
                return True
        elif option is float:
            if isinstance(value, int | float) and not isinstance(value, bool):
                return True
        elif type(value) is option:
            return True
    return False


def describe(hint: Any) -> str:
    """A type in words: "an integer or null"."""
    words = {int: "an integer", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
    parts = [
        f"one of {', '.join(typing.get_args(option))}" if typing.get_origin(option) is Literal else words[option]
        for option in _options(hint)
    ]
    return " or ".join(parts)

"""A schema of nested pydantic models by its dotted keys: "model.steps". Errors name the key and the nearest one."""

from __future__ import annotations

import difflib
import functools
import typing
from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

S = TypeVar("S", bound="Group")
_WORDS: dict[Any, str] = {int: "an integer", float: "a number", bool: "true or false", str: "a text"}
_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


class Group(BaseModel):
    """Base of all parts of a schema: frozen, no unknown keys, no value of another type."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


def key(default: Any, help: str, **bounds: Any) -> Any:
    """A field: its default, its meaning, and its range (`ge`, `gt`, `le`, `lt`)."""
    return Field(default, description=help, **bounds)


class Leaf(NamedTuple):
    """A key that holds a value: its field, its type where it is not null, and whether it may be."""

    field: FieldInfo
    kind: Any
    nullable: bool

    @property
    def textual(self) -> bool:
        """Whether it holds a text."""
        return self.kind is str or typing.get_origin(self.kind) is Literal

    @property
    def wanted(self) -> str:
        """In words: "an integer >= 1 or null"."""
        words = _WORDS.get(self.kind) or f"one of {', '.join(typing.get_args(self.kind))}"
        bounds = " and ".join(
            f"{sign} {getattr(bound, name):g}"
            for bound in self.field.metadata
            for name, sign in _SIGNS.items()
            if hasattr(bound, name)
        )
        return " ".join(filter(None, (words, bounds, "or null" if self.nullable else "")))


@functools.cache
def leaves(schema: type[Group], prefix: str = "") -> dict[str, Leaf]:
    """All leaves of a schema by dotted name."""
    found: dict[str, Leaf] = {}
    for name, field in schema.model_fields.items():
        kind, inside = field.annotation, typing.get_args(field.annotation)
        if isinstance(kind, type) and issubclass(kind, Group):
            found |= leaves(kind, f"{prefix}{name}.")
        else:
            nullable = type(None) in inside
            found[prefix + name] = Leaf(field, inside[0] if nullable else kind, nullable)
    return found


def known(schema: type[Group], name: str) -> None:
    """Refuse a dotted name that is not a leaf, with a ValueError that names the nearest key."""
    names = list(leaves(schema))
    if name in names:
        return
    inside = [leaf for leaf in names if leaf.startswith(name + ".")]
    if inside:
        raise ValueError(f"{name!r} is a group, not a key: give one of {', '.join(inside)}")
    # a key written without its group, or in the wrong one, is nearer than one that merely looks alike
    near = [leaf for leaf in names if leaf.rpartition(".")[2] == name.rpartition(".")[2]]
    near = near or difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"keys are {', '.join(names)}"
    raise ValueError(f"unknown key {name!r}: {hint}")


def flatten(nested: Any, schema: type[Group]) -> dict[str, Any]:
    """{dotted name: value} of nested groups, whose keys may be dotted too; a group may be null.

    Raises:
        ValueError: no mapping, a key that is unknown or given twice, or a value where a group must be.
    """
    if not isinstance(nested, Mapping):
        raise ValueError(f"a recipe must be a mapping of keys, got {type(nested).__name__}")
    flat: dict[str, Any] = {}
    for name, value in _pairs(nested, ""):
        if any(leaf.startswith(f"{name}.") for leaf in leaves(schema)):
            if value is not None:
                raise ValueError(f"{name!r} is a group of keys, got {value!r}")
            continue
        known(schema, name)
        if name in flat:
            raise ValueError(f"{name!r} is given twice, with dots and within its group")
        flat[name] = value
    return flat


def _pairs(nested: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for part, value in nested.items():
        if isinstance(value, Mapping) and value:
            yield from _pairs(value, f"{prefix}{part}.")
        else:
            yield f"{prefix}{part}", None if isinstance(value, Mapping) else value


def build(schema: type[S], nested: Any) -> S:
    """An instance from nested groups or dotted names; absent keys take their defaults. Errors as in `flatten`."""
    tree: dict[str, Any] = {}
    for name, value in flatten(nested, schema).items():
        *groups, leaf = name.split(".")
        branch = tree
        for group in groups:
            branch = branch.setdefault(group, {})
        branch[leaf] = value
    return schema(**tree)


def in_words(error: ValidationError, schema: type[Group]) -> str:
    """What is wrong, on one line: the key, what is wanted, what was got."""
    first = error.errors()[0]
    name, got = ".".join(map(str, first["loc"])), first["input"]
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    if first["type"] == "extra_forbidden":
        try:
            known(schema, name)
        except ValueError as unknown:
            return str(unknown)
    if name in leaves(schema):
        return f"{name} must be {leaves(schema)[name].wanted}, got {got!r}"
    kind: Any = schema
    for part in name.split("."):
        kind = kind.model_fields[part].annotation
    return f"{name} must be {kind.__name__}, got {type(got).__name__}"

"""A schema of nested pydantic models by its dotted keys: "model.steps". Errors name the key and the nearest one."""

from __future__ import annotations

import difflib
import functools
import itertools
import json
import re
import typing
from collections.abc import Iterator, Mapping
from contextlib import suppress
from types import NoneType
from typing import Any, Literal, NamedTuple, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

S = TypeVar("S", bound="Group")
_WORDS: dict[Any, str] = {int: "an integer", float: "a number", bool: "true or false", str: "a text"}
_STRICT = ConfigDict(strict=True, allow_inf_nan=False, arbitrary_types_allowed=True)
_SIGNS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}


class Group(BaseModel):
    """Base of all parts of a schema: frozen, no unknown keys, no value of another type."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


def key(default: Any, help: str, **bounds: Any) -> Any:
    """A field: its default, its meaning, and its range (`ge`, `gt`, `le`, `lt`)."""
    return Field(default, description=help, **bounds)


class Open(Group):
    """A group that takes any key with a value that JSON has, for others to tell what it means; null leaves one out."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, JsonValue] = Field(init=False)


class Leaf(NamedTuple):
    """A key that holds a value: its field, its type where it is not null, and whether it may be."""

    field: FieldInfo
    kind: Any
    nullable: bool

    @classmethod
    def of(cls, field: FieldInfo) -> Leaf:
        """That of a field."""
        parts = typing.get_args(field.annotation)
        bare = tuple(part for part in parts if part is not NoneType)
        return cls(field, field.annotation, False) if len(bare) == len(parts) else cls(field, typing.Union[bare], True)  # noqa: UP007

    @property
    def textual(self) -> bool:
        """Whether it holds a text."""
        literal = typing.get_origin(self.kind) is Literal
        return self.kind is str or (literal and all(isinstance(one, str) for one in typing.get_args(self.kind)))

    @property
    def wanted(self) -> str:
        """In words: "an integer >= 1 or null"."""
        bounds = " and ".join(
            f"{sign} {getattr(bound, name):g}"
            for bound in self.field.metadata
            for name, sign in _SIGNS.items()
            if hasattr(bound, name)
        )
        return " ".join(filter(None, (_in_words(self.kind), bounds, "or null" if self.nullable else "")))

    def read(self, value: Any) -> Any:
        """What a value in a file, or a word of a command, stands for: 32 for a text where a text is wanted."""
        if self.textual:
            return None if value == "null" and self.nullable else str(value) if type(value) is int else value
        return read(value)


def _in_words(kind: Any) -> str:
    """What a value of this type is."""
    origin, inside = typing.get_origin(kind), typing.get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(str, inside))}"
    if origin is list or (origin is tuple and inside[1:] == (...,)):
        return f"a list, each {_in_words(inside[0])}"
    return _WORDS.get(kind) or (kind.__name__ if isinstance(kind, type) else str(kind))


def read(value: Any) -> Any:
    """What a text stands for in YAML, or else as a number (YAML reads 1e-3 as a text); another value as it is."""
    if isinstance(value, str):
        with suppress(yaml.YAMLError, ValueError):
            found = yaml.load(value, Plain)
            return float(found) if isinstance(found, str) and not found.lstrip("+-").isdigit() else found
    return value


class Plain(yaml.SafeLoader):
    """YAML in which 010 and 1:30 are texts: PyYAML takes them for 8 and for 90."""

    def resolve(self, kind: Any, value: Any, implicit: Any) -> Any:
        """The tag of a node."""
        odd = kind is yaml.ScalarNode and implicit[0] and _ODD.fullmatch(value)
        return "tag:yaml.org,2002:str" if odd else super().resolve(kind, value, implicit)


_ODD = re.compile(r"[-+]?(0[0-9_]+|[0-9][0-9_]*(:[0-5]?[0-9])+(\.[0-9_]*)?)")


@functools.cache
def groups(schema: type[Group], prefix: str = "") -> dict[str, type[Group]]:
    """All groups in a schema by dotted name."""
    found: dict[str, type[Group]] = {}
    for name, field in schema.model_fields.items():
        kind: Any = field.annotation
        if isinstance(kind, type) and issubclass(kind, Group):
            found |= {prefix + name: kind, **groups(kind, f"{prefix}{name}.")}
    return found


@functools.cache
def leaves(schema: type[Group]) -> dict[str, Leaf]:
    """All leaves of a schema by dotted name."""
    inside = {"": schema} | {f"{name}.": kind for name, kind in groups(schema).items()}
    fields = {prefix + name: field for prefix, kind in inside.items() for name, field in kind.model_fields.items()}
    return {name: Leaf.of(field) for name, field in fields.items() if name not in groups(schema)}


def known(schema: type[Group], name: str) -> None:
    """Refuse a dotted name that is not a leaf, with a ValueError that names the nearest key."""
    names, opened = list(leaves(schema)), [group for group, kind in groups(schema).items() if issubclass(kind, Open)]
    group, _, last = name.rpartition(".")
    if name in names or (group in opened and last.isidentifier()):
        return
    if name in groups(schema):
        inside = [leaf for leaf in (*names, *(f"{group}.NAME" for group in opened)) if leaf.startswith(name + ".")]
        raise ValueError(f"{name!r} is a group, not a key: give one of {', '.join(inside)}")
    raise ValueError(f"unknown key {name!r}: {_hint(name, names)}")


def _hint(name: str, names: list[str]) -> str:
    """What may have been meant."""
    # a key without its group, or in the wrong one, is nearer than one that merely looks alike
    near = [leaf for leaf in names if leaf.rpartition(".")[2] == name.rpartition(".")[2]]
    near = near or difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(map(repr, near))}?" if near else f"keys are {', '.join(names)}"


def flatten(nested: Any, schema: type[Group]) -> dict[str, Any]:
    """{dotted name: value} of nested groups, whose keys may be dotted too; a group may be null.

    Raises:
        ValueError: no mapping, a key that is unknown or given twice, or a value where a group must be.
    """
    if not isinstance(nested, Mapping):
        raise ValueError(f"a recipe must be a mapping of keys, got {type(nested).__name__}")
    flat: dict[str, Any] = {}
    try:
        pairs = list(_pairs(nested, ""))
    except RecursionError:
        raise ValueError("a recipe must end: a mapping in it holds itself") from None
    for name, value in pairs:
        if name in groups(schema):
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


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Groups of values, from {dotted name: value}."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *path, leaf = name.split(".")
        functools.reduce(lambda branch, group: branch.setdefault(group, {}), path, tree)[leaf] = value
    return tree


def build(schema: type[S], nested: Any) -> S:
    """An instance from nested groups or dotted names; absent keys take their defaults. Errors as in `flatten`."""
    flat, fixed = flatten(nested, schema), leaves(schema)
    return schema(**nest({name: value for name, value in flat.items() if value is not None or name in fixed}))


def taken(group: str, taker: str, kinds: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of an `Open` group, in the types {key: type} of what takes them.

    Raises:
        ValueError: an unknown key, with the nearest one, or a value of another type.
    """
    found: dict[str, Any] = {}
    for name, value in given.items():
        if name not in kinds:
            hint = _hint(name, list(kinds)) if kinds else "it takes none"
            raise ValueError(f"{group}: {taker} takes no {name!r}: {hint}")
        kind: Any = kinds[name]
        leaf, several = Leaf.of(FieldInfo(annotation=kind)), typing.cast(Any, list)[kind]
        try:  # as JSON, where a list is a tuple too; in a list, as pydantic sets how strict a class is in what holds it
            text = json.dumps([value if kind is Any else leaf.read(value)])
            [found[name]] = TypeAdapter(several, config=_STRICT).validate_json(text)
        except ValidationError:
            raise ValueError(f"{group}.{name} must be {leaf.wanted}, got {value!r}") from None
    return found


def in_words(error: ValidationError, schema: type[Group]) -> str:
    """What is wrong, on one line: the key, what is wanted, what was got."""
    first = error.errors()[0]
    parts, got = [str(part) for part in first["loc"]], first["input"]
    names = list(itertools.accumulate(parts, "{}.{}".format))  # (the last may be places in a list, or of a union)
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    if first["type"] == "extra_forbidden":
        try:
            known(schema, names[-1])
        except ValueError as unknown:
            return str(unknown)
    for name in names:
        if name in leaves(schema):
            return f"{name} must be {leaves(schema)[name].wanted}, got {got!r}"
        if name not in groups(schema):
            return f"{name} must be what JSON has: a number, a text, true, false or a list of them, got {got!r}"
    return f"{names[-1]} must be {groups(schema)[names[-1]].__name__}, got {type(got).__name__}"

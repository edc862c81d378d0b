"""Where recipes come from: files, names, and keys given on top of them."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import re
from argparse import ArgumentError
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rheobase.training.recipe import Recipe
from rheobase.training.schema import build, describe, flatten, keys, known

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

DEFAULT = "digits"
_LEAVES = {leaf.name: leaf for leaf in keys(Recipe)}


def folder() -> Path:
    """Where the recipes lie: in the installed package, or beside `src` in a checkout."""
    package = Path(__file__).parents[1]
    return next((place for place in (package / "recipes", package.parents[1] / "recipes") if place.is_dir()), package)


@dataclasses.dataclass(frozen=True)
class Listing:
    """A recipe's name and the lines of its heading comment."""

    name: str
    heading: list[str]


def listing() -> Iterator[Listing]:
    """All recipes that come with rheobase."""
    for path in sorted(folder().glob("*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        end = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
        yield Listing(path.stem, [line.lstrip("# ").rstrip() for line in lines[:end]])


def load(source: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe from a file (YAML or JSON) or by name, with dotted keys on top.

    Raises:
        FileNotFoundError: neither a file nor a name.
        ValueError: not YAML, a key that is unknown or given twice, or a bad value; the error names the nearest key.
    """
    path = _locate(source)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
        if content is not None and not isinstance(content, Mapping):
            raise ValueError(f"a recipe must be a mapping of keys, got {type(content).__name__}")
        flat = _typed(flatten(content or {}, Recipe))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return build(Recipe, {**flat, **_typed(flatten(overrides or {}, Recipe))})


def from_arguments(arguments: Sequence[str]) -> tuple[str, Recipe]:
    """The recipe's name and the recipe of a command line `[RECIPE] [--key value ...]`.

    Raises:
        ValueError, FileNotFoundError: as `load`, or a line that cannot be understood.
        SystemExit: after printing help (`--help`).
    """
    words = [word for word in arguments if word not in ("-h", "--help")]
    for word in words:
        if word.startswith("--"):
            known(Recipe, word[2:].partition("=")[0])
    try:
        given = _parser().parse_args(words, defaults=False).as_flat()
    except ArgumentError as error:
        raise ValueError(_in_words(error, _pairs(words))) from error
    flat = dict(vars(given))
    source = flat.pop("recipe", None) or DEFAULT
    recipe = load(source, flat)
    if len(words) < len(arguments):
        _parser(source, recipe).parse_args(["--help"])
    return Path(source).stem, recipe


class _Loader(yaml.SafeLoader):
    """YAML in which a key stands once: PyYAML would take the last one without a word."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for name in [name for name, _ in node.value if isinstance(name, yaml.ScalarNode)]:
            line = name.start_mark.line + 1
            if name.value in lines:
                raise ValueError(f"key {name.value!r} is given twice, in line {lines[name.value]} and in line {line}")
            lines[name.value] = line
        return node


def _locate(source: str | Path) -> Path:
    path = Path(source)
    if path.is_file():
        return path
    names = [recipe.stem for recipe in sorted(folder().glob("*.yaml"))]
    if str(source) in names:
        return folder() / f"{source}.yaml"
    near = difflib.get_close_matches(str(source), names, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise FileNotFoundError(f"no recipe {str(source)!r}: {hint}Give a file, or one of {', '.join(names)}")


def _parser(source: str = DEFAULT, recipe: Recipe | None = None) -> ArgumentParser:
    """The command line; its help shows the values of a recipe, which are what a key not given will be."""
    from jsonargparse import ArgumentParser

    shown = flatten(dataclasses.asdict(recipe or Recipe()), Recipe)
    parser = ArgumentParser(
        prog="rheobase train",
        description="Train a recipe. Every key of a recipe can be given on the command line. "
        f"The defaults below are those of the recipe {source}.",
        exit_on_error=False,
    )
    parser.add_argument("recipe", nargs="?", default=source, help="a file, or a name that `rheobase recipes` lists")
    for leaf in _LEAVES.values():
        parser.add_argument(f"--{leaf.name}", type=leaf.type, default=shown[leaf.name], help=leaf.metadata["help"])
    return parser


def _typed(flat: dict[str, Any]) -> dict[str, Any]:
    """Values in the types of the schema: YAML reads 1e-3 as a text, and 32 as a number where a text is wanted."""
    texts = {
        name for name, leaf in _LEAVES.items() if "a text" in describe(leaf.type) or "one of" in describe(leaf.type)
    }
    flat = {name: str(v) if name in texts and type(v) is int else v for name, v in flat.items()}
    try:
        typed = vars(_parser().parse_object(flat).as_flat())
    except ArgumentError as error:
        raise ValueError(_in_words(error, flat)) from error
    return {name: typed[name] for name in flat}


def _pairs(arguments: Sequence[str]) -> dict[str, Any]:
    """{key: value} of a command line, for error messages."""
    words = [*arguments, ""]
    pairs: dict[str, Any] = {}
    for word, following in itertools.pairwise(words):
        name, equals, value = word.removeprefix("--").partition("=")
        pairs[name] = value if equals else following
    return pairs


def _in_words(error: ArgumentError, values: Mapping[str, Any]) -> str:
    """A type error of jsonargparse in the words of our schema, on one line."""
    found = re.search(r'key "([^"]+)"', str(error))
    if found and found[1] in _LEAVES and found[1] in values:
        return f"{found[1]} must be {describe(_LEAVES[found[1]].type)}, got {values[found[1]]!r}"
    return " ".join(str(error).split())

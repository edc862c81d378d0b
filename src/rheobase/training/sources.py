"""Where recipes come from: files, names, and keys given on top of them."""

from __future__ import annotations

import argparse
import difflib
import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import yaml

from rheobase.training.keys import Plain, build, flatten, known, leaves, read

if TYPE_CHECKING:
    from rheobase.training.recipe import Recipe

DEFAULT = "digits"


def folder() -> Path:
    """Where the recipes lie: in the installed package, or beside `src` in a checkout."""
    package = Path(__file__).parents[1]
    return next((place for place in (package / "recipes", package.parents[1] / "recipes") if place.is_dir()), package)


def listing() -> Iterator[tuple[str, list[str]]]:
    """Name and lines of the heading comment of all recipes that come with rheobase."""
    for path in sorted(folder().glob("*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        end = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
        yield path.stem, [line.lstrip("# ").rstrip() for line in lines[:end]]


def load(source: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """A recipe from a file (YAML or JSON) or by name, with dotted keys on top.

    Raises:
        FileNotFoundError: neither a file nor a name.
        ValueError: not YAML, a key that is unknown or given twice, or a bad value; the error names the nearest key.
    """
    from rheobase.training.recipe import Recipe  # (whose data sets need torch, and a list of recipes does not)

    path = Path(source)
    if not path.is_file():
        names = [recipe.stem for recipe in sorted(folder().glob("*.yaml"))]
        if str(source) not in names:
            near = difflib.get_close_matches(str(source), names, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise FileNotFoundError(f"no recipe {str(source)!r}: {hint}Give a file, or one of {', '.join(names)}")
        path = folder() / f"{source}.yaml"
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
        recipe = build(Recipe, _typed({} if content is None else content, Recipe))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return recipe.replace(_typed(overrides or {}, Recipe))


def from_arguments(arguments: Sequence[str]) -> tuple[str, Recipe]:
    """The recipe's name and the recipe of a command line `[RECIPE] [--key value ...]`.

    Raises:
        ValueError, FileNotFoundError: as `load`, or a line that cannot be understood.
        SystemExit: after printing help (`--help`).
    """
    from rheobase.training.recipe import Recipe

    words = [word for word in arguments if word not in ("-h", "--help")]
    given = [word[2:].partition("=")[0] for word in words if word.startswith("--")]
    for name in given:
        known(Recipe, name)
        if given.count(name) > 1:
            raise ValueError(f"--{name} is given {given.count(name)} times")
    free = set(given) - leaves(Recipe).keys()
    flat = vars(_parser(DEFAULT, Recipe(), free).parse_args(words))
    source = flat.pop("recipe") or DEFAULT
    recipe = load(source, {name: read(value) if name in free else value for name, value in flat.items()})
    if len(words) < len(arguments):
        _parser(source, recipe).print_help()
        raise SystemExit(0)
    return Path(source).stem, recipe


class _Loader(Plain):
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


class _Parser(argparse.ArgumentParser):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._negative_number_matcher = re.compile(r"-(\d+\.?\d*|\.\d+)(e[-+]?\d+)?$", re.I)  # (argparse's: no -1e-3)

    def error(self, message: str) -> NoReturn:
        raise ValueError(message)


def _parser(source: str, recipe: Recipe, free: Collection[str] = ()) -> argparse.ArgumentParser:
    """The command line; its help shows the values of a recipe, which are what a key not given will be."""
    parser = _Parser(
        prog="rheobase train",
        usage="%(prog)s [RECIPE] [--key VALUE ...]",
        description="Train a recipe. Every key of a recipe can be given on the command line. "
        f"The defaults below are those of the recipe {source}.",
        epilog="Data and model of your own, from the folder you are in: --data.name mine:digits --model.name mine:net "
        "--model.width null, where mine.py has functions digits() and net(classes, steps); "
        "what else net takes, as --model.options.NAME VALUE.",
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
    )
    help = "a file, or a name that `rheobase recipes` lists"
    parser.add_argument("recipe", metavar="RECIPE", nargs="?", default=None, help=help)
    values = recipe.flat()
    for name, leaf in leaves(type(recipe)).items():
        shown = values[name] if leaf.textual and values[name] is not None else json.dumps(values[name])
        help = f"{leaf.field.description} ({leaf.wanted}; default: {shown})".replace("%", "%%")
        parser.add_argument(f"--{name}", metavar="VALUE", help=help)
    for name in free:
        parser.add_argument(f"--{name}")
    return parser


def _typed(nested: Any, schema: type[Recipe]) -> dict[str, Any]:
    """Flat, in the types of the schema."""
    flat, known = flatten(nested, schema), leaves(schema)
    return {name: known[name].read(value) if name in known else value for name, value in flat.items()}

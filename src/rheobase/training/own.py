"""Data and models of the user's own, named as `package.module:function`."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sysconfig
import traceback
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
GIVEN = "given"
"""What a recipe calls data or a model that came from Python as an object."""


def missing(key: str) -> ValueError:
    """What to say where a run wants an object again that nobody gave."""
    kind = key.partition(".")[0]
    return ValueError(
        f"{key} is {GIVEN!r}: this run got its {kind} from Python, and needs it again: "
        f"rheobase.training.resume(folder, {kind}=...), and evaluate likewise"
    )


def surplus(key: str, name: str) -> ValueError:
    """What to say where a run that knows its data or model by name is given another."""
    kind = key.partition(".")[0]
    return ValueError(f"{key} is {name!r}, so this run takes no {kind}=...: it knows its {kind} by name")


def told(error: BaseException) -> str:
    """What went wrong in the user's code, and where, on one line."""
    libraries = ("<", sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), str(Path(__file__).parents[1]))
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(libraries)]
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"


def call(key: str, name: str, kind: type[T], offered: Mapping[str, Any], wanted: Collection[str] = ()) -> T:
    """What the function returns; of the arguments on offer it gets those that it names.

    Args:
        key: of the recipe.
        name: package.module:function.
        kind: what it is to return.
        offered: arguments.
        wanted: those that were chosen in the recipe, so that the function must take them.

    Raises:
        ValueError: it cannot be imported or called, lacks an argument, or returns something else.
    """
    function = _imported(key, name)
    signature = inspect.signature(function)
    for argument in wanted:
        if argument not in signature.parameters:
            group = key.partition(".")[0]
            raise ValueError(f"{group}.{argument} is set, but {name} takes no argument {argument!r}")
    arguments = {argument: value for argument, value in offered.items() if argument in signature.parameters}
    try:
        signature.bind(**arguments)
    except TypeError as error:
        raise ValueError(f"{key}: {name}: {error}; it may take {', '.join(offered)}") from error
    try:
        result = function(**arguments)
    except Exception as error:
        raise ValueError(f"{key}: {name} failed: {told(error)}") from error
    if not isinstance(result, kind):
        raise ValueError(
            f"{key}: {name} must return a {kind.__module__.partition('.')[0]} {kind.__name__}, "
            f"got {type(result).__name__}"
        )
    return result


def _imported(key: str, name: str) -> Callable[..., Any]:
    path, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*path.split("."), attribute)):
        raise ValueError(f"{key} must be package.module:function, got {name!r}")
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):  # what the user's module imports
            raise ValueError(f"{key}: {name} failed: {told(error)}") from error
        raise ValueError(
            f"{key}: there is no module {error.name!r} for {name!r}; it must be importable from {Path.cwd()}"
        ) from error
    except Exception as error:
        raise ValueError(f"{key}: {name} failed: {told(error)}") from error
    if not hasattr(module, attribute):
        near = difflib.get_close_matches(attribute, dir(module), n=1)
        raise ValueError(
            f"{key}: {module.__file__} has no {attribute!r}" + (f"; did you mean {near[0]!r}?" if near else "")
        )
    function = getattr(module, attribute)
    if not callable(function):
        raise ValueError(f"{key}: {name} must be a function, got {type(function).__name__}")
    return function

"""Data and models of the user's own: as objects, or as functions that are named as `package.module:function`."""

from __future__ import annotations

import difflib
import importlib
import inspect
import sysconfig
import traceback
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

T = TypeVar("T")
GIVEN = "given"
"""What a recipe calls data or a model that came from Python as an object."""


def check(key: str, name: str, given: object | None, kind: type) -> None:
    """Refuse an object that a recipe does not want, or is of another type; or that there is none.

    Raises:
        TypeError: of another type.
        ValueError: the recipe names something else, or names what was given and is not now.
    """
    what = key.partition(".")[0]
    if given is not None and not isinstance(given, kind):
        got = type(given).__name__
        raise TypeError(f"{what} must be a {kind.__name__}, got {got}; keys go in as **{{'key': value}}")
    if given is None and name == GIVEN:
        raise ValueError(
            f"{key} is {GIVEN!r}: this run got its {what} from Python, and needs it again: "
            f"rheobase.training.resume(folder, {what}=...), and evaluate likewise"
        )
    if given is not None and name != GIVEN:
        raise ValueError(f"{key} is {name!r}, so this run takes no {what}=...: it knows its {what} by name")


def call(key: str, name: str, kind: type[T], offered: Mapping[str, Any], wanted: Collection[str] = ()) -> T:
    """What the function returns; of the arguments on offer it gets those that it names.

    Args:
        key: of the recipe.
        name: package.module:function.
        kind: what it is to return.
        offered: arguments.
        wanted: those that were chosen in the recipe, so that the function must take them.

    Raises:
        ValueError: it cannot be imported or called, fails, lacks an argument, or returns something else.
    """
    function = _imported(key, name)
    signature = _signature(key, name, function)
    for argument in wanted:
        if argument not in signature.parameters:
            raise ValueError(f"{key.partition('.')[0]}.{argument} is set, but {name} takes no argument {argument!r}")
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
        library, got = kind.__module__.partition(".")[0], type(result).__name__
        raise ValueError(f"{key}: {name} must return a {library} {kind.__name__}, got {got}")
    return result


def takes(key: str, name: str) -> dict[str, Any]:
    """{argument: type} of the function `package.module:function`, with Any where it does not tell. Errors as `call`."""
    function = _imported(key, name)
    try:
        kinds = get_type_hints(function.__init__ if inspect.isclass(function) else function)
    except (NameError, TypeError):  # names for a type checker alone, or no plain function
        kinds = {}
    named = inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY
    parameters = _signature(key, name, function).parameters
    return {argument: kinds.get(argument, Any) for argument, one in parameters.items() if one.kind in named}


def _signature(key: str, name: str, function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (TypeError, ValueError) as error:  # no function, or one that is not Python's
        raise ValueError(f"{key}: {name} does not tell its arguments ({error}): name a function of Python") from error


def _imported(key: str, name: str) -> Callable[..., Any]:
    path, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*path.split("."), attribute)):
        raise ValueError(f"{key} must be package.module:function, got {name!r}")
    try:
        module = importlib.import_module(path)
    except Exception as error:
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{path}.".startswith(f"{missing}."):  # and not what the module itself imports
            why = f"there is no module {missing!r} for {name!r}; it must be importable from {Path.cwd()}"
        else:
            why = f"{name} failed: {told(error)}"
        raise ValueError(f"{key}: {why}") from error
    function = getattr(module, attribute, None)
    if not hasattr(module, attribute):
        near = difflib.get_close_matches(attribute, dir(module), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{key}: {module.__file__} has no {attribute!r}{hint}")
    if not callable(function):
        raise ValueError(f"{key}: {name} must be a function, got {type(function).__name__}")
    return function


def told(error: Exception) -> str:
    """What went wrong in the user's code, and where, on one line."""
    libraries = ("<", sysconfig.get_path("stdlib"), sysconfig.get_path("purelib"), str(Path(__file__).parents[1]))
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(libraries)]
    where = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {' '.join(str(error).split())}{where}"

"""Packages that come with the extra `data`."""

from __future__ import annotations

import importlib
from typing import Any


def need(module: str, purpose: str) -> Any:
    """A module of the extra.

    Raises:
        ImportError: it is not installed; the error names the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        package = {"PIL": "pillow"}.get(module.split(".")[0], module.split(".")[0])
        raise ImportError(f"{purpose} needs {package}, which is not installed: pip install rheobase[data]") from error

"""Training: recipes, run folders, exact resume. Lightning is loaded only when something trains."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rheobase.training.recipe import Recipe
    from rheobase.training.runs import Run, evaluate, resume, train

__all__ = ["Recipe", "Run", "evaluate", "resume", "train"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module(f"rheobase.training.{'recipe' if name == 'Recipe' else 'runs'}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

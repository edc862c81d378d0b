"""Training: recipes, run folders, exact resume. Lightning is loaded only when something trains."""

from typing import TYPE_CHECKING, Any

from rheobase.training.recipe import Recipe

if TYPE_CHECKING:
    from rheobase.training.runs import Run, evaluate, resume, train

__all__ = ["Recipe", "Run", "evaluate", "resume", "train"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from rheobase.training import runs

        return getattr(runs, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

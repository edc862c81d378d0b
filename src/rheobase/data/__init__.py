"""Data sets by name, in memory: `load("digits")`; `names()` lists them. Nothing is ever downloaded."""

from __future__ import annotations

from collections.abc import Callable

from rheobase.data import digits, idx
from rheobase.data.batches import Batches, augment, seed_of
from rheobase.data.dataset import Dataset, Split

__all__ = ["Batches", "Dataset", "Split", "augment", "load", "names", "seed_of"]

_loaders: dict[str, Callable[[str | None], Dataset]] = {
    "digits": digits.load,
    "mnist": idx.mnist,
    "fashion-mnist": idx.fashion_mnist,
}


def names() -> list[str]:
    """All data sets."""
    return sorted(_loaders)


def load(name: str, root: str | None = None) -> Dataset:
    """A data set by name.

    Args:
        name: one of `names()`.
        root: folder of the data sets that are not embedded; default: the variable RHEOBASE_DATA.

    Raises:
        ValueError: an unknown name, no root, or a damaged file.
        FileNotFoundError: a file is missing.
    """
    if name not in _loaders:
        raise ValueError(f"data.name must be one of {', '.join(names())}, got {name!r}")
    return _loaders[name](root)

"""Data sets by name: `load("digits")`; `names()` lists them. Nothing is ever downloaded."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from typing import Any

from rheobase.data import digits, events, idx, image_sets, ntidigits, sounds, spoken
from rheobase.data.augmentation import Augmentation
from rheobase.data.batches import Batch, Batches
from rheobase.data.bsa import bsa
from rheobase.data.dataset import Dataset, Split, Streamed
from rheobase.data.options import Option, told
from rheobase.data.seeds import on_host, seed_of
from rheobase.data.sounds import log_mel
from rheobase.data.spoken import cochlear_spikes

__all__ = [
    "Augmentation",
    "Batch",
    "Batches",
    "Dataset",
    "Option",
    "Split",
    "Streamed",
    "bsa",
    "cochlear_spikes",
    "load",
    "log_mel",
    "names",
    "options",
    "seed_of",
]

_loaders: dict[str, Callable[..., Dataset]] = {
    "digits": digits.load,
    **{name: partial(idx.load, name) for name in idx.SOURCES},
    **{name: partial(image_sets.load, name) for name in image_sets.SOURCES},
    "spoken-digits": sounds.load,
    "spoken-digits-spikes": spoken.load_digits,
    "ti46": spoken.load_ti46,
    "nmnist": events.load,
    "ntidigits": ntidigits.load,
}


def names() -> list[str]:
    """All data sets."""
    return sorted(_loaders)


def options(name: str) -> dict[str, Option]:
    """The options of a data set, beside its root: as the function that loads it tells them, here and to recipes.

    Raises:
        ValueError: an unknown name; the error names the nearest.
    """
    if name not in _loaders:
        raise ValueError(f"data.name must be one of {', '.join(names())}, got {name!r}{_nearest(name, names())}")
    return {option: what for option, what in told(_loaders[name]).items() if option != "root"}


@on_host
def load(name: str, root: str | None = None, **chosen: Any) -> Dataset:
    """A data set by name.

    Args:
        name: one of `names()`.
        root: folder of the data sets that are not embedded; default: the variable RHEOBASE_DATA.
        chosen: options of this set, as in `options(name)`.

    Raises:
        ValueError: an unknown name or option, no root, or a damaged file.
        FileNotFoundError: a file is missing.
        ImportError: a package of the extra `data` is missing.
    """
    known = list(options(name))
    for option in chosen:
        if option not in known:
            raise ValueError(
                f"data set {name!r} has the options {', '.join(known)}, got {option!r}{_nearest(option, known)}"
            )
    return _loaders[name](root, **chosen)


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""

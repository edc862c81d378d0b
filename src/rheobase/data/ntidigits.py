"""N-TIDIGITS (Anumula et al. 2018): spoken digits as a silicon cochlea of 64 channels hears them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rheobase.data.dataset import Dataset, Split
from rheobase.data.extra import need
from rheobase.data.kept import kept
from rheobase.data.options import Count, Positive
from rheobase.data.roots import find
from rheobase.data.sounds import padded

CHANNELS = 64
FILE = "n-tidigits.hdf5"
WORDS = {
    **{"z": "zero", "1": "one", "2": "two", "3": "three", "4": "four", "5": "five", "6": "six", "7": "seven"},
    **{"8": "eight", "9": "nine", "o": "oh"},
}


def load(
    root: str | None = None,
    *,
    frame: Positive = 0.002,
    max_steps: Count = 700,
    validation: Positive = 0.1,
    cache: str | None = None,
) -> Dataset:
    """The recordings of one digit, 11 classes, as sequences uint8 `[N, T, 64, 1, 1]` with lengths: spikes in each step.

    Those of several digits are left out. This loader was tried on files made in its format only.

    Args:
        root: the data root, or the folder of `n-tidigits.hdf5` itself.
        frame: duration of a time step, in seconds, from the first spike on.
        max_steps: what lies after so many is dropped.
        validation: share or number of the training samples that are held out.
        cache: folder where the steps are kept for the next time; None: beside the set.

    Raises:
        ValueError, FileNotFoundError: what is missing, damaged or of another kind, by name.
        ImportError: h5py is not installed.
    """
    folder = find("ntidigits", ("ntidigits", "N-TIDIGITS", "n-tidigits", "."), (FILE,), f"get {FILE}", root)
    file = folder / FILE
    place = Path(cache).expanduser() if cache else folder / ".rheobase"

    def of(part: str) -> Split:
        how = ("ntidigits 1", frame, max_steps)
        return kept(place, part, how, [file], lambda: _split(file, part, frame, max_steps))

    train, held = of("train").divide(validation)
    return Dataset.of("ntidigits", len(WORDS), train, held, of("test"), tuple(WORDS.values()), white=None)


def _split(file: Path, part: str, frame: float, max_steps: int) -> Split:
    """All recordings of a part that are of one digit."""
    h5py = need("h5py", "N-TIDIGITS")
    try:
        content = h5py.File(file, "r")
    except OSError as error:
        raise ValueError(f"{file}: not a whole HDF5 file ({error})") from error
    with content:
        groups = [f"{part}_{what}" for what in ("labels", "timestamps", "addresses")]
        missing = [group for group in groups if group not in content]
        if missing:
            raise ValueError(f"{file}: wanted {', '.join(groups)}, got no {', '.join(missing)}")
        names = [name.decode() if isinstance(name, bytes) else str(name) for name in content[groups[0]][:]]
        names = [name for name in names if len(name.split("-")[-1]) == 1]
        if not names:
            raise ValueError(f"{file}: wanted labels such as man-ae-a-1 in {groups[0]}, whose last part is one digit")
        labels = [_word(file, name) for name in names]
        return padded([_steps(file, content, part, name, frame, max_steps) for name in names], torch.tensor(labels))


def _word(file: Path, name: str) -> int:
    word = name.split("-")[-1].lower()
    if word not in WORDS:
        raise ValueError(f"{file}: the digit of {name} must be one of {', '.join(WORDS)}, got {word}")
    return list(WORDS).index(word)


def _steps(file: Path, content: Any, part: str, name: str, frame: float, max_steps: int) -> Tensor:
    """Spikes of each channel in each step, uint8 `[T, 64]`."""
    found = [content[f"{part}_{what}"].get(name) for what in ("timestamps", "addresses")]
    if any(each is None for each in found):
        raise ValueError(f"{file}: {name} has no spikes in {part}_timestamps and {part}_addresses")
    time, channel = (np.asarray(each[:]) for each in found)
    if time.shape != channel.shape or time.ndim != 1 or not len(time):
        raise ValueError(
            f"{file}: wanted as many times as channels of the spikes of {name}, got {list(time.shape)} and "
            f"{list(channel.shape)}"
        )
    channel = channel.astype(np.int64)
    if not (np.diff(time) >= 0).all() or not np.isfinite(time).all() or channel.min() < 0 or channel.max() >= CHANNELS:
        raise ValueError(
            f"{file}: wanted spikes of {name} in the order of time, of channels 0 to {CHANNELS - 1}, got channels "
            f"{channel.min()} to {channel.max()} and {int((~(np.diff(time) >= 0)).sum())} times before the last"
        )
    at = ((time - time[0]) / frame).astype(np.int64)
    steps = min(int(at[-1]) + 1, max_steps)
    inside = at < steps
    counts = np.bincount(at[inside] * CHANNELS + channel[inside], minlength=steps * CHANNELS)
    if counts.max() > 255:
        raise ValueError(f"{file}: {name} has {counts.max()} spikes of a channel in a step, at most 255 fit")
    return torch.from_numpy(counts.astype(np.uint8).reshape(steps, CHANNELS))

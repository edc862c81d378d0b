"""N-MNIST (Orchard et al. 2015): recordings of an event camera, 34 x 34 pixels, as frames in time."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import torch

from rheobase.data.dataset import Dataset, Split
from rheobase.data.kept import kept
from rheobase.data.options import Count, Positive
from rheobase.data.roots import find
from rheobase.data.threads import in_threads

SIDE = 34


def load(
    root: str | None = None,
    *,
    frames: Count = 10,
    by: Literal["time", "count"] = "time",
    validation: Positive = 0.1,
    cache: str | None = None,
) -> Dataset:
    """N-MNIST as sequences uint8 `[N, frames, 2, 34, 34]`; channel 0 counts events of polarity 0, channel 1 those of 1.

    Args:
        root: the data root, or the folder that holds `Train/CLASS/*.bin` and `Test/CLASS/*.bin` itself.
        frames: time steps.
        by: frames of the same time, or of the same count of events (`to_frames`).
        validation: share or number of the training samples that are held out.
        cache: folder where the frames are kept for the next time; None: beside the set. Where it cannot be written, the
            logger "rheobase" says so, and the frames are in memory only.

    Raises:
        ValueError, FileNotFoundError: what is missing, damaged or of another shape, by name.
    """
    if frames < 1 or by not in ("time", "count"):
        raise ValueError(f"N-MNIST: frames must be at least 1 and by time or count, got {frames} and {by!r}")
    wanted = tuple(f"{part}/{digit}/*.bin" for part in ("Train", "Test") for digit in range(10))
    folder = find("nmnist", ("nmnist", "N-MNIST", "NMNIST", "."), wanted, "get Train and Test of N-MNIST", root)
    place = Path(cache).expanduser() if cache else folder / ".rheobase"
    train, test = (_split(folder / part, frames, by, place) for part in ("Train", "Test"))
    train, held = train.divide(validation)
    return Dataset.of("nmnist", 10, train, held, test, white=None)


def _split(folder: Path, frames: int, by: str, cache: Path) -> Split:
    """The frames of all recordings, from the cache where it has those of just these files."""
    paths = sorted(folder.glob("[0-9]/*.bin"))

    def make() -> Split:
        inputs = torch.empty(len(paths), frames, 2, SIDE, SIDE, dtype=torch.uint8)

        def build(index: int) -> None:
            try:
                inputs[index] = torch.from_numpy(to_frames(*read_events(paths[index].read_bytes()), frames, by))
            except ValueError as error:
                raise ValueError(f"{paths[index]}: {error}") from error

        in_threads(build, len(paths))
        return Split(inputs, torch.tensor([int(path.parent.name) for path in paths]))

    return kept(cache, folder.name.lower(), ("frames 1", frames, by), paths, make)


def read_events(content: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """x, y, polarity (0 or 1) and time in microseconds, int64 each, of events of 40 bits.

    From the highest bit on, an event has x (8 bits), y (8), polarity (1) and time (23). One with y = 240 is no event:
    it says that the clock ran over, and later times are 2^13 microseconds later than they read.

    Raises:
        ValueError: bytes that are no such events of 34 x 34 pixels, or no event.
    """
    if len(content) % 5 or not content:
        raise ValueError(f"wanted events of 5 bytes, got {len(content)} bytes")
    x, y, high, middle, low = np.frombuffer(content, np.uint8).reshape(-1, 5).T.astype(np.int64)
    time = (high & 127) << 16 | middle << 8 | low
    over = y == 240
    time = (time + 2**13 * np.cumsum(over))[~over]
    x, y, polarity = x[~over], y[~over], high[~over] >> 7
    outside = np.flatnonzero((x >= SIDE) | (y >= SIDE))
    if len(outside):
        first = outside[0]
        raise ValueError(f"wanted events within {SIDE} x {SIDE} pixels, got one at x = {x[first]}, y = {y[first]}")
    if not len(time) or (np.diff(time) < 0).any():
        raise ValueError(
            "wanted events in the order of time, got " + ("some earlier than before" if len(time) else "none")
        )
    return x, y, polarity, time


def to_frames(x: np.ndarray, y: np.ndarray, polarity: np.ndarray, time: np.ndarray, frames: int, by: str) -> np.ndarray:
    """Events counted in frames, uint8 `[frames, 2, 34, 34]`.

    Event i of N is in frame floor(frames (t_i - t_0) / (t_{N-1} - t_0 + 1)) by time, floor(frames i / N) by count.

    Raises:
        ValueError: more than 255 events of a pixel in a frame.
    """
    if by == "time":
        frame = frames * (time - time[0]) // (time[-1] - time[0] + 1)
    else:
        frame = frames * np.arange(len(time)) // len(time)
    places = ((frame * 2 + polarity) * SIDE + y) * SIDE + x
    counts = np.bincount(places, minlength=frames * 2 * SIDE * SIDE)
    if counts.max() > 255:
        raise ValueError(f"wanted at most 255 events of a pixel in a frame, got {counts.max()}: take more frames")
    return counts.astype(np.uint8).reshape(frames, 2, SIDE, SIDE)

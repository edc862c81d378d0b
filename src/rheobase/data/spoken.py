"""Speech as spikes of a cochlea (Zhang and Li 2019): free spoken digits, and the words of TI46."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rheobase.data.bsa import bsa
from rheobase.data.dataset import Dataset, Split
from rheobase.data.kept import kept
from rheobase.data.options import Count, Positive, Share
from rheobase.data.roots import find
from rheobase.data.sounds import RATE, padded, read_wav, recordings
from rheobase.data.threads import in_threads

FRAMES = 62.5  # a second
HELD = 10  # steps that a frame lasts
LEVEL = 2000.0  # what a frame is multiplied by, before it is encoded
CODES = {
    "digits": [f"{digit:02}" for digit in range(10)],
    "letters": [f"0{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"],
}
"""The words of TI46 by the codes that begin the names of its files."""


def cochlear_spikes(sound: Tensor, rate: int, *, max_steps: int = 700, threshold: float = 0.6) -> Tensor:
    """Spikes uint8 `[T, channels]` of a sound `[samples]`, 625 steps a second: its `cochleagram`, by `bsa`.

    Args:
        sound: samples in -1 ... 1.
        rate: samples a second.
        max_steps: what lies after so many is dropped.
        threshold: of `bsa`.

    Raises:
        ValueError: a number out of range, or a sound too short to have a frame.
    """
    from rheobase.data.cochlea import cochleagram  # which loads a compiler

    frames = cochleagram(sound, rate, frames=FRAMES)
    if not len(frames):
        raise ValueError(f"a sound of {len(sound)} samples is too short: a frame takes {round(rate / FRAMES)}")
    return bsa((LEVEL * frames).repeat_interleave(HELD, 0), threshold=threshold)[:max_steps]


def load_digits(
    root: str | None = None,
    *,
    split: str = "official",
    validation: Positive = 0.1,
    max_steps: Count = 700,
    bsa_threshold: Share = 0.6,
    cache: str | None = None,
) -> Dataset:
    """The Free Spoken Digit Dataset as spikes, sequences uint8 `[N, T, 64, 1, 1]` with lengths.

    Args:
        root: the data root, or the folder of the recordings `DIGIT_SPEAKER_INDEX.wav` itself.
        split: `official`: recordings 0 to 4 of each digit and speaker are for testing (all speakers are heard in
            training); `speaker:NAME,...`: those of these speakers are, who are never heard before.
        validation: share or number of the training samples that are held out.
        max_steps: what lies after so many, 625 a second, is dropped.
        bsa_threshold: by how much a spike must bring the error of the encoding down, below 1.
        cache: folder where the spikes are kept for the next time; None: beside the set.

    Raises:
        ValueError, FileNotFoundError: what is missing, damaged or of another kind, by name.
    """
    found = recordings(root)
    every = _encoded(found.paths, found.labels, lambda path: (read_wav(path), RATE), max_steps, bsa_threshold, cache)
    return found.divided("spoken-digits-spikes", every, split, validation)


def load_ti46(
    root: str | None = None,
    *,
    words: Literal["digits", "letters"] = "digits",
    validation: Positive = 0.1,
    max_steps: Count = 700,
    bsa_threshold: Share = 0.6,
    cache: str | None = None,
) -> Dataset:
    """Words of TI46 (LDC93S9) as spikes, sequences uint8 `[N, T, 78, 1, 1]` with lengths.

    Files, wherever below the root, are named as on the disc: code of the word, speaker (f1 ... m8), session (`se`: the
    training tokens, `s1` to `s8`: the testing ones) and token, two letters each. The data is sold by the LDC; this
    loader was tried on files made in its format only.

    Args:
        root: the data root, or the folder of the disc itself.
        words: zero to nine, or A to Z.
        validation: share or number of the training samples that are held out.
        max_steps: what lies after so many, 625 a second, is dropped.
        bsa_threshold: by how much a spike must bring the error of the encoding down, below 1.
        cache: folder where the spikes are kept for the next time; None: beside the set.

    Raises:
        ValueError, FileNotFoundError: what is missing, damaged or of another kind, by name.
    """
    folder = find("ti46", ("ti46", "TI46", "."), ("**/*.[wW][aA][vV]",), "get TI46 (LDC93S9)", root)
    codes = CODES[words]
    paths = [path for path in sorted(folder.rglob("*")) if path.suffix.lower() == ".wav"]
    paths = [path for path in paths if path.stem[:2].lower() in codes and len(path.stem) == 8]
    training = torch.tensor([path.stem[4:6].lower() == "se" for path in paths], dtype=torch.bool)
    if not training.any() or training.all():
        raise ValueError(
            f"{folder}: wanted {words} of sessions se and s1 to s8, named such as {codes[0]}f1set0.wav, got "
            f"{int(training.sum())} files of se and {int((~training).sum())} others"
        )
    labels = torch.tensor([codes.index(path.stem[:2].lower()) for path in paths])
    every = _encoded(paths, labels, read_sphere, max_steps, bsa_threshold, cache)
    train, held = every.at(training.nonzero().flatten()).divide(validation)
    return Dataset.of("ti46", len(codes), train, held, every.at((~training).nonzero().flatten()), white=None)


def _encoded(
    paths: Sequence[Path],
    labels: Tensor,
    read: Callable[[Path], tuple[Tensor, int]],
    max_steps: int,
    threshold: float,
    cache: str | None,
) -> Split:
    """All files as spikes, from the cache where it has them."""

    def make() -> Split:
        spikes: list[Tensor] = [torch.empty(0)] * len(paths)

        def encode(index: int) -> None:
            sound, rate = read(paths[index])
            try:
                spikes[index] = cochlear_spikes(sound, rate, max_steps=max_steps, threshold=threshold)
            except ValueError as error:
                raise ValueError(f"{paths[index]}: {error}") from error

        in_threads(encode, len(paths))
        return padded(spikes, labels)

    place = Path(cache).expanduser() if cache else paths[0].parent / ".rheobase"
    return kept(place, "spikes", ("cochlea 1", max_steps, threshold), paths, make)


def read_sphere(path: Path) -> tuple[Tensor, int]:
    """Samples float32 `[samples]` in -1 ... 1 and their rate, of a mono NIST SPHERE file of 16-bit samples.

    Raises:
        ValueError: a damaged or compressed file, or one of another kind.
    """
    content = path.read_bytes()
    lines = content[:1024].decode("latin-1").split("end_head")[0].splitlines()
    if lines[:1] != ["NIST_1A"] or len(lines) < 2 or not lines[1].strip().isdigit():
        raise ValueError(f"{path}: wanted a NIST SPHERE file, which begins with NIST_1A and the length of its header")
    fields = {parts[0]: parts[2] for parts in (line.split(None, 2) for line in lines[2:]) if len(parts) == 3}
    wanted = {"channel_count": ("1",), "sample_n_bytes": ("2",), "sample_byte_format": ("01", "10")}
    coding = fields.get("sample_coding", "pcm")
    for field, values in wanted.items():
        if fields.get(field) not in values or coding != "pcm":
            raise ValueError(
                f"{path}: wanted 1 channel of plain 16-bit samples, got {field} {fields.get(field)}, coding {coding}"
            )
    order = "<" if fields["sample_byte_format"] == "01" else ">"
    sound, count, rate = content[int(lines[1]) :], fields.get("sample_count", ""), fields.get("sample_rate", "")
    if not count.isdigit() or not rate.isdigit() or int(count) < 1 or len(sound) != 2 * int(count):
        raise ValueError(f"{path}: the file is damaged: wanted {count or 'some'} samples, got {len(sound) // 2}")
    return torch.from_numpy(np.frombuffer(sound, f"{order}i2").astype(np.float32) / 32768), int(rate)

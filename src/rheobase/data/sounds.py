"""Spoken digits: 3,000 wav files of the Free Spoken Digit Dataset, as log-mel frames in time."""

from __future__ import annotations

import re
import wave
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rheobase.data.dataset import Dataset, Split
from rheobase.data.options import Count, Positive
from rheobase.data.roots import find
from rheobase.data.threads import in_threads

RATE = 8000  # samples a second


def load(
    root: str | None = None,
    *,
    split: str = "official",
    validation: Positive = 0.1,
    mels: Count = 40,
    frame: Positive = 0.025,
    hop: Positive = 0.01,
) -> Dataset:
    """Spoken digits, sequences float32 `[N, T, mels, 1, 1]` with lengths.

    Args:
        root: the data root, or the folder of the recordings `DIGIT_SPEAKER_INDEX.wav` itself.
        split: `official`: recordings 0 to 4 of each digit and speaker are for testing (all speakers are heard in
            training); `speaker:NAME,...`: those of these speakers are, who are never heard before.
        validation: share or number of the training samples that are held out.
        mels: bands.
        frame, hop: length and distance of frames in seconds.

    Raises:
        ValueError, FileNotFoundError: what is missing, damaged or of another kind, by name.
    """
    found = recordings(root)
    frames: list[Tensor] = [torch.empty(0)] * len(found.paths)

    def transform(index: int) -> None:
        sound = read_wav(found.paths[index])
        frames[index] = log_mel(sound, RATE, mels=mels, frame=frame, hop=hop)

    in_threads(transform, len(found.paths))
    return found.divided("spoken-digits", padded(frames, found.labels), split, validation)


class Recordings(NamedTuple):
    """The files of spoken digits, and what their names tell."""

    paths: list[Path]
    labels: Tensor
    speakers: list[str]
    indices: list[int]

    def divided(self, name: str, every: Split, split: str, validation: float) -> Dataset:
        """All of them as a data set. Errors as in `load`."""
        if split == "official":
            held = torch.tensor([index < 5 for index in self.indices])
        else:
            names, known = set(split.removeprefix("speaker:").split(",")), set(self.speakers)
            if not split.startswith("speaker:") or not names < known:
                raise ValueError(
                    "split must be official or speaker:NAME,... with some, not all, of the speakers "
                    f"{', '.join(sorted(known))}, got {split!r}"
                )
            held = torch.tensor([speaker in names for speaker in self.speakers])
        train, validating = every.at((~held).nonzero().flatten()).divide(validation)
        return Dataset.of(name, 10, train, validating, every.at(held.nonzero().flatten()), white=None)


def recordings(root: str | None) -> Recordings:
    """The recordings below a data root, or in their folder itself. Errors as in `load`."""
    folders = ("fsdd/recordings", "free-spoken-digit-dataset/recordings", "spoken-digits", "recordings", ".")
    advice = "get the recordings of the Free Spoken Digit Dataset"
    folder = find("spoken-digits", folders, ("*_*_*.wav",), advice, root)
    paths = sorted(folder.glob("*.wav"))
    told = [re.fullmatch(r"(\d)_(\w+)_(\d+)", path.stem) for path in paths]
    for path, parts in zip(paths, told, strict=True):
        if parts is None:
            raise ValueError(f"{path}: wanted a name DIGIT_SPEAKER_INDEX.wav, got {path.name}")
    digits, speakers, indices = zip(*(parts.groups() for parts in told if parts), strict=True)
    return Recordings(paths, torch.tensor([int(digit) for digit in digits]), list(speakers), [*map(int, indices)])


def padded(frames: list[Tensor], labels: Tensor) -> Split:
    """Sequences `[T, C]` of several lengths as one split of `[N, T, C, 1, 1]`."""
    inputs = torch.nn.utils.rnn.pad_sequence(frames, batch_first=True)[..., None, None]
    return Split(inputs, labels, torch.tensor([len(steps) for steps in frames]))


def read_wav(path: Path, rate: int = RATE) -> Tensor:
    """A mono file of 16-bit samples as float32 `[samples]` in -1 ... 1.

    Raises:
        ValueError: a damaged or empty file, or one of another kind.
    """
    try:
        with wave.open(str(path), "rb") as file:
            kind = (file.getnchannels(), 8 * file.getsampwidth(), file.getframerate())
            count, content = file.getnframes(), file.readframes(file.getnframes())
    except (wave.Error, EOFError, OSError) as error:
        raise ValueError(f"{path}: not a whole wav file ({error or 'it ends too early'})") from error
    if kind != (1, 16, rate):
        raise ValueError(
            f"{path}: wanted 1 channel of 16 bits at {rate} Hz, got {kind[0]} of {kind[1]} at {kind[2]} Hz"
        )
    if not count or len(content) != 2 * count:
        raise ValueError(f"{path}: the wav file is damaged: wanted {count or 'some'} samples, got {len(content) // 2}")
    return torch.from_numpy(np.frombuffer(content, "<i2").astype(np.float32) / 32768)


def log_mel(
    sound: Tensor, rate: int, *, mels: int = 40, frame: float = 0.025, hop: float = 0.01, offset: float = 1e-6
) -> Tensor:
    """Log-mel frames float32 `[T, mels]` of a sound `[samples]`.

        X[t, k] = sum_n w[n] x[t H + n] exp(-2 pi i k n / K),   w[n] = (1 - cos(2 pi n / L)) / 2   (Hann, n < L)
        E[t, m] = sum_k F[m, k] |X[t, k]|^2 / sum_n w[n]^2;     output log(E + offset)

    L = frame * rate, H = hop * rate samples; K is the power of two from 2 L on. F are triangles of height 1 over
    frequency, each from its neighbour's centre to the other's; the centres are equally spaced from 0 to rate / 2 in
    mel(f) = 2595 log10(1 + f / 700) (O'Shaughnessy 1987; Davis and Mermelstein 1980). Frames lie within the sound: T =
    1 + (samples - L) // H; a sound shorter than L is filled up with zeros.

    Args:
        sound: samples.
        rate: samples a second.
        mels: number of bands.
        frame, hop: length and distance of frames in seconds.
        offset: added to the energy, so that silence has a logarithm.

    Raises:
        ValueError: a number out of range, or more bands than the frame's spectrum can tell apart.
    """
    length, step = round(frame * rate), round(hop * rate)
    if sound.dim() != 1 or min(length, step, mels) < 1 or offset <= 0:
        raise ValueError(
            "log_mel: wanted a sound [samples], frame and hop of at least one sample, mels >= 1 and offset > 0, got "
            f"{list(sound.shape)}, {frame}, {hop}, {mels}, {offset}"
        )
    size = 2 ** (2 * length - 1).bit_length()
    sound = torch.nn.functional.pad(sound, (0, max(0, length - len(sound))))
    window = torch.hann_window(length)
    spectra = torch.fft.rfft(sound.unfold(0, length, step) * window, size)
    energy = spectra.abs().square() @ mel_bands(mels, size, rate).T / window.square().sum()
    return (energy + offset).log()


def mel_bands(mels: int, size: int, rate: int) -> Tensor:
    """The triangles F `[mels, size / 2 + 1]` of `log_mel`.

    Raises:
        ValueError: a band that holds no frequency of the spectrum.
    """
    top = 2595 * np.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (np.linspace(0, top, mels + 2) / 2595) - 1)  # Hz
    frequencies = np.arange(size // 2 + 1) * rate / size
    rise = (frequencies - edges[:-2, None]) / np.diff(edges)[:-1, None]
    fall = (edges[2:, None] - frequencies) / np.diff(edges)[1:, None]
    bands = np.minimum(rise, fall).clip(0)
    if not bands.any(1).all():
        raise ValueError(
            f"log_mel: mels={mels} are more bands than a spectrum of {rate / size:.1f} Hz steps tells apart"
        )
    return torch.from_numpy(bands).float()

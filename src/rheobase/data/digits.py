"""The embedded data set: 1,797 handwritten digits of 8 x 8 pixels (`digits.md` says where they come from)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from rheobase.data.dataset import Dataset, Split


def load(root: str | None = None) -> Dataset:
    """Digits, 1,197 / 240 / 360; grey levels 0 to 16. There is no file to find, so `root` is not used."""
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as file:
        images, labels = file["images"], file["labels"]
    everything = Split(torch.from_numpy(images)[:, None], torch.from_numpy(labels).long())
    rest, test = everything.divide(360)
    train, validation = rest.divide(240)
    return Dataset.of("digits", 10, train, validation, test, white=16.0)

"""A data set in memory, and the one way in which we take a share of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Split:
    """Images uint8 `[N, C, H, W]` and labels int64 `[N]`."""

    images: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        if self.images.dim() != 4 or self.images.dtype != torch.uint8:
            raise ValueError(
                f"Split: images must be uint8 [N, C, H, W], got {self.images.dtype} {list(self.images.shape)}"
            )
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError(
                f"Split: labels must be int64 [{len(self.images)}], one an image, "
                f"got {self.labels.dtype} {list(self.labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, indices: Tensor) -> Split:
        """The samples at `indices`, in that order."""
        return Split(self.images[indices], self.labels[indices])

    def divide(self, count: int) -> tuple[Split, Split]:
        """(what is left, `count` samples), both in the original order; the choice is `systematic`."""
        chosen = torch.zeros(len(self), dtype=torch.bool)
        chosen[systematic(self.labels, count)] = True
        return self.at((~chosen).nonzero().flatten()), self.at(chosen.nonzero().flatten())


def systematic(labels: Tensor, count: int) -> Tensor:
    """Indices of a stratified sample of `count`: every (N / count)-th of the samples sorted by class.

    Each class gets its share to within one sample. No random numbers, so it is the same in every version.

    Raises:
        ValueError: count outside 1 ... N.
    """
    if not 1 <= count <= len(labels):
        raise ValueError(f"a sample must have between 1 and {len(labels)} of the {len(labels)}, got {count}")
    by_class = labels.argsort(stable=True)
    places = (2 * torch.arange(count) + 1) * len(labels) // (2 * count)  # the middles of `count` equal parts
    return by_class[places].sort().values


@dataclass(frozen=True)
class Dataset:
    """A data set: three disjoint splits, and the mean and standard deviation `[C]` of the training pixels."""

    name: str
    classes: int
    train: Split
    validation: Split
    test: Split
    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, name: str, classes: int, train: Split, validation: Split, test: Split) -> Dataset:
        """A data set with the statistics of its training split."""
        pixels = train.images.transpose(0, 1).flatten(1)
        counts = torch.stack([torch.bincount(channel, minlength=256) for channel in pixels]).double()
        values = torch.arange(256.0, dtype=torch.float64)
        total = counts.sum(1)
        mean = (counts * values).sum(1) / total
        std = ((counts * values.square()).sum(1) / total - mean.square()).clamp(min=0).sqrt()
        return cls(name, classes, train, validation, test, mean.float(), std.clamp(min=1e-6).float())

    def limited(self, count: int) -> Dataset:
        """The same with a stratified sample of `count` for training; statistics, validation and test stay."""
        train = self.train.at(systematic(self.train.labels, count))
        return Dataset(self.name, self.classes, train, self.validation, self.test, self.mean, self.std)

    @property
    def channels(self) -> int:
        """C."""
        return self.train.images.shape[1]

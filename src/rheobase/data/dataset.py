"""A data set: its splits, in memory or read as they are needed, and the one way in which we take a share of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, Self

import torch
from torch import Tensor

from rheobase.data.seeds import on_host
from rheobase.padded import real_steps

MOST_MISSING = 10**6
"""So many classes more than samples are not listed: such labels count something else."""
STATISTICS = 2000  # samples from which the mean and deviation of a split that streams are taken


class Samples:
    """What every split has: labels int64 `[N]`, the shape of a sample, and inputs that can be read by index."""

    labels: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a sample: (C, H, W), or (T, C, H, W) with time."""
        raise NotImplementedError

    def at(self, indices: Tensor) -> Self:
        """The samples at `indices`, in that order."""
        raise NotImplementedError

    def read(self, indices: Tensor) -> Split:
        """The samples at `indices` in memory."""
        raise NotImplementedError

    def __len__(self) -> int:
        return len(self.labels)

    def some(self, count: int) -> Self:
        """So many of the samples, of all classes in their shares, in the original order; errors as `systematic`."""
        return self.at(systematic(self.labels.cpu(), count))

    @on_host
    def divide(self, part: int | float) -> tuple[Self, Self]:
        """(what is left, `part` of the samples), both in the original order; the choice is `systematic`.

        Args:
            part: a share (a float up to 1), or a number of samples.

        Raises:
            ValueError: a part that is neither, or leaves one of the two empty.
        """
        count = round(part * len(self)) if isinstance(part, float) and part <= 1 else part
        if not 1 <= count < len(self) or count != int(count):
            raise ValueError(
                f"a part must be a share between 0 and 1 or a count from 1 to {len(self) - 1}, "
                f"got {part!r} of {len(self)} samples"
            )
        chosen = torch.zeros(len(self), dtype=torch.bool)
        chosen[systematic(self.labels.cpu(), int(count))] = True
        return self.at((~chosen).nonzero().flatten()), self.at(chosen.nonzero().flatten())


@dataclass(frozen=True)
class Split(Samples):
    """Samples in memory.

    Args:
        inputs: images uint8 `[N, C, H, W]`, or sequences uint8 or float32 `[N, T, C, H, W]`.
        labels: int64 `[N]`.
        lengths: of sequences, int64 `[N]`: the real steps of each; what lies after them counts for nothing.

    Raises:
        TypeError: no tensors.
        ValueError: another type or shape.
    """

    inputs: Tensor
    labels: Tensor
    lengths: Tensor | None = None

    def __post_init__(self) -> None:
        for name, given in (("inputs", self.inputs), ("labels", self.labels), ("lengths", self.lengths)):
            if not isinstance(given, Tensor) and not (name == "lengths" and given is None):
                raise TypeError(
                    f"Split: {name} must be a tensor of torch, got {type(given).__module__}.{type(given).__name__}"
                )
        kinds = {4: (torch.uint8,), 5: (torch.uint8, torch.float32)}
        if self.inputs.dtype not in kinds.get(self.inputs.dim(), ()):
            raise ValueError(
                "Split: inputs must be images uint8 [N, C, H, W], or sequences uint8 or float32 [N, T, C, H, W], "
                f"got {self.inputs.dtype} {list(self.inputs.shape)}"
            )
        *_, first, second, third = self.inputs.shape
        if third in (1, 2, 3, 4) and first == second > 4:
            raise ValueError(
                f"Split: inputs {list(self.inputs.shape)} have their channels last: give inputs.movedim(-1, -3)"
            )
        for name, tensor in (("labels", self.labels), ("lengths", self.lengths)):
            if tensor is not None and (tensor.dtype != torch.int64 or tensor.shape != self.inputs.shape[:1]):
                raise ValueError(
                    f"Split: {name} must be int64 [{len(self.inputs)}], one a sample, "
                    f"got {tensor.dtype} {list(tensor.shape)}"
                )
        if self.lengths is not None and len(self.lengths):
            least, most = (int(bound) for bound in self.lengths.aminmax())
            steps = self.inputs.shape[1] if self.inputs.dim() == 5 else 0
            if not 1 <= least <= most <= steps:
                raise ValueError(f"Split: lengths must be in 1 ... {steps} (sequences only), got {least} ... {most}")

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a sample: (C, H, W), or (T, C, H, W) with time."""
        return tuple(self.inputs.shape[1:])

    def at(self, indices: Tensor) -> Split:
        """The samples at `indices`, in that order."""
        indices = indices.to(self.inputs.device)
        lengths = None if self.lengths is None else self.lengths[indices]
        return Split(self.inputs[indices], self.labels[indices], lengths)

    read = at

    def to(self, device: torch.device | str) -> Split:
        """The same on a device; batches are augmented where the split lives."""
        lengths = None if self.lengths is None else self.lengths.to(device)
        return Split(self.inputs.to(device), self.labels.to(device), lengths)


class Images(Protocol):
    """Encoded images that are decoded when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(C, H, W)."""

    def __getitems__(self, indices: list[int]) -> Tensor:
        """uint8 `[len(indices), C, H, W]`."""


@dataclass(frozen=True)
class Streamed(Samples):
    """Images that are too many for memory: sample i is `images[indices[i]]`, with the label `labels[i]`."""

    images: Images
    indices: Tensor
    labels: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of a sample: (C, H, W)."""
        return self.images.shape

    def at(self, indices: Tensor) -> Streamed:
        """The samples at `indices`, in that order; nothing is read."""
        return replace(self, indices=self.indices[indices], labels=self.labels[indices])

    def read(self, indices: Tensor) -> Split:
        """The samples at `indices` in memory."""
        return Split(self.images.__getitems__(self.indices[indices].tolist()), self.labels[indices])


@on_host
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
    """A data set: three disjoint splits, and the mean and standard deviation `[C]` of the raw training inputs.

    Real steps alone count for both; of a split that streams, a stratified sample of 2,000 is taken. `white` is the
    value of a white pixel; None: inputs are no pixels.

    Raises:
        ValueError: a split without samples, with others than those of train, with a label that is no class, or with
            inputs that are not finite; statistics that are not `[C]` numbers; names of another number of classes.
    """

    name: str
    classes: int
    train: Samples
    validation: Samples
    test: Samples
    mean: Tensor
    std: Tensor
    class_names: tuple[str, ...] = ()
    white: float | None = 255.0

    def __post_init__(self) -> None:
        _check_splits(self.name, self.classes, self.train, self.validation, self.test)
        for part in ("train", "validation", "test"):
            split = getattr(self, part)
            if isinstance(split, Split) and split.inputs.is_floating_point():
                bad = (~split.inputs.flatten(1).isfinite().all(1)).nonzero().flatten().tolist()
                if bad:
                    raise ValueError(f"data set {self.name!r}: inputs of {part} must be finite, sample {bad[0]} is not")
        for statistic, value, least in (("mean", self.mean, -torch.inf), ("std", self.std, 0)):
            if value.shape != (self.channels,) or not (value.isfinite() & (value > least)).all():
                wanted = f"{self.channels} finite numbers" + (" > 0" if least == 0 else "")
                raise ValueError(f"data set {self.name!r}: {statistic} must be {wanted}, got {value.tolist()}")
        if len(self.class_names) not in (0, self.classes):
            raise ValueError(
                f"data set {self.name!r}: class_names must be {self.classes}, one a class, got {len(self.class_names)}"
            )

    @classmethod
    def of(
        cls,
        name: str,
        classes: int,
        train: Samples,
        validation: Samples,
        test: Samples,
        class_names: tuple[str, ...] = (),
        white: float | None = 255.0,
    ) -> Dataset:
        """A data set with the statistics of its training split; the deviation of a channel that is constant there is 1.

        Raises:
            ValueError: a class without a training sample, or as for any data set.
        """
        _check_splits(name, classes, train, validation, test)
        few = classes > len(train) + MOST_MISSING
        none = [] if few else (train.labels.bincount(minlength=classes) == 0).nonzero().flatten().tolist()
        if few or none:
            called = [f"{index} ({class_names[index]})" if class_names else str(index) for index in none[:5]]
            which = ", ".join(called) + (f" and {len(none) - 5} more" if len(none) > 5 else "")
            got = f"{len(train)} samples" if few else f"none of {which}"
            raise ValueError(f"data set {name!r}: wanted training samples of all {classes} classes, got {got}")
        return cls(name, classes, train, validation, test, *_statistics(train), class_names, white)

    def limited(self, count: int) -> Dataset:
        """The same with a stratified sample of `count` for training; statistics, validation and test stay.

        Of fewer samples than classes, some classes have none.

        Raises:
            ValueError: more than there are.
        """
        return replace(self, train=self.train.some(count))

    @property
    def channels(self) -> int:
        """C."""
        return self.train.shape[-3]


def _check_splits(name: str, classes: int, train: Samples, validation: Samples, test: Samples) -> None:
    for part, split in (("train", train), ("validation", validation), ("test", test)):
        if not isinstance(split, Samples):
            raise ValueError(f"data set {name!r}: {part} must be a Split or other Samples, got {type(split).__name__}")
        if not len(split):
            raise ValueError(f"data set {name!r}: {part} must have a sample, got none")
        if (len(split.shape), *split.shape[-3:]) != (len(train.shape), *train.shape[-3:]):  # (time may be another)
            wanted, got = list(train.shape), list(split.shape)
            raise ValueError(f"data set {name!r}: samples of {part} must be {wanted} as in train, got {got}")
        if split.labels.dtype != torch.int64:
            raise ValueError(f"data set {name!r}: labels of {part} must be int64, got {split.labels.dtype}")
        least, most = (int(label) for label in split.labels.aminmax())
        if not 0 <= least <= most < classes:
            raise ValueError(
                f"data set {name!r}: labels of {part} must be in 0 ... {classes - 1}, got {least} ... {most}"
            )


def _statistics(split: Samples) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation `[C]`, from sums in float64 (exact for bytes)."""
    count = min(STATISTICS, len(split)) if isinstance(split, Streamed) else len(split)
    chosen = systematic(split.labels.cpu(), count)
    total = 0
    sums = torch.zeros(2, split.shape[-3], dtype=torch.float64)
    for indices in chosen.split(256):
        part = split.read(indices)
        inputs = part.inputs
        if part.lengths is not None:
            inputs = inputs[real_steps(part.lengths, inputs.shape[1], len(inputs), "statistics").T]  # [real, C, H, W]
        values = inputs.movedim(-3, 0).flatten(1).double()
        sums += torch.stack([values.sum(1), values.square().sum(1)]).cpu()
        total += values.shape[1]
    mean, square = sums / total
    variance = square - mean.square()
    return mean.float(), variance.where(variance > 1e-12 * square, 1).sqrt().float()  # (beyond that it is rounding)

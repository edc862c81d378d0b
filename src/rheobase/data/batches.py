"""Batches of a split. Randomness is a function, not a stream: nothing depends on what was drawn before."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from rheobase.data.augmentation import Augmentation
from rheobase.data.dataset import Samples, Split, Streamed
from rheobase.data.seeds import HOST, on_host, seed_of
from rheobase.padded import real_steps


class Batch(NamedTuple):
    """Normalised inputs, labels, and the real steps of sequences that have them.

    inputs: float32 `[B, C, H, W]`, or `[T, B, C, H, W]`, in channels-last memory; after a sample's last step, zeros.
    labels: int64 `[B]`, or float32 `[B, classes]` where augmentation mixes them.
    lengths: int64 `[B]`, or None.
    """

    inputs: Tensor
    labels: Tensor
    lengths: Tensor | None

    def to(self, device: torch.device | str) -> Batch:
        """The same on a device."""
        return Batch(*(part if part is None else part.to(device) for part in self))  # type: ignore[arg-type]

    def divide(self, parts: int) -> list[Batch]:
        """The same in several batches, one after the other."""
        inputs = self.inputs.tensor_split(parts, self.inputs.dim() - 4)
        labels = self.labels.tensor_split(parts)
        lengths = [None] * parts if self.lengths is None else self.lengths.tensor_split(parts)
        return [Batch(*part) for part in zip(inputs, labels, lengths, strict=True)]


class Batches:
    """Batches (`Batch`) of a split; sequences are cut to the longest of their batch.

    In training (`seed` given) the order is a function of (seed, epoch), augmentation of (seed, step, rank); without a
    seed, samples come in order and as they are. The last batch of an epoch may be smaller. Iterating gives what is
    left of the current epoch, then moves to the next; `state_dict` is the position of the next batch. Several iterators
    may be under way, each with its own epoch; the position is that after the last batch that one of them gave.

    It has no `__len__` (`count` is the number of batches in a whole epoch): an epoch may start midway.

    Args:
        split: in memory, or one that streams.
        batch_size: samples in a batch, over all processes.
        mean, std: per channel, of raw inputs.
        seed: None for evaluation.
        augmentation: of the training samples.
        classes: their number; needed where augmentation mixes labels.
        rank, world_size: this process and the number of them; each takes its part of every batch.
        workers: processes that decode a split that streams, ahead of time; 0: threads of this process do, when a batch
            is asked for. What is in memory needs none.

    Raises:
        ValueError: an argument out of range, or an augmentation that the samples do not allow.
    """

    def __init__(
        self,
        split: Samples,
        *,
        batch_size: int,
        mean: Tensor,
        std: Tensor,
        seed: int | None = None,
        augmentation: Augmentation | None = None,
        classes: int | None = None,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"Batches: rank must be in 0 ... {world_size - 1} (world_size - 1), got {rank}")
        if batch_size < world_size:
            raise ValueError(f"Batches: batch_size must be at least {world_size}, one a process, got {batch_size}")
        if workers < 0:
            raise ValueError(f"Batches: workers must be at least 0, got {workers}")
        for name, value, least in (("mean", mean, -torch.inf), ("std", std, 0)):
            if value.shape != (split.shape[-3],) or not (value.isfinite() & (value > least)).all():
                wanted = "finite" if least else "finite and above 0"
                raise ValueError(f"Batches: {name} must be [{split.shape[-3]}], {wanted}, got {value.tolist()}")
        augmentation = augmentation or Augmentation()
        if seed is None and augmentation != Augmentation():
            raise ValueError(f"Batches: augmentation needs a seed, got seed=None and {augmentation}")
        if augmentation.mixes and classes is None:
            raise ValueError("Batches: mixup and cutmix need the number of classes, got classes=None")
        if augmentation.mixes and getattr(split, "lengths", None) is not None:
            raise ValueError("Batches: mixup and cutmix need sequences of one length, got a split with lengths")
        augmentation.check(split.shape)
        self.split = split
        self.batch_size = batch_size
        self.seed = seed
        self.augmentation = augmentation
        self.classes = classes
        self.rank = rank
        self.world_size = world_size
        self._scale = (1 / std.double()).float().view(-1, 1, 1)
        self._offset = (-mean.double() / std.double()).float().view(-1, 1, 1)
        # a last batch that cannot give every process a sample (and a norm in training two) is left out
        least = world_size if seed is None else max(2, world_size)
        self.count = -(-len(split) // batch_size) - (len(split) > batch_size and 0 < len(split) % batch_size < least)
        self.epoch = 0
        self.next = 0
        self.workers = workers
        self._idle: list[DataLoader[Tensor]] = []  # whose workers wait for the next iterator

    @on_host
    def order(self, epoch: int) -> Tensor:
        """Indices of all samples in the order of this epoch, `[N]`."""
        if self.seed is None:
            return torch.arange(len(self.split))
        generator = torch.Generator().manual_seed(seed_of("order", self.seed, epoch))
        return torch.randperm(len(self.split), generator=generator)

    @on_host
    def batch(self, epoch: int, index: int) -> Batch:
        """Batch `index` of an epoch, whatever came before."""
        return self._batch(self._read(self._mine(self.order(epoch), index)), epoch, index)

    def samples(self, epoch: int, index: int) -> Tensor:
        """Indices in the split of what batch `index` of an epoch has, over all processes, `[B]`."""
        return self._whole(self.order(epoch), index)

    def _whole(self, order: Tensor, index: int) -> Tensor:
        return order[index * self.batch_size : (index + 1) * self.batch_size]

    def _mine(self, order: Tensor, index: int) -> Tensor:
        return self._whole(order, index)[self.rank :: self.world_size]

    @on_host
    def _batch(self, part: Split, epoch: int, index: int) -> Batch:
        inputs, labels, lengths = part.inputs, part.labels, part.lengths
        if lengths is not None:
            inputs = inputs[:, : int(lengths.max())]
        if self.augmentation != Augmentation() and self.seed is not None:
            if self.augmentation.mixes and self.classes is not None:
                labels = F.one_hot(labels, self.classes).float()
            step = epoch * self.count + index
            inputs, labels = self.augmentation(inputs, labels, seed_of("augment", self.seed, step, self.rank))
        steps = inputs.shape[1] if inputs.dim() == 5 else 0
        frames = inputs.transpose(0, 1).flatten(0, 1) if steps else inputs
        values = frames.to(torch.float32, memory_format=torch.channels_last)
        values = values.mul_(self._scale.to(values.device)).add_(self._offset.to(values.device))
        if steps:
            values = values.unflatten(0, (steps, -1))
        if lengths is not None:
            values.mul_(real_steps(lengths, steps, len(lengths), "Batches")[:, :, None, None, None])
        return Batch(values, labels, lengths)

    def _read(self, indices: Tensor) -> Split:
        part = self.split.read(indices)
        wanted = (len(indices), *self.split.shape)
        if not isinstance(part, Split) or part.inputs.shape != wanted:
            got = list(part.inputs.shape) if isinstance(part, Split) else type(part).__name__
            raise ValueError(
                f"Batches: {type(self.split).__name__}.read must give a Split of inputs {list(wanted)}, got {got}"
            )
        return part

    def _parts(self, chosen: list[Tensor]) -> Iterator[Split]:
        if not self.workers or not isinstance(self.split, Streamed):
            yield from map(self._read, chosen)
            return
        loader = self._idle.pop() if self._idle else _loader(self.split.images, self.workers)
        loader.batch_sampler[:] = [self.split.indices[indices].tolist() for indices in chosen]  # type: ignore[index]
        try:
            with HOST:
                ahead = iter(loader)
            for images, indices in zip(ahead, chosen, strict=True):
                yield Split(images, self.split.labels[indices])
        except GeneratorExit:  # the iterator was left midway
            pass
        self._idle.append(loader)

    def __iter__(self) -> Iterator[Batch]:
        epoch, first = self.epoch, self.next
        order = self.order(epoch)
        chosen = [self._mine(order, index) for index in range(first, self.count)]
        for index, part in enumerate(self._parts(chosen), first):
            self.epoch, self.next = (epoch, index + 1) if index + 1 < self.count else (epoch + 1, 0)
            yield self._batch(part, epoch, index)

    def seek(self, epoch: int, batch: int = 0) -> None:
        """Let the next iteration begin at this batch of this epoch."""
        if epoch < 0 or not 0 <= batch < self.count:
            raise ValueError(
                f"Batches: epoch must be >= 0 and batch in 0 ... {self.count - 1}, got epoch {epoch}, batch {batch}"
            )
        self.epoch, self.next = epoch, batch

    def state_dict(self) -> dict[str, int]:
        """Position of the next batch."""
        return {"epoch": self.epoch, "batch": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to a position."""
        self.seek(state["epoch"], state["batch"])


def _loader(images: Any, workers: int) -> DataLoader[Tensor]:
    """Processes that decode ahead, for one iterator at a time; its `batch_sampler` is what they are to decode."""
    return DataLoader(
        images,
        batch_sampler=[],
        num_workers=workers,
        collate_fn=_as_it_is,
        worker_init_fn=_end_with_parent,
        multiprocessing_context="forkserver",
        persistent_workers=True,
        generator=torch.Generator(),  # else it would draw from the global one
    )


def _as_it_is(images: Any) -> Any:
    return images


def _end_with_parent(_: int) -> None:
    """Let a worker end when the process that it works for is killed.

    torch's workers look whether their own parent lives: that is the fork server, which lives as long as they do.
    """
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()

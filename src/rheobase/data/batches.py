"""Batches of a split. Randomness is a function, not a stream: nothing depends on what was drawn before."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from rheobase.data.dataset import Split


def seed_of(*parts: int | str) -> int:
    """A 63-bit seed, a function of its parts: seed_of("order", 7, 0). The same on every machine and version."""
    digest = hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def augment(images: Tensor, shift: int, flip: bool, seed: int) -> Tensor:
    """Move each image by up to `shift` pixels per axis (zeros come in) and mirror it with probability 1/2.

    uint8 `[B, C, H, W]` to the same in channels-last memory; a function of its arguments.
    """
    count, _, height, width = images.shape
    generator = torch.Generator().manual_seed(seed)
    down, right = torch.randint(0, 2 * shift + 1, (2, count, 1), generator=generator)
    mirror = torch.rand(count, 1, generator=generator) < 0.5
    padded = torch.nn.functional.pad(images, (shift,) * 4)
    rows = torch.arange(height) + down
    columns = torch.arange(width).expand(count, -1)
    if flip:
        columns = torch.where(mirror, width - 1 - columns, columns)
    columns = columns + right
    samples, rows, columns = (
        index.to(images.device) for index in (torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None])
    )
    return padded[samples, :, rows, columns].permute(0, 3, 1, 2)  # the gather is [B, H, W, C]


class Batches:
    """Batches (float32 images `[B, C, H, W]`, normalised, in channels-last memory; int64 labels `[B]`) of a split.

    In training (`seed` given) the order is a function of (seed, epoch), augmentation of (seed, step, rank); without a
    seed, samples come in order and as they are. The last batch of an epoch may be smaller. Iterating gives what is
    left of the current epoch, then moves to the next; `state_dict` is the position of the next batch.

    It has no `__len__` (`count` is the number of batches in a whole epoch): an epoch may start midway.

    Args:
        split: images and labels in memory.
        batch_size: samples in a batch, over all processes.
        mean, std: per channel, of raw pixels.
        seed: None for evaluation.
        shift, flip: augmentation, as in `augment`.
        rank, world_size: this process and the number of them; each takes its part of every batch.

    Raises:
        ValueError: an argument out of range.
    """

    def __init__(
        self,
        split: Split,
        *,
        batch_size: int,
        mean: Tensor,
        std: Tensor,
        seed: int | None = None,
        shift: int = 0,
        flip: bool = False,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"Batches: rank must be in 0 ... {world_size - 1} (world_size - 1), got {rank}")
        if batch_size < world_size:
            raise ValueError(f"Batches: batch_size must be at least {world_size}, one a process, got {batch_size}")
        if shift < 0 or (seed is None and (shift or flip)):
            raise ValueError(f"Batches: augmentation needs a seed and shift >= 0, got seed={seed}, shift={shift}")
        self.split = split
        self.batch_size = batch_size
        self.seed = seed
        self.shift = shift
        self.flip = flip
        self.rank = rank
        self.world_size = world_size
        self._scale = (1 / std.double()).float().view(-1, 1, 1)
        self._offset = (-mean.double() / std.double()).float().view(-1, 1, 1)
        # a last batch that cannot give every process a sample (and a norm in training two) is left out
        least = world_size if seed is None else max(2, world_size)
        self.count = -(-len(split) // batch_size) - (len(split) > batch_size and 0 < len(split) % batch_size < least)
        self.epoch = 0
        self.next = 0

    def order(self, epoch: int) -> Tensor:
        """Indices of all samples in the order of this epoch, `[N]`."""
        if self.seed is None:
            return torch.arange(len(self.split))
        generator = torch.Generator().manual_seed(seed_of("order", self.seed, epoch))
        return torch.randperm(len(self.split), generator=generator)

    def batch(self, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        """Batch `index` of an epoch, whatever came before."""
        return self._batch(self.order(epoch), epoch, index)

    def _batch(self, order: Tensor, epoch: int, index: int) -> tuple[Tensor, Tensor]:
        chosen = order[index * self.batch_size : (index + 1) * self.batch_size][self.rank :: self.world_size]
        part = self.split.at(chosen.to(self.split.images.device))
        images = part.images
        if self.seed is not None and (self.shift or self.flip):
            step = epoch * self.count + index
            images = augment(images, self.shift, self.flip, seed_of("augment", self.seed, step, self.rank))
        pixels = images.to(torch.float32, memory_format=torch.channels_last)
        return pixels.mul_(self._scale.to(pixels.device)).add_(self._offset.to(pixels.device)), part.labels

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        epoch, first = self.epoch, self.next
        order = self.order(epoch)
        for index in range(first, self.count):
            self.epoch, self.next = (epoch, index + 1) if index + 1 < self.count else (epoch + 1, 0)
            yield self._batch(order, epoch, index)

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

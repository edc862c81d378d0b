"""Augmentation of a whole batch on its device, as a function of the seed alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from rheobase.data.extra import need
from rheobase.data.options import Option, check, told
from rheobase.data.seeds import seed_of


@dataclass(frozen=True)
class Augmentation:
    """What is done to the images of a training batch, in this order; every sample draws its own numbers.

    All steps of a sequence are changed alike.

    Args:
        crop: cut out a rectangle with a share of the area between this and 1 and sides 3:4 to 4:3, and stretch it to
            the whole (Szegedy et al. 2015); 1 turns it off.
        shift: move by up to this many pixels along each axis; zeros come in.
        flip: mirror half of the images.
        rand_augment: two operations of RandAugment (Cubuk et al. 2020; kornia's list) of this magnitude, above 0 and
            below 30. None turns it off. Images only; of gray ones, "color" changes nothing.
        cutout: side of a square of zeros, whose centre is anywhere in the image (DeVries and Taylor 2017).
        mixup: `alpha`: x = l x_i + (1 - l) x_j and so the labels, l ~ Beta(alpha, alpha) (Zhang et al. 2018).
        cutmix: `alpha`: a rectangle with the share 1 - l of the area comes from x_j; labels are mixed by the share of
            the pixels (Yun et al. 2019). With mixup too, each batch takes one of the two.

    Raises:
        ValueError: a number out of range.
    """

    crop: Annotated[float, Field(gt=0, le=1)] = 1.0
    shift: Annotated[int, Field(ge=0)] = 0
    flip: bool = False
    rand_augment: Annotated[float, Field(gt=0, lt=30)] | None = None
    cutout: Annotated[int, Field(ge=0)] = 0
    mixup: Annotated[float, Field(ge=0)] = 0.0
    cutmix: Annotated[float, Field(ge=0)] = 0.0

    def __post_init__(self) -> None:
        check("Augmentation", _options(), vars(self))

    @property
    def mixes(self) -> bool:
        """Whether labels become shares of classes."""
        return self.mixup > 0 or self.cutmix > 0

    def check(self, shape: tuple[int, ...]) -> None:
        """Refuse samples of a shape, (C, H, W) or (T, C, H, W), that cannot be augmented so.

        Raises:
            ValueError: images too small, or sequences where only images will do.
        """
        side = min(shape[-2:])
        for name in ("shift", "cutout"):
            if getattr(self, name) > max(0, side - 1):
                raise ValueError(
                    f"Augmentation: {name} must be below the image's side, {side}, got {getattr(self, name)}"
                )
        if self.rand_augment is not None and (len(shape) != 3 or shape[0] not in (1, 3)):
            raise ValueError(
                f"Augmentation: rand_augment wants images of 1 or 3 channels, got samples of shape {shape}"
            )

    def __call__(self, images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Augmented images and their labels.

        Args:
            images: uint8 or float32 `[B, C, H, W]`, or sequences `[B, T, C, H, W]`.
            labels: int64 `[B]`, or float32 `[B, classes]` where they are to be mixed.
            seed: of all that is drawn; the global random state is neither used nor changed.

        Returns:
            The same shapes; float32 after mixup, else the same type.

        Raises:
            ValueError: samples that cannot be augmented so (`check`), or labels that cannot be mixed.
        """
        self.check(tuple(images.shape[1:]))
        if self.mixes and labels.dim() != 2:
            raise ValueError(
                f"Augmentation: labels that are mixed must be float32 [B, classes], "
                f"got {labels.dtype} {list(labels.shape)}"
            )
        x = images.flatten(1, 2) if images.dim() == 5 else images  # the steps of a sequence are channels here
        generator = torch.Generator().manual_seed(seed)
        numbers = np.random.default_rng(seed)
        if self.crop < 1:
            x = _crop(x, self.crop, numbers)
        if self.shift or self.flip:
            x = _shift(x, self.shift, self.flip, generator)
        if self.rand_augment is not None:
            x = _rand_augment(x, self.rand_augment, seed_of("rand_augment", seed))
        if self.cutout:
            x = _cutout(x, self.cutout, generator)
        if self.mixes:
            cut = self.cutmix > 0 and (self.mixup == 0 or numbers.random() < 0.5)
            alpha = self.cutmix if cut else self.mixup
            share = torch.from_numpy(numbers.beta(alpha, alpha, len(x))).float()
            x, share = _cutmix(x, share, generator) if cut else (_blend(x.float(), share), share)
            labels = _blend(labels, share)
        return x.unflatten(1, images.shape[1:3]) if images.dim() == 5 else x, labels


@cache
def _options() -> dict[str, Option]:
    return told(Augmentation)


def _shift(x: Tensor, shift: int, flip: bool, generator: torch.Generator) -> Tensor:
    count, _, height, width = x.shape
    down, right = torch.randint(0, 2 * shift + 1, (2, count, 1), generator=generator)
    mirror = torch.rand(count, 1, generator=generator) < 0.5
    padded = F.pad(x, (shift,) * 4)
    rows = torch.arange(height) + down
    columns = torch.arange(width).expand(count, -1)
    if flip:
        columns = torch.where(mirror, width - 1 - columns, columns)
    columns = columns + right
    samples, rows, columns = (
        index.to(x.device) for index in (torch.arange(count)[:, None, None], rows[:, :, None], columns[:, None])
    )
    return padded[samples, :, rows, columns].permute(0, 3, 1, 2)  # the gather is [B, H, W, C]


def _crop(x: Tensor, least: float, numbers: np.random.Generator) -> Tensor:
    area = numbers.uniform(least, 1, len(x))
    aspect = np.exp(numbers.uniform(np.log(3 / 4), np.log(4 / 3), len(x)))
    sides = np.minimum(np.sqrt([area * aspect, area / aspect]), 1)  # width and height as shares of the image's
    centres = numbers.uniform(-1, 1, (2, len(x))) * (1 - sides)
    boxes = np.zeros((len(x), 2, 3), np.float32)
    boxes[:, [0, 1], [0, 1]], boxes[:, :, 2] = sides.T, centres.T
    grid = F.affine_grid(torch.from_numpy(boxes), [len(x), 1, *x.shape[2:]], align_corners=False).to(x.device)
    return _like(F.grid_sample(x.float(), grid, padding_mode="reflection", align_corners=False), x)


@cache
def _operations(magnitude: float) -> list[tuple[str, Any]]:
    module = need("kornia.augmentation.auto.rand_augment.rand_augment", "RandAugment")
    return [
        (entry[0][0], module.RandAugment(n=1, m=magnitude, policy=[entry], transformation_matrix_mode="skip"))
        for entry in module.default_policy
    ]


def _rand_augment(x: Tensor, magnitude: float, seed: int) -> Tensor:
    operations = _operations(magnitude)
    values = x.float() / 255
    with torch.random.fork_rng(devices=[]):  # kornia draws from torch's global generator of the CPU
        torch.default_generator.manual_seed(seed)
        for _ in range(2):
            choice = torch.randint(len(operations), (len(x),))
            for index, (name, operation) in enumerate(operations):
                chosen = (choice == index).nonzero().flatten().to(x.device)
                if len(chosen) and not (name == "color" and x.shape[1] == 1):
                    values[chosen] = operation(values[chosen]).clamp(0, 1)
    return _like(values * 255, x)


def _cutout(x: Tensor, side: int, generator: torch.Generator) -> Tensor:
    height, width = x.shape[2:]
    tops = torch.randint(0, height, (len(x),), generator=generator) - side // 2
    lefts = torch.randint(0, width, (len(x),), generator=generator) - side // 2
    return x.masked_fill(_box(tops, tops + side, lefts, lefts + side, x), 0)


def _cutmix(x: Tensor, share: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    sizes = torch.tensor(x.shape[2:])[:, None]
    centres = (torch.rand(2, len(x), generator=generator) * sizes).long()
    halves = (sizes * (1 - share).sqrt() / 2).round().long()
    (tops, lefts), (bottoms, rights) = centres - halves, centres + halves
    box = _box(tops, bottoms, lefts, rights, x)
    return torch.where(box, x.roll(1, 0), x), 1 - box.float().mean((1, 2, 3)).cpu()


def _box(tops: Tensor, bottoms: Tensor, lefts: Tensor, rights: Tensor, x: Tensor) -> Tensor:
    """True `[B, 1, H, W]` within the rectangles."""
    rows, columns = torch.arange(x.shape[2]), torch.arange(x.shape[3])
    down = (rows >= tops[:, None]) & (rows < bottoms[:, None])
    across = (columns >= lefts[:, None]) & (columns < rights[:, None])
    return (down[:, :, None] & across[:, None, :])[:, None].to(x.device)


def _blend(x: Tensor, share: Tensor) -> Tensor:
    """share x_i + (1 - share) x_j, where j is the sample before i (a batch is shuffled already)."""
    share = share.to(x.device).view(-1, *[1] * (x.dim() - 1))
    return share * x + (1 - share) * x.roll(1, 0)


def _like(values: Tensor, x: Tensor) -> Tensor:
    return values.round().clamp(0, 255).to(x.dtype) if x.dtype == torch.uint8 else values

"""Images a second of `rheobase.data.Batches`: from memory, and from encoded files as large as those of ImageNet."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import rheobase as rb
from benchmarks.device import clock
from benchmarks.harness import Call, Case, Row, Table, measure
from rheobase.data.dataset import Samples

AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "as they are": {},
    "shift and flip": {"shift": 4, "flip": True},
    "crop and flip": {"crop": 0.3, "flip": True},
    "shift, flip and cutout": {"shift": 4, "flip": True, "cutout": 8},
    "shift, flip, mixup and cutmix": {"shift": 4, "flip": True, "mixup": 0.5, "cutmix": 0.5},
    "shift, flip and RandAugment": {"shift": 4, "flip": True, "rand_augment": 9.0},
}


def loader(
    repeats: int, quick: bool, compiled: bool, need: int | None = None, root: str | None = None, device: str = "cpu"
) -> Iterator[Table]:
    """Batches of CIFAR-sized images in memory, and of photographs that are decoded as they are needed.

    Args:
        repeats, quick, compiled: as in all workloads.
        need: images/s that a training step would take; what they take is the reference then.
        root: folder with cifar100; else images are made.
        device: where images in memory live.
    """
    yield _needed(in_memory(repeats, quick, root, torch.device(device)), need)
    with tempfile.TemporaryDirectory() as folder:
        yield _needed(_streamed(min(repeats, 5), quick, Path(folder)), need)


def _needed(table: Table, need: int | None) -> Table:
    """The table with the time that a consumer takes for as many images first."""
    if need is not None:
        repeats = max(len(row.samples) for row in table.rows)
        table.rows.insert(0, Row(f"a step that takes {need} images/s", [table.items / need] * repeats))
    return table


def in_memory(repeats: int, quick: bool, root: str | None, device: torch.device) -> Table:
    """Batches of 128 images of 32 x 32 pixels, augmented where they live."""
    count, size = (256, 32) if quick else (50_000, 128)
    if root is None:
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (count, 3, 32, 32), generator=generator).to(torch.uint8)
        split, name = rb.data.Split(images, torch.arange(count) % 100), "made images"
    else:
        found = rb.data.load("cifar100", root).train
        assert isinstance(found, rb.data.Split)
        split, name = found, "CIFAR-100"
    split = split.to(device)
    cases = [Case(how, partial(_next, split, size, options)) for how, options in AUGMENTATIONS.items()]
    title = f"{len(split)} {name} in memory ({device}), 3 x 32 x 32, batches of {size}"
    table = measure(title, cases, repeats, least=0.02, clock=clock(device))
    table.items, table.unit = size, "images"
    return table


def _next(split: rb.data.Split, size: int, options: dict[str, Any]) -> Call:
    """The next batch, again and again."""
    batches = _batches(split, size, 100, **options)

    def forever() -> Iterator[rb.data.Batch]:
        while True:
            yield from batches

    endless = forever()
    return lambda: next(endless)


def _batches(split: Samples, size: int, classes: int, workers: int = 0, **options: Any) -> rb.data.Batches:
    mean, std = torch.full((3,), 120.0), torch.full((3,), 60.0)
    augmentation = rb.data.Augmentation(**options)
    return rb.data.Batches(
        split,
        batch_size=size,
        mean=mean,
        std=std,
        seed=0,
        augmentation=augmentation,
        classes=classes,
        workers=workers,
    )


def photograph(number: int, width: int, height: int) -> bytes:
    """A made JPEG: blots of several sizes and some noise, so that it takes about as many bytes as a photograph."""
    from PIL import Image

    numbers = np.random.default_rng(number)
    pixels = numbers.normal(0, 6, (height, width, 3))
    for cells in (4, 16, 64):
        blots = Image.fromarray(numbers.integers(0, 256, (cells, cells, 3), np.uint8))
        pixels += np.asarray(blots.resize((width, height), Image.Resampling.BICUBIC)) / 3.0
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def make_sets(folder: Path, count: int, width: int, height: int, classes: int = 4) -> int:
    """An image folder and a Parquet set of the same `count` training images; the mean size of a file in bytes."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    photographs = [photograph(number, width, height) for number in range(min(count, 64))]
    for part, number in (("train", count), ("val", classes)):
        rows = [(photographs[index % len(photographs)], index % classes) for index in range(number)]
        for index, (content, label) in enumerate(rows):
            path = folder / "files" / part / f"{label:03}" / f"{index:06}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        contents, labels = zip(*rows, strict=True)
        table = pa.table({"image": [{"bytes": content, "path": None} for content in contents], "label": labels})
        (folder / "rows").mkdir(exist_ok=True)
        pq.write_table(table, folder / "rows" / f"{part}.parquet")
    return sum(map(len, photographs)) // len(photographs)


def _streamed(repeats: int, quick: bool, folder: Path) -> Table:
    """Epochs of JPEG files that are scaled and cut to 224 x 224, with a random crop and flip, in batches of 64."""
    count, size, edge, several = (12, 4, 32, 1) if quick else (512, 64, 224, 2)
    width, height = (50, 37) if quick else (500, 375)
    mean = make_sets(folder, count, width, height)
    splits = {
        "image folder": rb.data.load("images", str(folder / "files"), size=edge, stream=True).train,
        "Parquet": rb.data.load("parquet", str(folder / "rows"), size=edge, stream=True).train,
    }
    cases = []
    for kind, split in splits.items():
        cases += [Case(f"{kind}, decoded in this process", partial(_epoch, split, size, 0))]
        if not quick or kind == "Parquet":
            cases += [Case(f"{kind}, decoded by processes: {several}", partial(_epoch, split, size, several))]
        cases += [Case(f"{kind}, reading and decoding alone", partial(_read, split, size))]
    left = len(splits["Parquet"])
    title = f"{left} JPEGs of {width} x {height}, {mean} bytes each, to {edge} x {edge}, batches of {size}"
    table = measure(title, cases, repeats, warmup=1)
    table.items, table.unit = left, "images"
    return table


def _epoch(split: Samples, size: int, workers: int) -> Call:
    batches = _batches(split, size, 4, workers, crop=0.08, flip=True)

    def call() -> None:
        for _ in batches:
            pass

    return call


def _read(split: Samples, size: int) -> Call:
    def call() -> None:
        for indices in torch.arange(len(split)).split(size):
            split.read(indices)

    return call

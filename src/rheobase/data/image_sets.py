"""Image classification sets, as Parquet files of the Hub or as an image folder; small ones in memory, large ones read
as they are needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from rheobase.data import parquet
from rheobase.data.dataset import MOST_MISSING, Dataset, Samples, Split, Streamed
from rheobase.data.images import Encoded, Files, Pictures
from rheobase.data.options import Count, Positive
from rheobase.data.roots import find, listing


@dataclass(frozen=True)
class Source:
    """A set by name: its folders below the data root, what must be in one, how to get it, and how it is used.

    `classes` and the Hub's `label` column are None where any will do.
    """

    folders: tuple[str, ...]
    classes: int | None
    advice: str
    label: str | None = None
    stream: bool = False
    validation: float = 0.1
    wanted: str = "**/train*"


_GUIDE = "see the guide to data for the layout"
SOURCES = {
    "cifar10": Source(("cifar10", "cifar-10"), 10, "get it from the Hub's uoft-cs/cifar10"),
    "cifar100": Source(("cifar100", "cifar-100"), 100, "get it from the Hub's uoft-cs/cifar100", label="fine_label"),
    "svhn": Source(("svhn",), 10, "get cropped_digits from the Hub's ufldl-stanford/svhn"),
    "imagenette": Source(
        ("imagenette", "imagenette2-320", "imagenette2-160", "imagenette128"), 10, "get it from fast.ai"
    ),
    "imagenet": Source(("imagenet", "imagenet-1k"), 1000, "get it from image-net.org", stream=True, validation=0.02),
    "images": Source((".",), None, _GUIDE, wanted="train"),
    "parquet": Source((".",), None, _GUIDE, wanted="**/*.parquet"),
}


def load(
    name: str,
    root: str | None = None,
    *,
    size: Count | None = None,
    channels: Count | None = None,
    validation: Positive | None = None,
    stream: bool | None = None,
    image: str | None = None,
    label: str | None = None,
    cache: str | None = None,
) -> Dataset:
    """An image classification set: one of `SOURCES`, or as `images` (a folder) or `parquet` any, at `root` itself.

    `root/train/CLASS/*.png` with `root/test/...`, `root/val/...` or both; or Parquet files of the same splits. Of two
    splits the second is for testing, and a part of the first for validation.

    Args:
        name: of the set.
        root: the data root; for `images` and `parquet` the folder of the set.
        size: scale all images to cover size x size pixels and cut them around the centre; None: all have one size.
        channels: 1 (gray) or 3 (colours); None: those of the first image.
        validation: share or number of the training samples that are held out; None: 0.1 (ImageNet 0.02), or the set's
            own split.
        stream: decode when a batch is asked for; None: ImageNet alone. Parquet files are rewritten for it once.
        image, label: Parquet column; None: the one of a fitting type, or called so.
        cache: where a streamed set's rewritten files go; None: beside the set.

    Raises:
        ValueError, FileNotFoundError: what is missing, damaged or of another shape, by name.
    """
    source = SOURCES[name]
    share = source.validation if validation is None else validation
    if source.classes is None and root is None:
        raise ValueError(f"data set {name!r} needs its own folder: set data.root (--data.root DIR)")
    folder = find(name, source.folders, (source.wanted,), source.advice, root)
    stream = source.stream if stream is None else stream
    files = (folder / "train").is_dir() and not any((folder / "train").glob("*.parquet"))
    if name == "parquet" or (name != "images" and not files):
        place = Path(cache).expanduser() if cache else folder / ".rheobase"
        parts, names = _parquet(folder, image, label or source.label, place if stream else None)
    elif image or label or cache:
        raise ValueError(f"{folder} is an image folder: image, label and cache are options of Parquet files")
    else:
        parts, names = _folder(folder)
    absent = {"train"} - set(parts) or ({"test"} if len(parts) < 2 else set())
    if absent:
        raise FileNotFoundError(f"{folder}: wanted a split {absent.pop()!r}, got {', '.join(parts) or 'none'}")
    if source.classes not in (None, len(names)):
        raise ValueError(f"{folder}: wanted the {source.classes} classes of {name!r}, got {len(names)}")
    first = Pictures.of(parts["train"][0], size, channels)
    splits: dict[str, Samples] = {}
    for part, (encoded, labels) in parts.items():
        pictures = Pictures(encoded, first.shape, first.resize)
        every = torch.arange(len(labels))
        splits[part] = (
            Streamed(pictures, every, labels) if stream else Split(pictures.__getitems__(every.tolist()), labels)
        )
    if len(splits) == 2:
        splits["test"] = splits.get("test") or splits["validation"]
        splits["train"], splits["validation"] = splits["train"].divide(share)
    elif validation is not None:
        raise ValueError(f"data set {name!r} has a validation split of its own: leave validation at None")
    return Dataset.of(name, len(names), splits["train"], splits["validation"], splits["test"], names)


Parts = dict[str, tuple[Encoded, Tensor]]


def _folder(folder: Path) -> tuple[Parts, tuple[str, ...]]:
    """Files and labels by split, and the classes in alphabetical order; every file in a class's folder is an image."""
    found: Parts = {}
    names: list[str] = []
    folders = [alias for alias in parquet.PARTS if (folder / alias).is_dir()]
    if len({parquet.PARTS[alias] for alias in folders}) < len(folders):
        raise ValueError(f"{folder}: wanted one folder a split, got {', '.join(folders)}")
    for alias in folders:
        inside = (path for path in (folder / alias).iterdir() if path.is_dir() and not path.name.startswith("."))
        classes = sorted(path.name for path in inside)
        names = names or classes
        if not classes or classes != names:
            odd = sorted(set(classes) ^ set(names))
            raise ValueError(
                f"{folder / alias}: wanted a folder for each class"
                + (f" as in train, but {', '.join(odd[:5])} is in one of them only" if odd else "")
                + f", got {listing(folder / alias)}"
            )
        files, labels = [], []
        for index, name in enumerate(classes):
            images = sorted(path.name for path in (folder / alias / name).iterdir() if not path.name.startswith("."))
            if not images:
                raise ValueError(f"{folder / alias / name}: wanted images of class {name!r}, got an empty folder")
            files += [f"{alias}/{name}/{file}" for file in images]
            labels += [index] * len(images)
        found[parquet.PARTS[alias]] = Files(folder, files), torch.tensor(labels)
    return found, tuple(names)


def _parquet(folder: Path, image: str | None, label: str | None, cache: Path | None) -> tuple[Parts, tuple[str, ...]]:
    """Rows and labels by split, and the names of the classes."""
    files = parquet.shards(folder)
    if "train" not in files:
        raise FileNotFoundError(f"{folder}: wanted Parquet files of a split 'train', got {', '.join(files) or 'none'}")
    others = [path for part, shards in files.items() if part != "train" for path in shards]
    image, label, names = parquet.columns(files["train"] + others, image, label)
    found: Parts = {}
    for part, shards in files.items():
        labels = parquet.labels(shards, label)
        if len(labels) and (labels < 0).all():
            continue  # a test split whose labels are kept secret, as ImageNet's
        found[part] = parquet.Rows(parquet.mapped(shards, image, cache) if cache else shards, image), labels
    most = 1 + max(int(labels.max()) for _, labels in found.values())
    if most > (count := len(found.get("train", ((), ()))[1])) + MOST_MISSING:
        raise ValueError(f"{folder}: wanted training samples of all {most} classes of {label!r}, got {count} samples")
    return found, names or tuple(str(index) for index in range(most))

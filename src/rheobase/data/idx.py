"""MNIST and Fashion-MNIST from their four official IDX files. Files are read where they are, never downloaded."""

from __future__ import annotations

import gzip
import hashlib
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rheobase.data.dataset import Dataset, Split
from rheobase.data.options import Positive
from rheobase.data.roots import find


@dataclass(frozen=True)
class Source:
    """Where the files of a data set may lie below the data root, their md5 sums, and where to get them."""

    folders: tuple[str, ...]
    md5: dict[str, str]
    home: str


SOURCES = {
    "mnist": Source(
        ("mnist", "MNIST/raw"),
        {
            "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
            "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
            "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
            "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
        },
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
    ),
    "fashion-mnist": Source(
        ("fashion-mnist", "FashionMNIST/raw"),
        {
            "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
            "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
            "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
            "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
        },
        "https://github.com/zalandoresearch/fashion-mnist#get-the-data",
    ),
}


def load(name: str, root: str | None = None, *, validation: Positive = 5000) -> Dataset:
    """One of `SOURCES`: 55,000 / 5,000 / 10,000 images of 1 x 28 x 28.

    Args:
        name: of the set.
        root: the data root.
        validation: share or number of the training samples that are held out.

    Raises:
        ValueError, FileNotFoundError: what is missing, damaged or not the official file, by name.
    """
    source = SOURCES[name]
    folder = find(name, source.folders, tuple(source.md5), f"get the four .gz files at {source.home}", root)
    read = {file: parse(verified(folder / file, md5), str(folder / file)) for file, md5 in source.md5.items()}
    whole, test = (
        Split(read[f"{part}-images-idx3-ubyte.gz"][:, None], read[f"{part}-labels-idx1-ubyte.gz"].long())
        for part in ("train", "t10k")
    )
    train, held = whole.divide(validation)
    return Dataset.of(name, 10, train, held, test)


def verified(path: Path, md5: str) -> bytes:
    """The unpacked content of a .gz file with this md5 sum.

    Raises:
        ValueError: another sum: the file is damaged or not the official one.
    """
    packed = path.read_bytes()
    got = hashlib.md5(packed, usedforsecurity=False).hexdigest()
    if got != md5:
        raise ValueError(
            f"{path}: wrong checksum: wanted md5 {md5}, got {got} ({len(packed)} bytes); "
            "the file is incomplete or not the official one: get it again"
        )
    return gzip.decompress(packed)


def parse(content: bytes, name: str) -> Tensor:
    """A uint8 tensor from an IDX file: two zero bytes, the type (8), the number of axes, their sizes, the data.

    Raises:
        ValueError: not such a file, or shorter or longer than its header says.
    """
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise ValueError(f"{name}: not an IDX file of bytes: it must begin with 00 00 08, got {content[:3].hex(' ')}")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError(f"{name}: IDX file with {content[3]} axes must have {start} bytes or more, got {len(content)}")
    shape = np.frombuffer(content[4:start], ">u4").tolist()
    if len(content) != start + math.prod(shape):
        raise ValueError(
            f"{name}: IDX file of shape {shape} must have {start + math.prod(shape)} bytes, got {len(content)}"
        )
    return torch.frombuffer(bytearray(content), dtype=torch.uint8, offset=start).view(shape)

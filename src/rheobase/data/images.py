"""Encoded images, from files or rows of a table: decoded by Pillow to one size, all at once or as they are needed."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from rheobase.data.extra import need

SMALL = 64 * 64  # pixels below which threads only wait for each other


class Encoded(Protocol):
    """Encoded images by index."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> tuple[bytes, str]:
        """The bytes of an image, and its name for an error."""


@dataclass(frozen=True)
class Files:
    """Image files of a folder."""

    folder: Path
    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> tuple[bytes, str]:
        path = self.folder / self.names[index]
        return path.read_bytes(), str(path)


@dataclass(frozen=True)
class Pictures:
    """Images that are decoded when they are asked for, to uint8 `[C, H, W]`.

    Args:
        encoded: where their bytes come from.
        shape: (C, H, W) of all.
        resize: whether those of other sizes are scaled until they cover H x W, then cut around the centre; else they
            are refused.
    """

    encoded: Encoded
    shape: tuple[int, ...]
    resize: bool

    @classmethod
    def of(cls, encoded: Encoded, size: int | None, channels: int | None) -> Pictures:
        """Images of the size and channels (gray 1, colours 3) that are given, or else of the first one.

        Raises:
            ValueError: a bad option, or a first image that cannot be decoded.
        """
        if size is not None and size < 1:
            raise ValueError(f"size must be at least 1 pixel, got {size}")
        if channels not in (None, 1, 3):
            raise ValueError(f"channels must be 1 (gray) or 3 (colours), got {channels}")
        content, name = encoded[0]
        with _opened(content, name) as image:
            gray = image.mode in ("1", "L", "LA")
            width, height = (size, size) if size else image.size
        return cls(encoded, (channels or (1 if gray else 3), height, width), size is not None)

    def __getitems__(self, indices: Sequence[int]) -> Tensor:
        """Images uint8 `[len(indices), C, H, W]` in channels-last memory; a loader's worker does it with one thread.

        Raises:
            ValueError: an image that cannot be decoded, or has another size; the error names its file or row.
        """
        channels, height, width = self.shape
        out = np.empty((len(indices), height, width, channels), np.uint8)

        def decode(place: int) -> None:
            out[place] = self._decoded(*self.encoded[indices[place]])

        if get_worker_info() is None and height * width >= SMALL:
            in_threads(decode, len(indices))
        else:
            for place in range(len(indices)):
                decode(place)
        return torch.from_numpy(out).permute(0, 3, 1, 2)

    def _decoded(self, content: bytes, name: str) -> np.ndarray:
        channels, height, width = self.shape
        with _opened(content, name) as image:
            if channels == 1 and image.mode not in ("1", "L", "LA"):
                raise ValueError(f"{name}: wanted a gray image as the first one is, got {image.mode}; set channels=3")
            if not self.resize and image.size != (width, height):
                raise ValueError(
                    f"{name}: wanted {width} x {height} pixels as the first image has, "
                    f"got {image.width} x {image.height}; set size= to scale all to one"
                )
            try:
                if self.resize:
                    image.draft(None, (width, height))  # a JPEG need not be decoded larger than twice that
                pixels = image.convert("L" if channels == 1 else "RGB")
            except (OSError, SyntaxError, ValueError) as error:
                raise ValueError(f"{name}: the image is damaged ({error})") from error
        if pixels.size != (width, height):
            pixels = need("PIL.ImageOps", "resizing").fit(pixels, (width, height), method=need("PIL.Image", "").BICUBIC)
        return np.asarray(pixels).reshape(height, width, channels)


def _opened(content: bytes, name: str) -> Any:
    pillow = need("PIL.Image", "decoding images")
    try:
        return pillow.open(io.BytesIO(content))
    except (OSError, SyntaxError, ValueError, pillow.DecompressionBombError) as error:
        raise ValueError(f"{name}: not an image that Pillow can read ({error})") from error


def in_threads(work: Callable[[int], None], count: int) -> None:
    """work(0) ... work(count - 1), in as many threads as there are cores; decoders let go of Python's lock."""
    threads = os.cpu_count() or 1
    parts = np.array_split(np.arange(count), min(count, 8 * threads) or 1)

    def several(part: np.ndarray) -> None:
        for index in part.tolist():
            work(index)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(several, parts))

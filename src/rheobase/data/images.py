"""Encoded images, from files or rows of a table: decoded by Pillow to one size, all at once or as they are needed."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from rheobase.data.extra import need
from rheobase.data.threads import in_threads

SMALL = 64 * 64  # pixels below which threads only wait for each other
_GRAY, _COLOURS = ("1", "L", "LA"), ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
_DAMAGED = (OSError, SyntaxError, ValueError, TypeError, EOFError, struct.error)  # what Pillow's decoders raise


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
        first = decoded(*encoded[0])
        width, height = (size, size) if size else first.size
        return cls(encoded, (channels or len(first.getbands()), height, width), size is not None)

    def __getitems__(self, indices: Sequence[int]) -> Tensor:
        """Images uint8 `[len(indices), C, H, W]` in channels-last memory; a loader's worker does it with one thread.

        Raises:
            ValueError: an image that cannot be decoded (see `decoded`), or has another size or colours where gray is
                wanted; the error names its file or row.
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
        image = decoded(content, name, (width, height) if self.resize else None)
        if channels == 1 and image.mode != "L":
            raise ValueError(f"{name}: wanted a gray image, got {image.mode}; set channels=3 to read all as colours")
        if image.size != (width, height):
            if not self.resize:
                raise ValueError(
                    f"{name}: wanted {width} x {height} pixels as the first image has, "
                    f"got {image.width} x {image.height}; set size= to scale all to one"
                )
            image = need("PIL.ImageOps", "resizing").fit(image, (width, height), method=need("PIL.Image", "").BICUBIC)
        return np.asarray(image if channels == 1 else image.convert("RGB")).reshape(height, width, channels)


def decoded(content: bytes, name: str, least: tuple[int, int] | None = None) -> Any:
    """The Pillow image of encoded bytes, upright (by its EXIF orientation), in mode "L" (gray) or "RGB".

    16-bit gray v becomes v / 257, rounded; of 16-bit colours Pillow gives the upper eight bits. Colour profiles are not
    looked at.

    Args:
        content: the bytes.
        name: for an error.
        least: a width and height that are enough: a JPEG is then not decoded larger than twice that.

    Raises:
        ValueError: what Pillow cannot read, or what eight bits a channel do not tell: numbers of another range,
            transparency, several frames.
    """
    pillow = need("PIL.Image", "decoding images")
    try:
        image = pillow.open(io.BytesIO(content))
    except (*_DAMAGED, pillow.DecompressionBombError) as error:
        raise ValueError(f"{name}: not an image that Pillow can read ({error})") from error
    with image:
        deep = image.mode == "I;16" and image.format == "PNG"  # elsewhere such numbers may have another range
        if not deep and image.mode not in _GRAY + _COLOURS:
            raise ValueError(
                f"{name}: wanted an image of 8 bits a channel, or a PNG of 16-bit gray, got a {image.format} of mode "
                f"{image.mode}: convert it as its numbers are meant"
            )
        try:
            frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)  # (an MPO has previews behind it)
            if least:
                image.draft(None, least)
            image.load()
            need("PIL.ImageOps", "turning images").exif_transpose(image, in_place=True)
            gray, clear = deep or image.mode in _GRAY, deep and "transparency" in image.info
            if deep:
                image = pillow.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
            elif image.has_transparency_data:
                image = image.convert("LA" if gray else "RGBA")
                clear = image.getextrema()[-1][0] < 255
            pixels = image.convert("L" if gray else "RGB")
        except _DAMAGED as error:
            raise ValueError(f"{name}: the image is damaged ({error})") from error
    if frames > 1:
        raise ValueError(f"{name}: wanted one image, got {frames} frames: keep one of them")
    if clear:
        raise ValueError(f"{name}: wanted an opaque image, got transparent pixels: put it on a background first")
    return pixels

"""What the pixels of a file mean: depth, colours, transparency, orientation; what eight bits do not tell is refused."""

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from rheobase.data import load
from rheobase.data.images import Pictures, decoded

RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8)


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(image, kind="PNG", channels=None, size=None, **options):
    return Pictures.of([(encoded(image, kind, **options), "x")], size, channels).__getitems__([0])[0]


def turned(orientation):
    """An EXIF that says how the image is to be turned."""
    exif = Image.Exif()
    exif[0x112] = orientation
    return exif


def test_gray_of_16_bits_is_scaled_exactly():
    deep = np.array([[0, 128, 129, 256], [257, 385, 386, 65535]], np.uint16)
    for channels in (None, 1, 3):
        got = pixels(Image.fromarray(deep), channels=channels)
        want = torch.from_numpy(np.round(deep / 257).astype(np.uint8))
        assert torch.equal(got, want.expand(channels or 1, 2, 4))
    every = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    assert (pixels(Image.fromarray(every))[0].numpy() == np.round(every / 257)).all()


def png(values, kind):
    """A PNG of 16 bits, which Pillow does not write: of gray (kind 0), colours (2), gray and alpha (4)."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, kind, 0, 0, 0)
    parts = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    chunks = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def test_of_colours_of_16_bits_the_upper_eight_are_taken():
    deep = np.random.default_rng(0).integers(0, 2**16, (5, 7, 3))
    assert (np.asarray(decoded(png(deep, 2), "x")) == deep >> 8).all()
    plain = 257 * RAMP.astype(int)
    assert (np.asarray(decoded(png(plain, 0), "x")) == RAMP).all()
    with_alpha = np.stack([plain, np.full_like(plain, 65535)], 2)  # which Pillow takes for colours
    assert (np.asarray(decoded(png(with_alpha, 4), "x")) == RAMP[..., None]).all()


@pytest.mark.parametrize(
    ("image", "kind", "mode"),
    [
        (Image.fromarray(np.linspace(0, 1, 48, dtype=np.float32).reshape(6, 8)), "TIFF", "F"),
        (Image.fromarray(np.arange(48, dtype=np.int32).reshape(6, 8) * 3000), "TIFF", "I"),
        (Image.fromarray(np.arange(48, dtype=np.uint16).reshape(6, 8) * 60), "TIFF", "I;16"),
        (Image.new("LAB", (8, 6)), "TIFF", "LAB"),
    ],
)
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_numbers_whose_range_is_not_told_are_refused(image, kind, mode, channels):
    with pytest.raises(
        ValueError, match=f"^x: wanted an image of 8 bits a channel.* got a {kind} of mode {mode}: conv"
    ):
        pixels(image, kind, channels)


def palette(index):
    image = Image.new("P", (2, 2), index)
    image.putpalette(bytes(range(30)))
    return image


def clear(mode, alpha):
    colour = {"RGBA": (9, 8, 7, alpha), "LA": (9, alpha), "PA": (0, alpha)}[mode]
    return Image.new(mode, (8, 6), colour)


@pytest.mark.parametrize(("mode", "kind"), [("RGBA", "PNG"), ("LA", "PNG"), ("PA", "TIFF"), ("RGBA", "WEBP")])
def test_transparency_is_refused_and_an_opaque_alpha_is_none(mode, kind):
    whole = pixels(clear(mode, 255), kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert len(whole) == (1 if mode == "LA" else 3)
    if mode != "PA":
        assert whole.flatten(1)[:, 0].tolist() == ([9] if mode == "LA" else [9, 8, 7])
    with pytest.raises(ValueError, match="^x: wanted an opaque image, got transparent pixels: put it on a background"):
        pixels(clear(mode, 254), kind)


@pytest.mark.parametrize(
    ("image", "key"),
    [
        (palette(3), 3),
        (palette(1), b"\xff\x80"),
        (Image.new("RGB", (2, 2), (1, 2, 3)), (1, 2, 3)),
        (Image.new("L", (2, 2), 9), 9),
        (Image.fromarray(np.full((2, 2), 300, np.uint16)), 300),
    ],
)
def test_a_colour_that_stands_for_transparency_is_refused(image, key):
    with pytest.raises(ValueError, match="transparent pixels"):
        pixels(image, transparency=key)


def test_a_transparent_colour_that_no_pixel_has_is_none():
    assert pixels(palette(2), transparency=3)[:, 0, 0].tolist() == [6, 7, 8]
    assert pixels(palette(2), transparency=b"\x00\x80\xff")[:, 0, 0].tolist() == [6, 7, 8]
    assert pixels(Image.new("L", (2, 2), 9), transparency=8).unique().tolist() == [9]


def test_several_frames_are_refused():
    first, second = Image.new("L", (4, 4), 1), Image.new("L", (4, 4), 200)
    for kind in ("GIF", "TIFF", "PNG", "WEBP"):
        with pytest.raises(ValueError, match="^x: wanted one image, got 2 frames: keep one of them"):
            pixels(first, kind, save_all=True, append_images=[second])
    preview = encoded(first, "MPO", save_all=True, append_images=[second])  # as cameras write: a JPEG with a preview
    assert decoded(preview, "x").size == (4, 4)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("size", [None, 6])
def test_images_are_turned_as_their_exif_says(kind, size):
    want = {6: np.rot90(RAMP, -1), 3: np.rot90(RAMP, 2), 8: np.rot90(RAMP), 2: RAMP[:, ::-1], 1: RAMP}
    wide = Image.fromarray(5 * RAMP).resize((64, 48), Image.Resampling.NEAREST)  # blocks of 8x8: nothing is lost
    for orientation, upright in want.items():
        got = pixels(
            wide, kind, size=size and 48, exif=turned(orientation), **({"quality": 95} if kind == "JPEG" else {})
        )
        whole = np.kron(5 * upright, np.ones((8, 8)))
        if size:  # cut around the centre
            cut = abs(whole.shape[0] - whole.shape[1]) // 2
            whole = whole[cut : cut + 48, :48] if whole.shape[0] > 48 else whole[:48, cut : cut + 48]
        assert got.shape[1:] == whole.shape
        assert np.abs(got[0].numpy() - whole).max() <= 12, (orientation, kind)


def test_a_set_of_turned_images_has_one_size(tmp_path):
    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.fromarray(RAMP).save(tmp_path / part / name / "0.png", exif=turned(6))
            Image.fromarray(np.ascontiguousarray(np.rot90(RAMP, -1))).save(tmp_path / part / name / "1.png")
    images = load("images", str(tmp_path), validation=1).test.inputs
    assert images.shape == (4, 1, 8, 6)
    assert all(torch.equal(image, images[0]) for image in images)


def test_other_colours_become_red_green_and_blue():
    for mode, kind in (("P", "PNG"), ("CMYK", "TIFF"), ("YCbCr", "TIFF")):
        image = Image.new("RGB", (3, 2), (255, 0, 0)).convert(mode)
        assert pixels(image, kind)[:, 0, 0].tolist() == list(image.convert("RGB").getpixel((0, 0)))
    with pytest.raises(ValueError, match="^x: wanted a gray image, got RGB; set channels=3 to read all as colours"):
        pixels(Image.new("P", (2, 2)), channels=1)

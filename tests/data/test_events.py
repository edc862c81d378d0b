import logging

import numpy as np
import pytest
import torch

from rheobase.data import events, load


def packed(*found):
    """Bytes of events (x, y, polarity, microseconds): 8, 8, 1 and 23 bits."""
    return b"".join((x << 32 | y << 24 | p << 23 | t).to_bytes(5, "big") for x, y, p, t in found)


EVENTS = [(1, 2, 0, 5), (33, 0, 1, 100), (0, 33, 1, 70_000), (7, 8, 0, 2**23 - 1)]


def test_bits_are_read_as_they_were_written():
    got = np.stack(events.read_events(packed(*EVENTS)), 1)
    assert got.tolist() == [list(event) for event in EVENTS]
    assert events.read_events(bytes([0x11, 0x05, 0x81, 0x02, 0x03]))[3].tolist() == [0x010203]


def test_a_clock_that_ran_over_is_put_right():
    over = (0, 240, 0, 0)
    got = events.read_events(packed((1, 1, 1, 8000), over, (2, 2, 0, 100), over, (3, 3, 1, 200)))
    assert got[0].tolist() == [1, 2, 3]
    assert got[3].tolist() == [8000, 8292, 16584]


def test_frames_by_time_and_by_count():
    found = events.read_events(
        packed((0, 0, 0, 1010), (1, 0, 1, 1011), (2, 0, 0, 1012), (3, 0, 1, 1013), (4, 0, 0, 2009))
    )
    by_time, by_count = (events.to_frames(*found, 2, by) for by in ("time", "count"))
    assert by_time.shape == (2, 2, 34, 34)
    assert by_time.sum((1, 2, 3)).tolist() == [4, 1]
    assert by_count.sum((1, 2, 3)).tolist() == [3, 2]
    assert (by_time[0, 0, 0, 0], by_time[0, 1, 0, 1], by_time[1, 0, 0, 4]) == (1, 1, 1)  # [frame, polarity, y, x]


@pytest.mark.parametrize("by", ["time", "count"])
@pytest.mark.parametrize("frames", [1, 3, 10])
def test_every_event_is_counted_once(by, frames):
    generator = np.random.default_rng(1)
    x, y = generator.integers(0, 34, (2, 500))
    found = (x, y, generator.integers(0, 2, 500), np.sort(generator.integers(0, 300_000, 500)))
    made = events.to_frames(*found, frames, by)
    whole = np.zeros((2, 34, 34), int)
    np.add.at(whole, (found[2], y, x), 1)
    assert (made.sum(0) == whole).all()
    if by == "count":
        assert np.ptp(made.sum((1, 2, 3))) <= 1


@pytest.fixture
def root(tmp_path):
    """Two recordings of each digit to train, one to test; digit d has d + 1 events at x = d."""
    for part, count in (("Train", 2), ("Test", 1)):
        for digit in range(10):
            folder = tmp_path / "nmnist" / part / str(digit)
            folder.mkdir(parents=True)
            for index in range(count):
                found = [(digit, index, 1, 100 * time) for time in range(digit + 1)]
                (folder / f"{10 * index + digit + 1:05d}.bin").write_bytes(packed(*found))
    return tmp_path


def test_the_official_layout(root, tmp_path):
    data = load("nmnist", str(root), frames=4, validation=10)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [10, 10, 10]
    assert data.train.inputs.dtype == torch.uint8
    assert data.train.inputs.shape[1:] == (4, 2, 34, 34)
    for part in (data.train, data.validation, data.test):
        for frames, label in zip(part.inputs, part.labels, strict=True):
            assert frames[:, 1, :, label].sum() == frames.sum() == label + 1
    assert len(load("nmnist", str(root / "nmnist"), validation=10).test) == 10  # the folder itself


def test_frames_are_made_once_and_anew_when_something_changes(root, tmp_path, monkeypatch):
    cache = tmp_path / "kept"
    first = load("nmnist", str(root), cache=str(cache), validation=10)
    assert len(list(cache.iterdir())) == 2
    assert not (root / "nmnist" / ".rheobase").exists()
    with monkeypatch.context() as patch:
        patch.setattr(events, "to_frames", None)
        again = load("nmnist", str(root), cache=str(cache), validation=10)
    assert torch.equal(first.train.inputs, again.train.inputs)
    assert torch.equal(first.train.labels, again.train.labels)
    load("nmnist", str(root), cache=str(cache), validation=10, frames=3)
    assert len(list(cache.iterdir())) == 4
    (root / "nmnist" / "Test" / "3" / "00004.bin").write_bytes(packed((5, 5, 0, 1)))
    changed = load("nmnist", str(root), cache=str(cache), validation=10)
    assert changed.test.inputs[changed.test.labels == 3].sum() == 1


def test_a_damaged_cache_is_made_anew(root, tmp_path, caplog):
    cache = tmp_path / "kept"
    first = load("nmnist", str(root), cache=str(cache), validation=10)
    for file in cache.iterdir():
        file.write_bytes(file.read_bytes()[:50])
    with caplog.at_level(logging.WARNING, "rheobase"):
        again = load("nmnist", str(root), cache=str(cache), validation=10)
    assert "is damaged" in caplog.text
    assert torch.equal(first.test.inputs, again.test.inputs)


def test_without_a_place_to_write_frames_are_in_memory_only(root, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    with caplog.at_level(logging.WARNING, "rheobase"):
        data = load("nmnist", str(root), cache=str(tmp_path / "file"), validation=10)
    assert len(data.test) == 10
    assert "kept in memory only" in caplog.text


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (packed(*EVENTS)[:-1], "wanted events of 5 bytes, got 19 bytes"),
        (b"", "wanted events of 5 bytes, got 0 bytes"),
        (packed((34, 0, 0, 1)), "within 34 x 34 pixels, got one at x = 34, y = 0"),
        (packed((0, 0, 0, 9), (0, 0, 0, 8)), "in the order of time"),
        (packed((0, 240, 0, 0)), "got none"),
        (packed(*[(1, 1, 1, 1)] * 256), "at most 255 events of a pixel in a frame, got 256: take more frames"),
    ],
)
def test_a_damaged_file_is_named(root, content, match):
    (root / "nmnist" / "Train" / "4" / "00005.bin").write_bytes(content)
    with pytest.raises(ValueError, match=rf"Train/4/00005\.bin: .*{match}"):
        load("nmnist", str(root))


def test_a_missing_class_is_named(root):
    (root / "nmnist" / "Train" / "6" / "00007.bin").unlink()
    (root / "nmnist" / "Train" / "6" / "00017.bin").unlink()
    with pytest.raises(FileNotFoundError, match=r"wanted \S*nmnist/Train/6/\*\.bin; "):
        load("nmnist", str(root))


@pytest.mark.parametrize("options", [{"by": "number"}, {"frames": 0}])
def test_bad_options(root, options):
    with pytest.raises(ValueError, match="frames must be at least 1 and by time or count"):
        load("nmnist", str(root), **options)

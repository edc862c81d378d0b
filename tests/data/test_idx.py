import gzip
import hashlib
import os
import struct
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from rheobase.data import idx, load


def idx_file(tensor):
    head = struct.pack(">BBBB", 0, 0, 8, tensor.dim()) + struct.pack(f">{tensor.dim()}I", *tensor.shape)
    return head + tensor.numpy().tobytes()


def test_parse_reads_what_was_written():
    images = torch.arange(2 * 3 * 4, dtype=torch.uint8).view(2, 3, 4)
    assert torch.equal(idx.parse(idx_file(images), "x"), images)
    assert torch.equal(idx.parse(idx_file(images.flatten()), "x"), images.flatten())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda content: content[:-1], "must have 40 bytes, got 39"),
        (lambda content: content + b"0", "must have 40 bytes, got 41"),
        (lambda content: content[:9], "3 axes must have 16 bytes or more, got 9"),
        (lambda content: b"\x00\x00\x0d" + content[3:], "not an IDX file of bytes: .* got 00 00 0d"),
        (lambda content: b"", "not an IDX file"),
    ],
)
def test_parse_refuses_what_is_not_whole(change, match):
    content = idx_file(torch.zeros(2, 3, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match=f"^file.gz: .*{match}"):
        idx.parse(change(content), "file.gz")


@pytest.fixture
def tiny(monkeypatch):
    """A stand-in with MNIST's file names, and the function that writes it."""
    labels = torch.arange(6000).remainder(10).to(torch.uint8)
    tensors = {
        "train-images-idx3-ubyte.gz": torch.randint(0, 256, (6000, 2, 2), dtype=torch.uint8),
        "train-labels-idx1-ubyte.gz": labels,
        "t10k-images-idx3-ubyte.gz": torch.zeros(10, 2, 2, dtype=torch.uint8),
        "t10k-labels-idx1-ubyte.gz": labels[:10],
    }
    packed = {name: gzip.compress(idx_file(tensor), 1) for name, tensor in tensors.items()}
    sums = {name: hashlib.md5(content).hexdigest() for name, content in packed.items()}
    monkeypatch.setitem(idx.SOURCES, "mnist", replace(idx.SOURCES["mnist"], md5=sums))

    def write(folder):
        folder.mkdir(parents=True)
        for name, content in packed.items():
            (folder / name).write_bytes(content)

    return write


@pytest.mark.parametrize("layout", ["mnist", "MNIST/raw"])
@pytest.mark.parametrize("by", ["option", "variable"])
def test_both_layouts_and_both_ways_to_the_root(tiny, tmp_path, monkeypatch, layout, by):
    tiny(tmp_path / layout)
    monkeypatch.delenv("RHEOBASE_DATA", raising=False)
    if by == "variable":
        monkeypatch.setenv("RHEOBASE_DATA", str(tmp_path))
    data = load("mnist", str(tmp_path) if by == "option" else None)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [1000, 5000, 10]
    assert data.validation.labels.bincount().tolist() == [500] * 10


def test_a_damaged_file_names_both_checksums(tiny, tmp_path):
    tiny(tmp_path / "mnist")
    path = tmp_path / "mnist" / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match=r"t10k-images.*wanted md5 [0-9a-f]{32}, got [0-9a-f]{32}"):
        load("mnist", str(tmp_path))


def test_a_missing_file_names_it_and_what_is_there(tiny, tmp_path):
    tiny(tmp_path / "mnist")
    (tmp_path / "mnist" / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"wanted \S*mnist/t10k-labels.*holds t10k-images.*get the four"):
        load("mnist", str(tmp_path))


def test_a_missing_folder_names_the_layout(tmp_path):
    (tmp_path / "other").mkdir()
    with pytest.raises(FileNotFoundError, match=r"wanted \S*fashion-mnist/train-images.* and 3 more; .* holds other;"):
        load("fashion-mnist", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        load("mnist", str(tmp_path / "absent"))


def test_no_root_says_how_to_give_one(monkeypatch):
    monkeypatch.delenv("RHEOBASE_DATA", raising=False)
    with pytest.raises(ValueError, match=r"--data\.root DIR.*RHEOBASE_DATA"):
        load("mnist")


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_the_official_files(name):
    root = os.environ.get("RHEOBASE_DATA") or str(Path(__file__).parents[2].parent / "shared" / "data")
    if not (Path(root) / name).is_dir():
        pytest.skip(f"no {name} files: set RHEOBASE_DATA to a folder that holds {name}/")
    data = load(name, root)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [55000, 5000, 10000]
    assert data.train.inputs.shape[1:] == (1, 28, 28)
    mean, std = {"mnist": (0.1307, 0.3081), "fashion-mnist": (0.2860, 0.3530)}[name]  # as everybody has them
    assert data.mean.item() / 255 == pytest.approx(mean, abs=1e-3)
    assert data.std.item() / 255 == pytest.approx(std, abs=1e-3)

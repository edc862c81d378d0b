"""The loaders on the real sets, where they are at hand."""

import os
from pathlib import Path

import pytest
import torch

from rheobase.data import load

ROOT = Path(os.environ.get("RHEOBASE_DATA") or Path(__file__).parents[2].parent / "shared" / "data")


def folder(name):
    if not (ROOT / name).is_dir():
        pytest.skip(f"no {name}: set RHEOBASE_DATA to a folder that holds {name}/")
    return str(ROOT)


def sizes(data):
    return [len(part) for part in (data.train, data.validation, data.test)]


def test_cifar100():
    data = load("cifar100", folder("cifar100"))
    assert sizes(data) == [45000, 5000, 10000]
    assert data.test.labels.bincount().tolist() == [100] * 100
    assert data.validation.labels.bincount().tolist() == [50] * 100
    assert data.train.inputs.shape[1:] == (3, 32, 32)
    assert data.class_names[:2] == ("apple", "aquarium_fish")
    torch.testing.assert_close(
        data.mean / 255, torch.tensor([0.5071, 0.4866, 0.4409]), atol=2e-3, rtol=0
    )  # known to all
    torch.testing.assert_close(data.std / 255, torch.tensor([0.2673, 0.2564, 0.2762]), atol=2e-3, rtol=0)


def test_imagenette_is_streamed_as_it_is_in_memory(tmp_path):
    root = folder("imagenette128")
    data = load("imagenette", root, size=64, stream=True, cache=str(tmp_path))
    assert sizes(data) == [8522, 947, 3925]
    assert len(data.class_names) == 10
    chosen = torch.tensor([0, 8521, 4000])
    whole = load("imagenette", root, size=64)
    assert torch.equal(data.train.read(chosen).inputs, whole.train.read(chosen).inputs)
    assert whole.test.labels.bincount().min() > 350


def test_spoken_digits():
    data = load("spoken-digits", folder("fsdd"))
    assert sizes(data) == [2430, 270, 300]
    assert data.test.labels.bincount().tolist() == [30] * 10
    alone = load("spoken-digits", folder("fsdd"), split="speaker:theo")
    assert sizes(alone) == [2250, 250, 500]


def test_nmnist(tmp_path):
    folder("nmnist-small")
    data = load("nmnist", str(ROOT / "nmnist-small"), frames=8, cache=str(tmp_path))
    assert sizes(data) == [900, 100, 100]
    assert data.train.inputs.shape[1:] == (8, 2, 34, 34)
    assert data.train.inputs.flatten(1).sum(1).min() > 1000  # events of a recording

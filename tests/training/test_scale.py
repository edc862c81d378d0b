"""The large recipes, made small: two processes on an ImageNet of made images, killed and resumed."""

import json
import os
import signal
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import rheobase as rb
from benchmarks.loader_workload import photograph
from rheobase.training import build, sources

from .test_distributed import KEYS, ended, finish, numbers, pytestmark, start, words  # noqa: F401  (pytestmark is read)

SMALL = {
    "model.width": 4,
    "model.steps": 2,
    "data.size": 32,
    "data.batch_size": 8,
    "data.train_limit": 80,
    "data.workers": 1,
    "trainer.epochs": 2,  # of ten steps
    "trainer.devices": 2,
    "trainer.threads": 1,
    "trainer.precision": "32",
    "trainer.accelerator": "cpu",
    "trainer.checkpoint_every_steps": 3,
    "trainer.checkpoint_every_seconds": "null",
}


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """Two images of each of 1,000 classes, and some for the test, as the Hub has them."""
    root = tmp_path_factory.mktemp("data")
    (root / "imagenet").mkdir()
    pictures = [photograph(number, 48, 36) for number in range(32)]
    for part, labels in (("train", [*range(1000), *range(1000)]), ("validation", range(24))):
        images = [{"bytes": pictures[(7 * place) % 32], "path": None} for place in range(len(labels))]
        table = pa.table({"image": images, "label": list(labels)})
        pq.write_table(table, root / "imagenet" / f"{part}-00000-of-00001.parquet", row_group_size=256)
    return root


def weights(folder):
    return torch.load(Path(folder) / "checkpoints" / "last.ckpt", weights_only=True)["net"]


def test_imagenet_on_two_processes_is_killed_and_resumed_bit_for_bit(imagenet, tmp_path):
    options = {**SMALL, "data.root": imagenet}
    finish(start("train", "imagenet-sew-resnet50", *words({**options, "run": tmp_path / "whole"})))
    process = start("train", "imagenet-sew-resnet50", *words({**options, "run": tmp_path / "run"}))
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    while process.poll() is None and not last.exists():
        time.sleep(0.002)
    first = last.stat().st_mtime_ns
    while process.poll() is None and last.stat().st_mtime_ns == first:  # the first checkpoint is that of step 1
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL)
    output = ended(process)  # when its workers, and those of the other process, have ended too
    assert process.returncode == -signal.SIGKILL, output
    assert not (tmp_path / "run" / "summary.json").exists()
    assert "continuing after step" in finish(start("resume", str(tmp_path / "run")))
    found, wanted = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("run", "whole"))
    assert {key: found[key] for key in KEYS} == {key: wanted[key] for key in KEYS}
    assert numbers(tmp_path / "run") == numbers(tmp_path / "whole")
    assert [row["step"] for row in numbers(tmp_path / "run")] == [10, 20]
    got, want = (weights(tmp_path / name) for name in ("run", "whole"))
    assert all(torch.equal(got[name], want[name]) for name in want)
    assert any(0.01 < layer["rate"] < 0.9 for layer in found["layers"])
    assert found["layers"] == wanted["layers"]


@pytest.mark.parametrize(
    ("name", "depth", "steps", "millions"),
    [
        ("imagenet-sew-resnet18", 18, 4, 11.7),
        ("imagenet-sew-resnet34", 34, 4, 21.8),
        ("imagenet-sew-resnet50", 50, 4, 25.6),
        ("imagenet-sew-resnet101", 101, 4, 44.5),
        ("imagenet-sew-resnet152", 152, 4, 60.2),
        ("cifar100-resnet19", 19, 4, 12.7),
        ("cifar100-resnet50", 50, 10, 23.7),
        ("imagenette-resnet50", 50, 10, 23.5),
        ("imagenette-sew-resnet50", 50, 4, 23.5),
    ],
)
def test_the_large_recipes_are_what_they_say(name, depth, steps, millions):
    """Depth, steps, and the parameters of the ANN of that depth; on the meta device, which makes no numbers."""
    recipe = sources.load(name)
    data = type("Data", (), {"classes": {"imag": 1000, "cifa": 100}[name[:4]], "channels": 3})
    if name.startswith("imagenette"):
        data.classes = 10
    with torch.device("meta"):
        net = build.model(recipe, data)
    assert net.steps == steps
    assert net.description.depth == depth
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(1e6 * millions, rel=0.005)
    assert net(torch.rand(2, 3, recipe.data.size or 32, recipe.data.size or 32, device="meta")).shape[0] == steps


@pytest.mark.parametrize(
    ("name", "classes", "size", "weights"),
    [
        # layers with weights of their own at each place are convolutions here, so the published count is larger
        ("cifar10-soft-lif", 10, 32, 64 * 75 + 64 * 1600 + 64 * 576 + 32 * 576 + 32 * 7 * 7 * 10),
        ("cifar100-soft-lif", 100, 32, 64 * 75 + 64 * 1600 + 64 * 576 + 32 * 576 + 32 * 7 * 7 * 100),
        ("svhn-soft-lif", 10, 32, 16 * 75 + 64 * 400 + 64 * 8 * 8 * 2000 + 2000 * 10),
        ("imagenet-soft-lif", 1000, 224, 61_090_496),  # as published
    ],
)
def test_the_recipes_of_rate_neurons_are_what_they_say(name, classes, size, weights):
    recipe = sources.load(name)
    data = type("Data", (), {"classes": classes, "channels": 3})
    with torch.device("meta"):
        net = build.model(recipe, data)
    assert sum(p.numel() for p in net.parameters() if p.dim() > 1) == weights
    assert any(isinstance(m, rb.SoftLIF) for m in net.modules())
    assert net(torch.rand(2, 3, size, size, device="meta")).shape == (1, 2, classes)

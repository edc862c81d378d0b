"""Seconds and bytes a second of writing and reading the checkpoint of a run, and what memory that takes."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

import rheobase as rb
from benchmarks.harness import Call, Case, Table, measure
from benchmarks.memory import add_peaks
from rheobase.training.folder import RunFolder
from rheobase.training.journal import Journal
from rheobase.training.optimization import optimizer
from rheobase.training.recipe import OptimizerOptions


def checkpoint(repeats: int, quick: bool, compiled: bool) -> Iterator[Table]:
    """Of SEW-ResNet-50 for 1,000 classes: weights, the best weights, and what SGD keeps."""
    width = 4 if quick else 64
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:  # the disk that runs are written to
        path = Path(folder)
        _run(path, width)()
        size = RunFolder(path).last.stat().st_size
        cases = [
            Case("write, as a run does", partial(_run, path, width)),
            Case("read, as a resume does", partial(_read, path)),
            Case("as many bytes, written to disk", partial(_bytes, path, size)),
        ]
        title = f"checkpoint of sew_resnet50, width {width}, with SGD's momentum: {size / 1e6:.1f} MB"
        table = measure(title, cases, min(repeats, 7), warmup=1)
        table.items, table.unit = size / 1e6, "MB"
        if not quick:
            (path / "small").mkdir()
            _run(path / "small", 4)()
            smalls = [partial(_run, path / "small", 4), partial(_read, path / "small"), None]
            add_peaks(table, cases, lambda case: smalls[cases.index(case)])
        yield table


def _state(width: int) -> dict[str, Any]:
    """What a checkpoint of a run holds, after a step."""
    net = rb.models.create("sew_resnet50", classes=1000, stem="imagenet", width=width)
    sgd = optimizer(net, OptimizerOptions(name="sgd"))
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter)
    sgd.step()
    best = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    weights = {"net": dict(net.state_dict()), "optimizer": sgd.state_dict(), "best": best}
    return weights | {
        **{"ema": None, "journal": dataclasses.asdict(Journal()), "data": {}},
        **{"recipe_sha256": "", "threads": 1, "processes": 1},
    }


def _run(folder: Path, width: int) -> Call:
    (folder / "checkpoints").mkdir(exist_ok=True)
    return partial(RunFolder(folder).write_checkpoint, _state(width))


def _read(folder: Path) -> Call:
    return RunFolder(folder).read_checkpoint


def _bytes(folder: Path, size: int) -> Call:
    content = os.urandom(size)

    def call() -> None:
        with (folder / "bytes").open("wb") as file:
            file.write(content)
            os.fsync(file.fileno())

    return call

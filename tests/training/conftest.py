import csv
from contextlib import contextmanager

import pytest
import torch

from rheobase.training import loop

# one thread: tests share the machine, and threads that wait for each other on busy cores are slow
TINY = {
    "model.name": "plain_convnet",
    "model.depth": 2,
    "model.width": 4,
    "model.steps": 2,
    "data.name": "digits",
    "data.train_limit": 96,
    "data.batch_size": 16,
    "data.shift": 1,
    "schedule.name": "one_cycle",
    "optimizer.lr": 0.01,
    "trainer.epochs": 3,
    "trainer.threads": 1,
    "trainer.accelerator": "cpu",
    "trainer.checkpoint_every_steps": 2,
}


@pytest.fixture(scope="session")
def tiny_options():
    """Overrides for a run of 3 epochs of 6 steps that takes a moment."""
    return dict(TINY)


@pytest.fixture
def tiny(tmp_path, tiny_options):
    """The same, with its own run folder."""
    return {**tiny_options, "run": str(tmp_path / "run")}


@pytest.fixture
def rows():
    """Reads metrics.csv without its timing columns."""

    def read(folder):
        with (folder / "metrics.csv").open() as file:
            return [
                {k: v for k, v in row.items() if k not in ("images_per_second", "seconds")}
                for row in csv.DictReader(file)
            ]

    return read


@pytest.fixture
def checkpoint():
    """Reads last.ckpt of a run folder."""
    return lambda folder: torch.load(f"{folder}/checkpoints/last.ckpt", weights_only=True)


@pytest.fixture
def firing():
    """Checks that the layers of a run fire."""

    def check(run):
        assert all(0.01 < layer["rate"] < 0.9 for layer in run.summary["layers"]), run.summary["layers"]

    return check


@pytest.fixture
def stopping(monkeypatch):
    """A context in which a run ends before a step."""

    @contextmanager
    def at(step):
        original = loop.Training.train_on

        def train_on(self, *batch):
            if self.step == step:
                raise KeyError("stop")
            return original(self, *batch)

        with monkeypatch.context() as patch, pytest.raises(KeyError, match="stop"):
            patch.setattr(loop.Training, "train_on", train_on)
            yield

    return at

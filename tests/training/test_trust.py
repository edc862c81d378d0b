"""Things that go wrong around a run: each is told in a line that names it, and nothing that was there is lost."""

import errno
import os
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import rheobase as rb
from rheobase.data import load
from rheobase.training import evaluate, resume


@pytest.fixture
def stopped(tiny, stopping):
    """Options of a run that ended after step 9."""
    with stopping(9):
        rb.train("digits", **tiny)
    return tiny


@pytest.mark.parametrize("name", ["last.ckpt", "metrics.csv", "best.safetensors", "summary.json"])
def test_a_full_disk_names_the_file_and_the_run_goes_on_later(
    stopped, tmp_path, monkeypatch, fails, rows, checkpoint, name
):
    whole = rb.train("digits", **{**stopped, "run": str(tmp_path / "whole")})
    before = checkpoint(stopped["run"])["journal"]
    fsync = os.fsync

    def full(handle):
        if f".{name}." in str(Path(f"/proc/self/fd/{handle}").readlink()):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        error = fails("resume", stopped["run"])
    assert "No space left on device" in error
    assert f"/{name}'" in error
    assert checkpoint(stopped["run"])["journal"]["epoch"] >= before["epoch"]
    assert not [path for path in (tmp_path / "run").rglob(".*") if path.is_file()]
    run = resume(stopped["run"])
    assert run.summary["weights_sha256"] == whole.summary["weights_sha256"]
    assert rows(run.folder) == rows(whole.folder)


class Poison:
    """Its pickle runs a command when it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def truncated(path, tmp_path):
    path.write_bytes(path.read_bytes()[:-1000])


def poisoned(path, tmp_path):
    state = torch.load(path, weights_only=True)
    torch.save({**state, "journal": Poison(str(tmp_path / "harm"))}, path)


def pickled(path, tmp_path):
    path.write_bytes(pickle.dumps(Poison(str(tmp_path / "harm"))))


def incomplete(path, tmp_path):
    state = torch.load(path, weights_only=True)
    del state["optimizer"]
    torch.save(state, path)


@pytest.mark.parametrize("damage", [truncated, poisoned, pickled, incomplete])
def test_a_damaged_checkpoint_is_named_and_runs_nothing(stopped, tmp_path, fails, damage):
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    damage(path, tmp_path)
    error = fails("resume", stopped["run"])
    assert error.startswith(f"rheobase: {path} is damaged")
    assert "put back a copy, or remove it" in error
    assert not (tmp_path / "harm").exists()


def test_a_checkpoint_of_another_run_is_refused(stopped, tmp_path, fails):
    other = rb.train("digits", **{**stopped, "run": str(tmp_path / "other"), "seed": 1, "trainer.epochs": 1})
    shutil.copy(other.folder / "checkpoints" / "last.ckpt", tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert "recipe.json is not the recipe that this run began with" in fails("resume", stopped["run"])


def test_a_damaged_best_model_is_named(tiny, fails):
    run = rb.train("digits", **{**tiny, "trainer.epochs": 1})
    best = run.folder / "checkpoints" / "best.safetensors"
    best.write_bytes(best.read_bytes()[:100])
    assert str(best) in fails("evaluate", str(run.folder))


def test_other_data_than_the_run_began_with_is_refused(stopped, monkeypatch, fails):
    data = load("digits")
    monkeypatch.setattr("rheobase.training.build.load", lambda *_: replace(data, mean=data.mean + 1))
    assert "this run began with other data: mean was" in fails("resume", stopped["run"])


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--data.name", "mnist", "--data.root", "."], "wanted mnist/train-images"),
        (["--data.name", "digit"], "did you mean 'digits'?"),
        (["--model.norm", "batch"], "norm must be one of current, tdbn, tebn, none, got 'batch'"),
        (["--model.width", "1.5"], "model.width must be an integer >= 1 or null, got 1.5"),
        (["--trainer.devices", "4", "--data.batch_size", "2"], "data.batch_size must be at least 4"),
        (["--trainer.accelerator", "gpu", "--trainer.devices", "32"], "trainer.devices 32; torch sees"),
    ],
)
def test_what_the_machine_or_the_model_cannot_do_is_one_line(tmp_path, monkeypatch, fails, words, match):
    monkeypatch.chdir(tmp_path)
    assert match in fails("train", *words)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda split: {"labels": split.labels.int()}, r"labels must be int64"),
        (lambda split: {"labels": split.labels[:-1]}, r"labels must be int64 \[\d+\]"),
        (lambda split: {"inputs": split.inputs.double()}, r"must be .*uint8 .*got torch\.float64"),
        (lambda split: {"inputs": split.inputs[0]}, r"must be .*uint8 \[N, C, H, W\].* got torch\.uint8 \[1, 8, 8\]"),
    ],
)
def test_samples_of_another_shape_or_type_are_refused(change, match):
    split = load("digits").train
    with pytest.raises(ValueError, match=match):
        replace(split, **change(split))


def test_images_that_the_model_does_not_take_are_refused(tiny):
    data = load("digits")
    coloured = replace(
        data,
        **{
            name: replace(getattr(data, name), inputs=getattr(data, name).inputs.expand(-1, 3, -1, -1))
            for name in ("train", "validation", "test")
        },
        mean=data.mean.expand(3),
        std=data.std.expand(3),
    )
    model = rb.models.create("plain_convnet", classes=10, in_channels=1, depth=2, width=4)
    options = {key: value for key, value in tiny.items() if "model" not in key}
    with pytest.raises(ValueError, match=r"images must be \[B, 1, H, W\].* got shape \[16, 3, 8, 8\]"):
        rb.train("digits", data=coloured, model=model, **options)


def test_evaluating_a_run_that_was_moved_away_names_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no run in .*gone: there is no .*recipe\.json"):
        evaluate(tmp_path / "gone")

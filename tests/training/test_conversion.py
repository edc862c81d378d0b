"""The conversion of a run's ANN: what is found is written, and is what the parts find."""

import json

import pytest
import torch

import rheobase as rb
from rheobase import cli
from rheobase.data.dataset import systematic
from rheobase.graph import with_qcfs
from rheobase.graph.methods import METHODS
from rheobase.training import Recipe
from rheobase.training.conversion import convert

ANN = {"model.spiking": False, "trainer.epochs": 2, "data.train_limit": 400, "model.norm": "current"}


@pytest.fixture(scope="module")
def run(tmp_path_factory, tiny_options):
    folder = tmp_path_factory.mktemp("runs") / "ann"
    return rb.train("digits", **{**tiny_options, **ANN, "run": str(folder)})


def test_accuracy_is_that_of_the_converted_best_model(run):
    found = convert(run.folder, steps=(2, 64), at=8, samples=100)
    assert found.ann_accuracy == run.summary["validation_accuracy"]
    data = rb.data.load("digits")
    x, y, _ = rb.data.Batches(data.validation, batch_size=240, mean=data.mean, std=data.std).batch(0, 0)
    with torch.no_grad():
        logits = found.net(x, steps=64)
    for steps, accuracy in found.curve.accuracy.items():
        right = (rb.readout(logits[:steps]).argmax(1) == y).double().mean().item()
        assert accuracy == pytest.approx(right, abs=1 / 240 + 1e-9)
    assert found.curve.accuracy[64] == pytest.approx(found.ann_accuracy, abs=0.05)
    written = json.loads(found.file.read_text())
    assert written["accuracy"] == {str(steps): share for steps, share in found.curve.accuracy.items()}
    assert written["method"] == {"name": "percentile", "percentile": 99.9, "initial": 0.0}
    assert [one["name"] for one in written["layers"]] == [one.name for one in found.net.layers]
    assert (written["at"], written["calibration_samples"], written["samples"]) == (8, 100, 240)
    assert written["exit"] is None


def test_the_command_prints_a_table_and_notes_looks_at_the_test_set(run, capsys):
    words = ["--method", "calibrated", "--steps", "4", "16", "--at", "4", "--exit", "0.9", "--split", "test"]
    cli.main(["convert", str(run.folder), *words])
    said = capsys.readouterr().out
    assert "exit at 0.9" in said
    assert "conversion-calibrated.json" in said
    assert "IF, threshold" in said
    written = json.loads((run.folder / "conversion-calibrated.json").read_text())
    assert written["split"] == "test"
    assert 1 <= written["exit"]["steps"] <= 16
    look = json.loads((run.folder / "evaluations.json").read_text())[-1]
    assert (look["split"], look["method"], look["accuracy"]) == ("test", "calibrated", written["accuracy"])
    for name in ("conversion-calibrated-2.json", "conversion-calibrated-3.json"):  # beside it: nothing is lost
        cli.main(["convert", str(run.folder), "--method", "calibrated", "--steps", "4", "--skip", "3", "--at", "4"])
        assert name in capsys.readouterr().out
        assert json.loads((run.folder / name).read_text())["skip"] == 3
    assert json.loads((run.folder / "conversion-calibrated.json").read_text()) == written


def test_fewer_samples_are_a_stratified_part_of_them(run):
    found = convert(run.folder, steps=(16,), limit=50)
    data = rb.data.load("digits")
    part = data.validation.at(systematic(data.validation.labels, 50))
    assert part.labels.bincount(minlength=10).tolist() == [5] * 10
    x, y, _ = rb.data.Batches(part, batch_size=50, mean=data.mean, std=data.std).batch(0, 0)
    with torch.no_grad():
        right = (rb.readout(found.net(x, steps=16)).argmax(1) == y).double().mean().item()
    assert found.curve.accuracy[16] == pytest.approx(right, abs=1 / 50 + 1e-9)
    assert (found.curve.samples, json.loads(found.file.read_text())["samples"]) == (50, 50)


def test_the_command_knows_the_methods():
    assert set(cli.METHODS) == set(METHODS)


def test_a_network_of_ones_own_with_qcfs(tiny, tiny_options):
    twin = rb.models.create("plain_convnet", classes=10, in_channels=1, depth=2, width=4, spiking=False)
    options = {key: value for key, value in tiny.items() if not key.startswith("model.")}
    run = rb.train("digits", model=with_qcfs(twin), **{**options, "trainer.epochs": 1})
    found = convert(run.folder, "qcfs", steps=(1, 8), model=with_qcfs(twin))
    assert found.file.name == "conversion-qcfs.json"
    assert 0 < found.curve.accuracy[8] <= 1


def test_a_recipe_names_its_levels(tiny_options, tmp_path, capsys):
    options = {**tiny_options, **ANN, "model.qcfs_levels": 8, "model.qcfs_threshold": 3.0, "model.width": 16}
    run = rb.train("digits", **{**options, "run": str(tmp_path / "run")})
    activations = [one for one in run.model.modules() if isinstance(one, rb.QCFS)]
    assert [one.levels for one in activations] == [8, 8]
    assert all(float(one.threshold.detach()) != 3.0 for one in activations)  # they were learned, and kept
    cli.main(["convert", str(run.folder), "--method", "qcfs", "--steps", "1", "8", "32", "--at", "8"])
    assert "IF, threshold" in capsys.readouterr().out
    written = json.loads((run.folder / "conversion-qcfs.json").read_text())
    assert written["ann_accuracy"] == run.summary["validation_accuracy"]
    assert written["accuracy"]["8"] == pytest.approx(written["ann_accuracy"], abs=0.08)
    assert written["ann_accuracy"] > 0.3, written["accuracy"]
    assert [one["threshold"] for one in written["layers"]] == [float(one.threshold.detach()) for one in activations]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"model.qcfs_levels": 4}, "model.qcfs_levels must be null where model.spiking is true, got 4"),
        ({"model.spiking": False, "model.qcfs_threshold": 2.0}, "must be null where model.qcfs_levels is null, got 2"),
        ({"model.spiking": False, "model.qcfs_levels": 0}, "model.qcfs_levels must be an integer >= 1 or null, got 0"),
    ],
)
def test_levels_are_an_ann_s(options, match):
    with pytest.raises(ValueError, match=match):
        Recipe().replace(options)


def test_mistakes_are_refused(run, tiny, fails, tmp_path):
    spiking = rb.train("digits", **{**tiny, "trainer.epochs": 1})
    said = fails("convert", str(spiking.folder))
    assert "is a run of a spiking net; convert takes one of an ANN: --model.spiking false" in said
    assert "no run in" in fails("convert", str(tmp_path))
    assert "invalid choice: 'best'" in fails("convert", str(run.folder), "--method", "best")
    assert "samples must be at least 1, got 0" in fails("convert", str(run.folder), "--samples", "0")
    assert "takes activations QCFS, got 1.neuron (Rate" in fails("convert", str(run.folder), "--method", "qcfs")
    said = fails("convert", str(run.folder), "--limit", "241")
    assert "limit must be from 1 to the 240 validation samples, got 241" in said

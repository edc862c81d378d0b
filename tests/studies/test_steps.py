"""The study of time steps, on a net that trains in a moment."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "recipes" / "studies" / "steps.py"
TINY = {
    **{"model.name": "plain_convnet", "model.depth": 2, "model.width": 8, "data.name": "digits"},
    **{"data.train_limit": 600, "data.batch_size": 16, "optimizer.lr": 0.02, "trainer.epochs": 3},
    **{"trainer.accelerator": "cpu", "trainer.threads": 1},
}


@pytest.fixture
def steps(monkeypatch):
    """The file as a module, with few steps."""
    spec = importlib.util.spec_from_file_location("steps_study", FILE)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "steps_study", module)
    spec.loader.exec_module(module)
    form = replace(module.FORMS["digits"], recipe=TINY, counted=3)
    monkeypatch.setattr(module, "CALIBRATION", 64)
    monkeypatch.setitem(module.FORMS, "digits", form)
    for name, arm in module.ARMS.items():
        monkeypatch.setitem(module.ARMS, name, replace(arm, steps=(2, 64) if name == "percentile" else (2,)))
    return module


def test_every_arm_is_measured_once(steps, tmp_path, monkeypatch, capsys):
    out, figure = tmp_path / "steps.jsonl", tmp_path / "steps.png"
    words = ["--data", "digits", "--samples", "60", "--runs", str(tmp_path / "runs"), "--out", str(out)]

    def call(*more):
        monkeypatch.setattr(sys, "argv", ["steps.py", *more, *words])
        steps.main()

    call("run", "--arm", "percentile")
    call("run")
    lines = out.read_text().splitlines()
    found = {done["arm"]: done for done in map(json.loads, lines)}
    assert len(lines) == len(found) == len(steps.ARMS)
    assert sorted(one.name for one in (tmp_path / "runs").iterdir()) == [
        f"digits-{net}-0" for net in ("ann", "direct", "hybrid", "quantised", "tuned")
    ]
    points = {name: done["points"] for name, done in found.items()}
    [ann], [quantised] = points["ANN"], points["quantised ANN"]
    few, many = points["percentile"]
    assert ann["accuracy"] > 0.4
    assert many["accuracy"] == pytest.approx(ann["accuracy"], abs=0.04)
    assert few["accuracy"] < many["accuracy"]
    # the ANN's cost is the column beside its converted net; 32 times the steps are about as many times the cost
    assert ann["ann"] == few["ann"] == many["ann"] > quantised["ann"]
    assert 25 < many["spiking"] / few["spiking"] < 60
    assert found["direct"]["energy_of"] == 3
    call("report", "--figure", str(figure))
    said = capsys.readouterr().out
    assert f"| percentile |  | {100 * few['accuracy']:.2f} |" in said
    assert figure.stat().st_size > 5000
    call("run")
    assert out.read_text().splitlines() == lines
    with pytest.raises(SystemExit, match=r"has nothing of .*'split': 'test'"):
        call("report", "--split", "test")


def test_an_ann_s_cost_is_of_all_its_images(steps, tmp_path):
    study = steps.Study("digits", 0, "validation", tmp_path, samples=60)
    assert len(study.looked_at) == 60
    assert len(steps.calibration(study.dataset)[0]) == steps.CALIBRATION
    assert {"model.spiking", "model.qcfs_levels"} <= set(study.form.options("quantised"))
    for name, form in steps.FORMS.items():
        for net in ("ann", "quantised", "direct", "hybrid"):
            steps.Recipe().replace(form.options(net))
        assert form.recipe["data.name"] == name

"""The founding study, on nets that train in a moment."""

import json
import shutil
import signal
import sys
import time
from dataclasses import replace

import pytest

from recipes.studies import founding, founding_arms, pieces

TINY = founding_arms.Form(
    "digits",
    {
        **{"model.name": "plain_convnet", "model.depth": 2, "model.width": 8, "model.steps": 10},
        **{"data.batch_size": 16, "data.train_limit": 320, "optimizer.lr": 0.02, "trainer.epochs": 6},
        **{"trainer.accelerator": "cpu", "trainer.threads": 1},
    },
    arms=("ann", "percentile", "tuned", "plain", "superspike"),
    long=20,
)


@pytest.fixture
def call(tmp_path, monkeypatch):
    """The command, on digits."""
    monkeypatch.setitem(founding_arms.FORMS, ("reduced", "digits"), TINY)
    monkeypatch.setitem(founding_arms.NETS, "tuned", {"tune.samples": 16})
    monkeypatch.setitem(founding_arms.NETS, "plain", {"optimizer.lr": 1e-9})  # which is hopeless
    monkeypatch.setitem(founding_arms.NETS, "superspike", {"optimizer.lr": 1e38})  # which diverges
    few = replace(founding_arms.CONVERTED["percentile"], steps=(10, 200), costed=(10, 200))
    monkeypatch.setitem(founding_arms.CONVERTED, "percentile", few)
    monkeypatch.setattr(founding, "CURVE", (1, 10))
    monkeypatch.setattr(founding, "FRAMES", 2000)
    monkeypatch.setattr(founding, "CALIBRATION", 32)
    monkeypatch.setattr(pieces, "TICK", 0.02)

    def run(*words, name="whole"):
        given = ["--data", "digits", "--runs", str(tmp_path / name), "--out", str(tmp_path / f"{name}.jsonl"), *words]
        monkeypatch.setattr(sys, "argv", ["founding", *given])
        founding.main()
        return {done["arm"]: done for done in founding.read(tmp_path / f"{name}.jsonl")}

    return run


TOLD = ("arm", "recipe", "weights", "cut", "epochs", "test", "before", "after", "energy", "accuracy", "samples")


def test_a_study_in_pieces_is_the_study_in_one(call, tmp_path, capsys, monkeypatch):
    whole = call()
    assert list(whole) == list(TINY.arms)
    ann, percentile, tuned, plain, superspike = whole.values()
    assert min(ann["test"], tuned["test"]) > 0.3
    assert tuned["test"] == tuned["accuracy"]["10"]
    assert percentile["samples"] == {"10": 360, "200": 20}
    assert percentile["accuracy"]["200"] == pytest.approx(ann["test"], abs=0.15)
    assert percentile["energy"]["200"]["spiking"] > 10 * percentile["energy"]["10"]["spiking"]
    assert abs(tuned["before"]["gradient"] - 1) < abs(plain["before"]["gradient"] - 1)
    assert tuned["after"]["similarity"] > 0.3
    # what is hopeless is not trained to its end, and has not seen the test set
    assert plain["cut"] == 2
    assert len(plain["epochs"]) < 6
    assert plain["test"] is None
    assert "accuracy" not in plain
    assert not list((tmp_path / "whole").glob("*plain-0/summary.json"))
    assert "training diverged in step" in superspike["diverged"]
    # now each call ends soon after an epoch, or a measurement
    done = calls = 0

    def size():
        files = [*tmp_path.glob("pieces/*/metrics.csv"), *tmp_path.glob("pieces/*.json")]
        return sum(len(file.read_text().replace('": ', "\n").splitlines()) for file in files)

    with monkeypatch.context() as patch:
        patch.setattr(founding.Study, "late", lambda _: size() > done)
        while len(found := call(name="pieces")) < len(TINY.arms):
            calls, done = calls + 1, size()
            assert calls < 60
    assert calls > 10
    for name, line in found.items():
        if name != "plain":  # whose last epoch depends on the clock
            assert [line.get(key) for key in TOLD] == [whole[name].get(key) for key in TOLD]
    assert found["plain"]["cut"] == 2
    capsys.readouterr()
    assert call("--show", "--figure", str(tmp_path / "figure.png")) == whole
    said = capsys.readouterr().out
    assert f"| percentile | {100 * percentile['accuracy']['10']:.2f} |" in said.replace(" |  |", " |")
    assert "plain (cut after epoch 2)" in said
    assert (tmp_path / "figure.png").stat().st_size > 5000
    assert "superspike (diverged)" in said
    assert call() == whole
    monkeypatch.setitem(founding_arms.FORMS, ("reduced", "digits"), replace(TINY, changes={"data.name": "digits"}))
    with pytest.raises(ValueError, match="-0-tuned was begun with another recipe than 'tuned' has now: move it away"):
        call("--arm", "tuned", "--out", str(tmp_path / "another.jsonl"))


def test_a_trial_does_not_look_at_the_test_set(call, tmp_path):
    found = call("--steps", "4", "--arm", "ann", "calibrated", "tuned", name="trial")
    assert set(found) == {"ann", "calibrated", "tuned"}
    assert all(line["trial"] == 4 for line in found.values())
    assert found["tuned"]["samples"] == {"1": 4, "10": 4}
    study = founding.Study("reduced", "digits", runs=tmp_path, steps=4)
    data = founding.loaded("digits", None, None)
    assert len(study.dataset.train) == 8
    for image in study.dataset.test.inputs:
        assert (data.validation.inputs == image).flatten(1).all(1).any()
        assert not (data.test.inputs == image).flatten(1).all(1).any()


def test_the_rule_for_hopeless_arms(call, tmp_path):
    study = founding.Study("reduced", "digits", runs=tmp_path, out=tmp_path / "lines.jsonl")

    def write(name, *accuracies):
        place = study.place(name)
        place.mkdir(parents=True, exist_ok=True)
        rows = [f"{number},{share}" for number, share in enumerate(accuracies, 1)]
        (place / "metrics.csv").write_text("\n".join(["epoch,validation_accuracy", *rows]) + "\n")

    write("atan", 0.1, 0.29)
    assert study.cut("atan") is None  # there is nothing to compare with
    write("tuned", 0.9)
    assert study.cut("atan") is None
    write("tuned", 0.2, 0.6, 0.9)
    assert study.cut("atan") == 2
    write("atan", 0.1, 0.29, 0.1)
    assert study.cut("atan") is None, "the epoch has passed"
    write("atan", 0.1, 0.29)
    write("atan", 0.1)
    assert study.cut("atan") is None
    write("atan", 0.1, 0.3)
    assert study.cut("atan") is None
    for name in ("ann", "quantised", "tuned"):
        write(name, 0.0, 0.0)
        assert study.cut(name) is None
    assert replace(study, steps=20).cut("atan") is None
    shutil.rmtree(study.place("tuned"))
    assert study.cut("atan") is None
    lines = [{"arm": "tuned", **about, "epochs": [0.2, 0.8]} for about in (study.about, {**study.about, "seed": 1})]
    study.out.write_text("".join(json.dumps(line) + "\n" for line in lines[1:]))
    assert study.cut("atan") is None, "that is of another study"
    study.out.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert study.cut("atan") == 2


def test_every_net_has_a_recipe(tmp_path):
    for size, data in founding_arms.FORMS:
        study = founding.Study(size, data, runs=tmp_path)
        assert set(study.form.arms) <= set(founding_arms.ARMS)
        for name in founding_arms.NETS:
            recipe = study.recipe(name)
            assert (recipe.model.steps, recipe.data.name) == (10, data)
            assert "resnet50" in recipe.model.name
    assert set(founding_arms.ARMS) == set(founding_arms.NETS) | set(founding_arms.CONVERTED)


def test_the_plan(call, capsys):
    call("--plan", "--arm", "ann", "percentile", "tuned", "plain")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert [row.split()[1] for row in rows[1:]] == ["ann", "percentile", "tuned", "plain"]


def test_work_ends_by_a_wish_and_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(pieces, "TICK", 0.01)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGALRM)

    def wait():
        end = time.monotonic() + 0.1
        while time.monotonic() < end:
            pass

    with pieces.ended_by(lambda: True) as ended:  # nobody listens
        wait()
    assert not ended()
    with pieces.ended_by(lambda: True) as ended:
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
        try:
            wait()
        finally:
            signal.signal(signal.SIGTERM, before[0])
    assert ended()
    with pytest.raises(SystemExit), pieces.ended_by(lambda: False):
        raise SystemExit(1)
    assert before == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGALRM))
    kept = pieces.Kept(tmp_path / "kept.json")
    assert kept.get("a", lambda: {1: 0.5}) == {"1": 0.5}
    late = pieces.Kept(tmp_path / "kept.json", lambda: True)
    assert late.get("a", lambda: None) == {"1": 0.5}
    assert late.get("c", lambda: 2) == 2, "one thing a call"
    with pytest.raises(pieces.TimeUpError):
        late.get("b", lambda: 1)
    assert json.loads((tmp_path / "kept.json").read_text()) == {"a": {"1": 0.5}, "c": 2}

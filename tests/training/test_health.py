"""`rheobase probe`: the health of a recipe's net, or of a run's."""

import json
from pathlib import Path

import pytest

import rheobase as rb
from rheobase.cli import main
from rheobase.signal.report import Report
from rheobase.training.health import health

SMALL = ["--model.name", "spiking_resnet34", "--model.width", "8", "--model.steps", "6", "--trainer.accelerator", "cpu"]
PLAIN = ["--model.start", "plain", "--model.shortcut", "conv"]


def test_a_healthy_recipe(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    figure, file = tmp_path / "figure.png", tmp_path / "readings.json"
    main(["probe", "digits", *SMALL, "--plot", str(figure), "--json", str(file)])
    text = capsys.readouterr().out
    assert text.rstrip().endswith("healthy")
    assert "features.17" in text
    assert figure.read_bytes().startswith(b"\x89PNG")
    assert json.loads(file.read_text())["healthy"]


def test_an_unhealthy_one_ends_with_1_and_tuning_mends_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as left:
        main(["probe", "digits", *SMALL, *PLAIN])
    assert left.value.code == 1
    assert "information lost" in capsys.readouterr().out
    mended = [*SMALL, "--model.start", "plain", "--model.shortcut", "pool"]
    file = tmp_path / "tuned.json"
    main(["probe", "digits", *mended, "--tune", "--start", "identity", "--json", str(file)])
    text = capsys.readouterr().out
    tuned = json.loads(file.read_text())["tuned"]
    assert "information lost" in tuned["before"]["verdict"]
    assert tuned["after"]["verdict"] == "healthy"
    assert tuned["surrogates"]
    assert "information lost" in text.partition("after tuning")[0]
    assert "information lost" not in text.partition("after tuning")[2]
    assert "on a batch that it was not tuned on" in text


def test_a_run_is_probed_as_it_was_trained(tmp_path: Path) -> None:
    keys = {
        "model.width": 8,
        "model.steps": 2,
        "trainer.epochs": 1,
        "data.train_limit": 256,
        "trainer.accelerator": "cpu",
    }
    run = rb.train("digits", **keys, **{"run": str(tmp_path / "run")})
    found = health(str(run.folder), preset="quick")
    other = health("digits", ["--model.width", "8", "--model.steps", "2"], preset="quick")
    assert isinstance(found, Report)
    assert isinstance(other, Report)
    assert [layer.path for layer in found.layers] == [layer.path for layer in other.layers]
    assert found.layers != other.layers
    with pytest.raises(ValueError, match="is a run, whose recipe is fixed: it takes no --model.width"):
        health(str(run.folder), ["--model.width", "8"])


def test_bad_input_is_told(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for words, told in (
        (["digits", "--samples", "1"], "samples must be at least 2, got 1"),
        (["digits", "--model.nam", "x"], "unknown key 'model.nam'"),
        (["nope"], "no recipe 'nope'"),
        (["digits", "--plot", "figure.xyz"], "a figure must end in one of"),
        (["digits", "--json", str(tmp_path / "nowhere" / "readings.json")], "there is no folder"),
    ):
        with pytest.raises(SystemExit) as left:
            main(["probe", *words])
        assert left.value.code == 2
        assert told in capsys.readouterr().err

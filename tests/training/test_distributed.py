"""Runs of two processes, which exchange gradients through gloo."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import rheobase
import rheobase as rb
from rheobase import cli

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="signals and gloo as on Linux")


@pytest.fixture
def options(tiny):
    """Without norms, whose statistics are a process's own unless it exchanges them; more images than two can share."""
    return {**tiny, "model.norm": "none", "data.shift": 0, "data.train_limit": 93, "optimizer.name": "sgd"}


def words(options):
    return [word for key, value in options.items() for word in (f"--{key}", str(value))]


def start(*arguments, torchrun=0):
    source = str(Path(rheobase.__file__).parents[1])
    environment = {**cli.SETTINGS, **os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"}
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={torchrun}", "--standalone"] if torchrun else []
    return subprocess.Popen(
        [sys.executable, *launcher, "-m", *(["--"] if torchrun else []), "rheobase", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )


def ended(process):
    """What it said until it ended."""
    try:
        return process.communicate(timeout=300)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise AssertionError(f"it hangs: {process.communicate()[0]}") from None


def finish(process):
    output = ended(process)
    assert process.returncode == 0, output
    return output


def numbers(folder):
    with (Path(folder) / "metrics.csv").open() as file:
        return [
            {k: float(v) for k, v in row.items() if k not in ("images_per_second", "seconds")}
            for row in csv.DictReader(file)
        ]


def far(a, b):
    return max((a[name].double() - b[name].double()).abs().max().item() for name in a)


@pytest.mark.parametrize(("torchrun", "boosting"), [(0, 1.0), (2, 0.0)], ids=["devices, boosting", "torchrun"])
def test_two_processes_are_one_on_the_joint_batch(options, tmp_path, checkpoint, firing, torchrun, boosting):
    options["loss.boosting"] = boosting
    one = rb.train("digits", **{**options, "run": str(tmp_path / "one")})
    firing(one)
    keys = {} if torchrun else {"trainer.devices": 2}
    output = finish(start("train", *words({**options, **keys}), torchrun=torchrun))
    assert output.count("epoch 3/3") == 1, "one process speaks"
    assert output.count("test accuracy") == 1
    states = [checkpoint(folder) for folder in (one.folder, options["run"])]
    assert (states[0]["processes"], states[1]["processes"]) == (1, 2)
    assert 0 < far(states[0]["net"], states[1]["net"]) < 1e-6
    if boosting:
        assert states[0]["boosting"]["weights"].max() > 1.5
        assert far(states[0]["boosting"], states[1]["boosting"]) < 1e-9
    for a, b in zip(numbers(one.folder), numbers(options["run"]), strict=True):
        assert a == pytest.approx(b, rel=1e-5)
    summary = json.loads((Path(options["run"]) / "summary.json").read_text())
    assert summary["test_accuracy"] == one.summary["test_accuracy"]


KEYS = ("weights_sha256", "test_accuracy", "validation_accuracy", "best_epoch")


def interrupted(options, number, whom):
    """Start a run of two processes, and send one of them (or both) a signal after its first checkpoint."""
    process = start("train", *words(options))
    last = Path(options["run"]) / "checkpoints" / "last.ckpt"
    while process.poll() is None and not last.exists():
        time.sleep(0.002)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    chosen = {"first": [process.pid], "both": [process.pid, *map(int, children)], "second": map(int, children)}[whom]
    for pid in chosen:
        os.kill(pid, number)
    output = ended(process)
    assert process.returncode != 0
    return output


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tiny_options):
    """Options of a run, and its folder after nobody disturbed it."""
    options = {**tiny_options, "trainer.devices": 2, "trainer.epochs": 12, "trainer.ema": 0.9}
    folder = tmp_path_factory.mktemp("whole") / "run"
    finish(start("train", *words({**options, "run": folder})))
    return options, folder


@pytest.mark.parametrize(
    ("number", "whom", "segments"),
    [(signal.SIGINT, "both", 1), (signal.SIGTERM, "first", 3), (signal.SIGKILL, "second", 1)],
    ids=str,
)
def test_a_run_that_was_ended_is_resumed_bit_for_bit(whole, tmp_path, number, whom, segments):
    """Also where layers are computed again: norms, too, exchange their statistics again then."""
    options, reference = whole
    options, folder = {**options, "trainer.checkpoint_segments": segments}, tmp_path / "run"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background would inherit none
    try:
        output = interrupted({**options, "run": folder}, number, whom)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not (folder / "summary.json").exists()
    if number != signal.SIGKILL:
        assert output.count("stopped; saved after step") == 1
        assert "Traceback" not in output
    assert "continuing after step" in finish(start("resume", str(folder)))
    found, wanted = (json.loads((f / "summary.json").read_text()) for f in (folder, reference))
    assert {key: found[key] for key in KEYS} == {key: wanted[key] for key in KEYS}
    assert numbers(folder) == numbers(reference)


SCRIPT = """
import json, os, sys
from pathlib import Path
import torch
import rheobase as rb

torch.set_num_threads(2)
for name in ("one", "two"):
    run = rb.train("digits", **json.loads(sys.argv[1]), run=str(Path(sys.argv[2]) / name))
assert torch.get_num_threads() == 2 and "OMP_NUM_THREADS" not in os.environ
Path(sys.argv[2], f"rank{os.environ['LOCAL_RANK']}").write_text(run.summary["weights_sha256"])
"""


def test_a_script_runs_in_each_process_trains_twice_and_keeps_its_threads(tiny_options, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    options = {**tiny_options, "trainer.devices": 2, "trainer.epochs": 1, "trainer.threads": None}
    source = str(Path(rheobase.__file__).parents[1])
    environment = {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), json.dumps(options), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**cli.SETTINGS, **environment, "PYTHONPATH": source},
        start_new_session=True,
    )
    finish(process)
    told = [(tmp_path / f"rank{rank}").read_text() for rank in range(2)]  # (what both print may come mixed)
    for name in ("one", "two"):
        assert told == 2 * [json.loads((tmp_path / name / "summary.json").read_text())["weights_sha256"]]


def test_a_folder_in_use_is_told_once_to_all(options):
    Path(options["run"]).mkdir()
    (Path(options["run"]) / "mine").write_text("x")
    process = start("train", *words({**options, "trainer.devices": 2}))
    output = ended(process)
    assert process.returncode == 2
    assert "must be empty or absent" in output
    assert "Traceback" not in output


def test_what_torchrun_starts_must_be_what_the_recipe_says(options, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_torchelastic_launched", lambda: True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"trainer\.devices \* nodes must be 2, as torchrun started, got 3 \* 1"):
        rb.train("digits", **{**options, "trainer.devices": 3})


def test_diverging_ends_both(options):
    process = start("train", *words({**options, "trainer.devices": 2, "optimizer.lr": 1e30, "loss.name": "tet"}))
    output = ended(process)
    assert process.returncode == 2
    assert "training diverged in step" in output
    assert "Traceback" not in output

"""A run that is killed, through the command, ends as one that is not."""

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rheobase import cli
from rheobase.training import resume

EPOCHS = 40
KEYS = ("weights_sha256", "test_accuracy", "validation_accuracy", "best_epoch")


def start(*words):
    # with the settings of the command, which it need not start itself anew for
    return subprocess.Popen(
        [sys.executable, "-m", "rheobase", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**cli.SETTINGS, **os.environ},
    )


def finish(process):
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    return output


def summary(folder):
    found = json.loads((folder / "summary.json").read_text())
    return {key: found[key] for key in KEYS}


@pytest.fixture(scope="module")
def words(tiny_options):
    options = {**tiny_options, "trainer.epochs": EPOCHS}
    return [word for key, value in options.items() for word in (f"--{key}", str(value))]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, words):
    """The run that nobody disturbs."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    output = finish(start("train", *words, "--run", str(folder)))
    assert "test accuracy" in output
    return folder


def test_killed_at_three_random_moments(tmp_path, whole, words, rows):
    moments = random.Random(0)
    folder = tmp_path / "run"
    last = folder / "checkpoints" / "last.ckpt"
    kills = 0
    command = ["train", *words, "--run", str(folder)]
    for _ in range(3):
        before = last.stat().st_mtime_ns if last.exists() else None
        process = start(*command)
        while process.poll() is None and (not last.exists() or last.stat().st_mtime_ns == before):
            time.sleep(0.002)  # until it has got on, so that three kills are at three moments of the run
        time.sleep(moments.uniform(0, 0.15))
        process.kill()
        process.communicate()
        kills += process.returncode == -signal.SIGKILL
        command = ["resume", str(folder)]
    assert kills >= 2, "the runs ended before they could be killed"
    finish(start("resume", str(folder)))
    assert summary(folder) == summary(whole)
    assert rows(folder) == rows(whole)


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for a single process there")
def test_ctrl_c_is_saved_first(tmp_path, whole, words, rows):
    folder = tmp_path / "run"
    last = folder / "checkpoints" / "last.ckpt"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background would inherit none
    process = start("train", *words, "--run", str(folder))
    signal.signal(signal.SIGINT, before)
    while process.poll() is None and not last.exists():
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "Traceback" not in output
    [told] = [line for line in output.splitlines() if line.startswith("stopped; saved after step")]
    command = shlex.split(told.partition(" rheobase ")[2])
    output = finish(start(*command))
    assert f"continuing {told.partition('saved ')[2].partition(';')[0]} " in output
    assert summary(folder) == summary(whole)
    assert rows(folder) == rows(whole)


KILLER = """
import os, signal, sys
from rheobase import cli
from rheobase.training import runs
target, name, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
owner = {"os": os, "runs": runs}[target]
original = getattr(owner, name)
def deadly(*arguments, **options):
    global count
    count -= 1
    if count == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **options)
setattr(owner, name, deadly)
cli.main(sys.argv[4:])
"""


@pytest.mark.parametrize(
    "moment",
    [
        ("os", "fsync", 3),  # the first checkpoint: recipe.json and metrics.csv came before
        ("os", "fsync", 9),  # within the checkpoints and files of the first epochs
        ("os", "replace", 10),  # written, not yet in place
        ("runs", "accuracies", 1),  # the final test
    ],
    ids=lambda moment: "-".join(map(str, moment)),
)
def test_killed_while_writing(tmp_path, whole, words, rows, moment):
    folder = tmp_path / "run"
    target, name, count = moment
    killed = subprocess.run(
        [sys.executable, "-c", KILLER, target, name, str(count), "train", *words, "--run", str(folder)],
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL
    half = [path for path in folder.rglob(".*") if path.is_file()]
    assert bool(half) == (target == "os")  # it died with a file half written
    run = resume(folder)
    assert {key: run.summary[key] for key in KEYS} == summary(whole)
    assert rows(folder) == rows(whole)
    assert not [path for path in folder.rglob(".*") if path.is_file()]


def test_the_settings_of_the_command_are_read_by_the_process(tmp_path):
    """It starts itself anew once, with the same words, where they are not set."""
    code = "import sys, os; from rheobase import cli; cli.settle(); print(os.environ['OMP_WAIT_POLICY'], sys.argv[1:])"
    clean = {name: value for name, value in os.environ.items() if name not in ("OMP_WAIT_POLICY", "MALLOC_MMAP_MAX_")}
    if sys.platform != "linux":
        pytest.skip("only on Linux")
    script = Path(tmp_path / "script.py")
    script.write_text(code)
    run = subprocess.run([sys.executable, script, "a", "b c"], env=clean, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "PASSIVE ['a', 'b c']"

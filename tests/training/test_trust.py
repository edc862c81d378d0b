"""Bad input, end to end through the command: one line that names the thing, what was got and what is wanted; nothing is
lost, and nothing half written is left."""

import errno
import json
import os
import pickle
import random
import re
import shutil
import sys
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import rheobase as rb
from rheobase import cli, report
from rheobase.data import load
from rheobase.training import Recipe, build, evaluate, resume, sources
from rheobase.training.folder import RunFolder
from rheobase.training.loop import Training

from .spoilt import (
    DOG,
    LAST,
    TINY,
    Poison,
    busy,
    checkpoint,
    cut,
    edited,
    events,
    folder,
    given,
    images,
    own,
    own_data,
    own_model,
    recipe,
    sounds,
    table,
    tables,
    train,
)  # fmt: skip

BEST = LAST.with_name("best.safetensors")
DAMAGED = "run/checkpoints/last.ckpt is damaged .*: put back a copy, or remove it"
# what it is called, what makes it, what the command says
# fmt: off
CASES = [
    ("unknown recipe", given(source="digitz"), "no recipe 'digitz': did you mean 'digits'"),
    ("a folder for a recipe", given(source="."), "no recipe '.': Give a file, or one of"),
    ("not YAML", recipe("model:\n  steps: [1"), "mine.yaml: not YAML: .*line 2"),
    ("not a text", recipe("ÿþ"), "mine.yaml: not YAML: .*can't decode byte"),
    ("no mapping", recipe("- seed\n"), "mine.yaml: a recipe must be a mapping of keys, got list"),
    ("key twice", recipe("seed: 1\nrun: a\nseed: 2\n"),
     "mine.yaml: key 'seed' is given twice, in line 1 and in line 3"),
    ("key twice, dotted", recipe("model.steps: 1\nmodel: {steps: 2}\n"), "'model.steps' is given twice, with dots and"),
    ("unknown key", recipe("model: {step: 2}"), "mine.yaml: unknown key 'model.step': did you mean 'model.steps'"),
    ("a key that is no text", recipe("3: 4"), "mine.yaml: unknown key '3'"),
    ("a value for a group", recipe("data: digits"), "mine.yaml: 'data' is a group of keys, got 'digits'"),
    ("wrong type", recipe("trainer: {epochs: ten}"), "mine.yaml: trainer.epochs must be an integer >= 1, got 'ten'"),
    ("a list for a number", recipe("seed: [1]"), r"mine.yaml: seed must be an integer >= 0, got \[1\]"),
    ("out of range", recipe("loss: {label_smoothing: 2}"), "mine.yaml: loss.label_smoothing must be .* <= 1, got 2"),
    ("not a number", recipe("optimizer: {lr: .nan}"), "optimizer.lr must be a number > 0, got nan"),
    ("unknown key in words", given("--trainer.epoch=1"), "unknown key 'trainer.epoch': did you mean 'trainer.epochs'"),
    ("wrong type in words", given(model__steps="two"), "model.steps must be an integer >= 1, got 'two'"),
    ("out of range in words", given(optimizer__momentum="1.0"), "optimizer.momentum must be a number .*, got 1.0"),
    ("key twice in words", given("--seed=1", "--seed=2"), "--seed is given 2 times"),
    ("no value", given("--seed"), "--seed: expected one argument"),
    ("two recipes", given("mnist"), "unrecognized arguments: mnist"),
    ("keys at odds", given(schedule__warmup_epochs=3), r"warmup_epochs must be at most trainer.epochs \(2\), got 3"),
    ("more processes than samples", given(trainer__devices=32), "batch_size must be at least 32 for"),
    ("a GPU that is not there", given(trainer__accelerator="gpu", trainer__devices=99, data__batch_size=99),
     "'gpu', trainer.devices 99; torch sees"),
    ("unknown model", given(model__name="plain_convnett"), "no model 'plain_convnett'; nearest: plain_convnet"),
    ("an option that the model lacks", given(model__connect="and"), "no option 'connect'; it takes neuron"),
    ("a value that the model refuses", given(model__norm="batch"), "norm must be one of current, .*, got 'batch'"),
    ("unknown data", given(data__name="digit"), "data.name must be one of .*, got 'digit'; did you mean 'digits'"),
    ("an option that the data lacks", given(data__size=8), "'digits' has the options .*, got 'size'"),
    ("no data folder", given(data__name="mnist"), "'mnist' needs a folder: set data.root .*or RHEOBASE_DATA"),
    ("a data folder that is not there", given(data__name="mnist", data__root="gone"),
     "wanted gone/mnist/train-images.*there is no folder gone"),
    ("a wrong data folder", given(data__name="mnist", data__root="."),
     "wanted mnist/train-images.*; . holds nothing; get the four"),
    ("a limit above the set", given(data__train_limit=2000),
     "train_limit must be at most 1197, the .* digits, got 2000"),
    ("a corrupt image", images(cut(DOG, 30)),
     "set/train/dog/2.png: the image is damaged"),
    ("a text for an image", images(partial(DOG.write_text, "woof")),
     "set/train/dog/2.png: not an image that Pillow can read"),
    ("an image of another size", images(lambda: Image.new("L", (9, 8)).save(DOG)),
     "dog/2.png: wanted 8 x 8 pixels as the first image has, got 9 x 8; set size="),
    ("an empty class folder", images(lambda: [path.unlink() for path in Path("set/test/dog").iterdir()]),
     "set/test/dog: wanted images of class 'dog', got an empty folder"),
    ("a missing class", images(lambda: shutil.rmtree("set/test/dog")),
     "set/test: wanted a folder for each class as in train, but dog is in one of them only"),
    ("a missing split", images(lambda: shutil.rmtree("set/test")), "set: wanted a split 'test', got train"),
    ("a corrupt Parquet file", tables(lambda: Path("set/train-0.parquet").write_bytes(b"PAR1" * 9)),
     "set/train-0.parquet: not a Parquet file"),
    ("a corrupt image in Parquet", tables(lambda: None), "set/train-0.parquet, row 0: not an image"),
    ("a row without a label", tables(lambda: table(label=[None, *[0, 1] * 3, 0])),
     "train-0.parquet: wanted a label in every row, got 1 rows without"),
    ("a column that is not there", tables(lambda: None, data__label="y"),
     r"train-0.parquet: wanted one column of integers \(label=\), got y; there are"),
    ("a cut wav file", sounds("0_bob_1.wav", content=lambda whole: whole[:500]),
     "0_bob_1.wav: the wav file is damaged: wanted 1000 samples, got 228"),
    ("a text for a wav file", sounds("0_bob_1.wav", content=lambda _: b"no sound"),
     "0_bob_1.wav: not a whole wav file"),
    ("a wav file of another rate", sounds("0_bob_1.wav", 44100),
     "0_bob_1.wav: wanted 1 channel of 16 bits at 8000 Hz, got 1 of 16 at 44100 Hz"),
    ("a wav file without a digit", sounds("a_b_c.wav"),
     "wanted a name DIGIT_SPEAKER_INDEX.wav, got a_b_c.wav"),
    ("a cut event file", events(bytes(7)), "set/Train/7/2.bin: wanted events of 5 bytes, got 7 bytes"),
    ("an event outside", events(bytes([99, 0, 0, 0, 0])),
     "set/Train/7/2.bin: wanted events within 34 x 34 pixels, got one at x = 99, y = 0"),
    ("labels of another type", own_data("dataset(train=split(labels=torch.zeros(32)))"),
     r"labels must be int64 \[32\], one a sample, got torch.float32 \[32\]"),
    ("labels of another type, read as they are needed", own_data("dataset(train=Odd(split, torch.zeros(32)))"),
     r"labels of train must be int64, got torch.float32"),
    ("labels too few", own_data("dataset(train=split(labels=torch.arange(31) % 4))"),
     r"labels must be int64 \[32\], one a sample, got torch.int64 \[31\]"),
    ("labels out of range", own_data("dataset(train=split(classes=7))"),
     r"'mine': labels of train must be in 0 ... 3, got 0 ... 6"),
    ("labels out of range in the test split", own_data("dataset(test=split(labels=torch.full((32,), -1)))"),
     r"labels of test must be in 0 ... 3, got -1 ... -1"),
    ("inputs of another type", own_data("dataset(train=split(inputs=torch.rand(32, 1, 8, 8).double()))"),
     r"inputs must be images uint8 .*, got torch.float64 \[32, 1, 8, 8\]"),
    ("inputs of another shape", own_data("dataset(train=split(shape=(64,)))"),
     r"inputs must be images uint8 \[N, C, H, W\], .*, got torch.uint8 \[32, 64\]"),
    ("splits that differ", own_data("dataset(test=split(shape=(1, 9, 9)))"),
     r"'mine': samples of test must be \[1, 8, 8\] as in train, got \[1, 9, 9\]"),
    ("an empty training split", own_data("dataset(train=split(0))"), "'mine': train must have a sample, got none"),
    ("an empty validation split", own_data("dataset(validation=split(0))"),
     "'mine': validation must have a sample, got none"),
    ("an empty test split", own_data("dataset(test=split(0))"), "'mine': test must have a sample, got none"),
    ("inputs that are not finite", own_data("holed()"), "'mine': inputs of train must be finite, sample 3 is not"),
    ("statistics that are not finite", own_data("dataset(std=torch.tensor([torch.nan]))"),
     r"'mine': std must be 1 finite numbers > 0, got \[nan\]"),
    ("statistics of other channels", own_data("dataset(mean=torch.zeros(2))"),
     r"'mine': mean must be 1 finite numbers, got \[0.0, 0.0\]"),
    ("a batch of another shape", own_data("dataset(validation=Odd(lambda n: split(n, shape=(1, 9, 9))))"),
     r"Odd.read must give a Split of inputs \[16, 1, 8, 8\], got \[16, 1, 9, 9\]"),
    ("a batch of another size", own_data("dataset(test=Odd(lambda n: split(n - 1)))"),
     r"Odd.read must give a Split of inputs \[16, 1, 8, 8\], got \[15, 1, 8, 8\]"),
    ("a batch of another type", own_data("dataset(train=Odd(lambda n: torch.rand(n, 1, 8, 8)))"),
     r"Odd.read must give a Split of inputs \[16, 1, 8, 8\], got Tensor"),
    ("no data set", own_data("{}"), "data.name: mine:made must return a rheobase Dataset, got dict"),
    ("a data set of nothing", own_data("dataset(train=[])"),
     "'mine': train must be a Split or other Samples, got list"),
    ("a function that fails", own_data("{}['x']"),
     r"data.name: mine:made failed: KeyError: 'x' \(.*mine.py, line \d+\)"),
    ("a module that is not there", own("", "gone:made", "data"),
     "data.name: there is no module 'gone' for 'gone:made'; .*importable from /"),
    ("a module that is broken", own("\ndef made(:", key="data"),
     r"data.name: mine:made failed: SyntaxError: .*mine.py, line \d+"),
    ("a module that lacks another", own("\nimport gone", key="data"),
     r"data.name: mine:made failed: ModuleNotFoundError: No module named 'gone' \(.*mine.py, line \d+\)"),
    ("a function that is not there", own("\nmade = net()", "mine:mad"), "mine.py has no 'mad'; did you mean 'made'"),
    ("no function", own("\nmade = 3"), "model.name: mine:made must be a function, got int"),
    ("no name of a function", own("", "mine:"), "model.name must be package.module:function, got 'mine:'"),
    ("a function with another argument", own("\ndef made(wings): pass"),
     "mine:made: missing a required argument: 'wings'; it may take .*classes"),
    ("a key that a function does not take", own("\ndef made(): pass", model__width=3),
     "model.width is set, but mine:made takes no argument 'width'"),
    ("no model", own("\ndef made(): pass"), "model.name: mine:made must return a torch Module, got NoneType"),
    ("a model of another number of classes", own_model("x[..., :9]"),
     r"must give floating point logits \[T, 16, 10\], got \[2, 16, 9\]"),
    ("a model of another rank", own_model("x.mean(0)"),
     r"must give floating point logits \[T, 16, 10\], got \[16, 10\]"),
    ("a model of another type", own_model("(x, x)"), r"must give floating point logits \[T, 16, 10\], got tuple"),
    ("a model of whole numbers", own_model("x.long()"), r"must give floating point logits .*, got torch.int64"),
    ("a model without weights", own("\ndef made(): return net(lambda x: x)().requires_grad_(False)"),
     "model mine:made has no parameter to train"),
    ("a model that fails", own_model("x.view(3)"),
     r"model mine:made: .*RuntimeError: shape '\[3\]' is invalid .*mine.py, line \d+"),
    ("a model without a gradient", own_model("x.detach()"), "model mine:made: its logits carry no gradient"),
    ("no run folder", lambda: ["resume", "gone"], "no run in gone: there is no gone/recipe.json"),
    ("no run in the folder", lambda: ["resume", "."], "no run in .: there is no recipe.json"),
    ("no run to evaluate", lambda: ["evaluate", "gone"], "no run in gone: there is no gone/recipe.json"),
    ("a cut checkpoint", folder("resume", cut(LAST, 1000)), DAMAGED),
    ("an empty checkpoint", folder("resume", partial(LAST.write_bytes, b"")), DAMAGED),
    ("a poisoned checkpoint", folder("resume", checkpoint(journal=Poison())), DAMAGED),
    ("a pickle for a checkpoint", folder("resume", partial(LAST.write_bytes, pickle.dumps(Poison()))), DAMAGED),
    ("a checkpoint without a part", folder("resume", checkpoint(optimizer=None)), DAMAGED),
    ("a checkpoint of another type", folder("resume", checkpoint(journal=[1])), DAMAGED),
    ("a checkpoint with other numbers", folder("resume", checkpoint("journal", batch=99)),
     "last.ckpt: epoch 1, batch 99 is no place in 2 epochs of 4 batches"),
    ("a checkpoint of weights that are not finite",
     folder("resume", checkpoint("net", **{"head.module.bias": torch.full((10,), torch.nan)})),
     "last.ckpt: the weights head.module.bias are not finite"),
    ("a checkpoint of another run", folder("resume", checkpoint(recipe_sha256="0")),
     "recipe.json is not the recipe that this run began with"),
    ("a checkpoint of other data", folder("resume", checkpoint("data", mean=[0.0])),
     "this run began with other data: mean was .*, and is"),
    ("a checkpoint of another model",
     folder("resume", checkpoint("net", **{"head.module.weight": torch.zeros(3)})),
     "the checkpoint is of another model than this one: .*head.module.weight"),
    ("a checkpoint of another best model",
     folder("resume", checkpoint("best", **{"head.module.weight": torch.zeros(3)})),
     "the checkpoint is of another model than this one: .*head.module.weight"),
    ("a checkpoint of another optimizer", folder("resume", checkpoint(optimizer={"state": []})),
     "the checkpoint is of another model than this one: .*param_groups"),
    ("an edited recipe", folder("resume", edited("recipe.json", '"seed": 0', '"seed": 1')),
     "recipe.json is not the recipe that this run began with"),
    ("a damaged recipe", folder("resume", edited("recipe.json", "}", "")),
     "run/recipe.json: not JSON: .*; put back the recipe that the run began with"),
    ("an edited recipe with an unknown key", folder("resume", edited("recipe.json", '"seed"', '"sead"')),
     "run/recipe.json: unknown key 'sead'.*did you mean 'seed'"),
    ("a damaged summary", folder("resume", edited("summary.json", "}", ""), "finished"),
     "run/summary.json is damaged .*: remove it, and `rheobase resume` writes it again"),
    ("a summary without its numbers", folder("resume", edited("summary.json", "test_accuracy", "accuracy"), "finished"),
     "summary.json is damaged .there is no 'test_accuracy' in it"),
    ("a damaged best model", folder("evaluate", cut(BEST, 1000)),
     "run/checkpoints/best.safetensors"),
    ("no best model", folder("evaluate", BEST.unlink),
     "run has no best model yet: no epoch has ended"),
    ("the test set too early", folder("evaluate", words=["--split=test"]),
     "run is not finished: the test set is for the end of a run, choose on validation"),
    ("no steps", folder("evaluate", words=["--steps", "2", "0"]), "steps must be at least 1, got 0"),
    ("damaged notes",
     folder("evaluate", partial(Path("run/evaluations.json").write_text, "{}"), "finished", ["--split=test"]),
     "run/evaluations.json is damaged .*: mend it or move it away"),
    ("a run folder that is not empty", busy(folder("resume")),
     "run folder run must be empty or absent; continue a run with `rheobase resume"),
    ("a file for a run folder", busy(Path("run").touch), "run folder run must be empty or absent"),
    ("a run folder below a file", busy(Path("run").touch, run="run/deep"),
     "Not a directory: 'run/deep"),
]
# fmt: on


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run, and the same as it was in its second epoch."""
    place = tmp_path_factory.mktemp("runs")
    options = {key: value for key, value in TINY.items() if key != "run"}
    with pytest.MonkeyPatch.context() as patch:

        def stop(folder, state):
            write(folder, state)
            if (state["journal"]["epoch"], state["journal"]["batch"]) == (1, 2):
                raise KeyError("stop")

        write = RunFolder.write_checkpoint
        patch.setattr(RunFolder, "write_checkpoint", stop)
        with pytest.raises(KeyError, match="stop"):
            rb.train("digits", **options, run=str(place / "stopped"))
    shutil.copytree(place / "stopped", place / "finished")
    resume(place / "finished")
    return place


@pytest.fixture
def place(runs, monkeypatch):
    """An empty folder beside those runs to be in, with nothing imported from it."""
    folder = runs / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("RHEOBASE_DATA", raising=False)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield folder
    sys.modules.pop("mine", None)
    shutil.rmtree(folder)


def contents():
    paths = [path for path in Path().rglob("*") if "__pycache__" not in path.parts]
    return {str(path): path.read_bytes() if path.is_file() else None for path in paths}


def refused(fails, words, match):
    before = contents()
    error = fails(*words)
    assert error.startswith("rheobase: ")
    assert error.count("\n") == 1
    assert re.search(match, error), error
    assert contents() == before


@pytest.mark.parametrize(("make", "match"), [pytest.param(*case, id=name) for name, *case in CASES])
def test_bad_input_is_one_line_and_nothing_is_lost(make, match, place, fails):
    refused(fails, make(), match)


def test_a_run_that_another_process_trains_is_left_alone(place, fails):
    words = folder("resume")()
    with RunFolder.open("run").locked():
        refused(fails, words, "run is in use: another process trains there; wait until it has ended")


def test_a_folder_that_cannot_be_written_is_named(place, fails, monkeypatch):
    def mkdir(path, *_, **__):  # (root may write anywhere)
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", mkdir)
        refused(fails, train(), "Permission denied: 'run/checkpoints'")


@pytest.fixture
def full(monkeypatch):
    """A context in which the disk is full for a file of that name."""
    fsync = os.fsync

    @contextmanager
    def context(name):
        def sync(handle):
            if f".{name}." in str(Path(f"/proc/self/fd/{handle}").readlink()):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            fsync(handle)

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", sync)
            yield

    return context


@pytest.mark.parametrize("name", ["last.ckpt", "metrics.csv", "best.safetensors", "summary.json"])
def test_a_full_disk_names_the_file_and_the_run_goes_on_later(runs, place, full, fails, rows, name):
    words = folder("resume")()
    with full(name):
        error = fails(*words)
    assert "No space left on device" in error
    assert f"/{name}'" in error
    assert "saved after step " in error
    assert error.count("\n") == 1
    torch.load(LAST, weights_only=True)
    assert not [path for path in Path("run").rglob(".*") if path.is_file()]
    run, whole = resume("run"), json.loads((runs / "finished" / "summary.json").read_text())
    assert run.summary["weights_sha256"] == whole["weights_sha256"]
    assert rows(run.folder) == rows(runs / "finished")


def test_a_disk_that_is_full_at_the_start_leaves_no_run_behind(place, full, fails):
    with full("recipe.json"):
        assert "No space left on device: 'run/recipe.json'" in fails(*train())
    assert contents() == {"run": None}
    cli.main(train(trainer__epochs=1))


def test_memory_that_runs_out_says_what_helps(place, fails, monkeypatch):
    def step(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(Training, "train_on", step)
    error = fails(*folder("resume")())
    assert re.search("ran out of memory .*Tried to allocate.*: lower data.batch_size, or raise trainer.acc", error)
    assert "saved after step 6; go on with: rheobase resume run" in error


def test_an_error_of_the_users_model_in_the_middle_of_a_run_keeps_its_traceback(place, capsys):
    words = own("\nmade = net(lambda x: x if len(x[0]) == 16 or len(x[0]) == 1 else x.view(3))", data__batch_size=15)()
    with pytest.raises(RuntimeError, match="is invalid for input of size") as caught:
        cli.main(words)
    assert caught.value.__notes__ == ["saved after step 0; go on with: rheobase resume run"]


def test_images_that_the_model_does_not_take_are_refused(place):
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
    with pytest.raises(ValueError, match=r"images must be \[B, 1, H, W\].* got shape \[16, 3, 8, 8\]"):
        rb.train("digits", data=coloured, model=model, run="run")
    assert contents() == {}


@contextmanager
def no_casts_kept():
    """With them, a cast that is kept for too long is that of a weight as it was."""
    torch.set_autocast_cache_enabled(False)
    yield
    torch.set_autocast_cache_enabled(True)


@contextmanager
def in_float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


MODES = {
    "float64": in_float64,
    "no casts kept": no_casts_kept,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "no autocast": lambda: torch.autocast("cpu", enabled=False),
}


@pytest.fixture(scope="module", params=["32", "bf16"])
def plain(request, tiny_options, tmp_path_factory):
    """A run in no mode, and its precision."""
    folder = tmp_path_factory.mktemp("plain") / "run"
    run = rb.train("digits", **{**tiny_options, "trainer.precision": request.param}, run=str(folder))
    return run, evaluate(run.folder), request.param


@pytest.mark.parametrize("name", MODES)
def test_the_modes_of_the_host_change_nothing(tiny, plain, name):
    wanted, accuracies, tiny["trainer.precision"] = plain
    with MODES[name]():
        modes = torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled(), torch.is_grad_enabled()
        run = rb.train("digits", **tiny)
        assert modes == (torch.is_autocast_enabled("cpu"), torch.is_autocast_cache_enabled(), torch.is_grad_enabled())
        found = evaluate(run.folder)
    assert run.summary["weights_sha256"] == wanted.summary["weights_sha256"]
    assert found == accuracies


def test_a_norm_with_factors_of_steps_is_evaluated_at_fewer(tiny):
    run = rb.train("digits", **{**tiny, "model.norm": "tebn"})
    assert evaluate(run.folder, [1]) == {1: evaluate(run.folder)[1]}


NUMBERS = [
    ("seed: 010", "seed must be an integer .*, got '010'"),
    ("seed: 1:30", "seed must be an integer .*, got '1:30'"),
    ("model: &m {options: *m}", "a recipe must end: a mapping in it holds itself"),
]


@pytest.mark.parametrize(("text", "said"), NUMBERS)
def test_what_yaml_makes_of_a_recipe_is_what_is_written(tmp_path, text, said):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=said):
        sources.load(tmp_path / "mine.yaml")
    (tmp_path / "mine.yaml").write_text("run: 010\nseed: 0x10\noptimizer: {lr: 1e-3}\ntrainer: {epochs: 1_0}")
    recipe = sources.load(tmp_path / "mine.yaml")
    assert (recipe.run, recipe.seed, recipe.optimizer.lr, recipe.trainer.epochs) == ("010", 16, 0.001, 10)


def test_words_of_the_command_are_what_is_written():
    words = ["digits", "--loss.tet_target", "-1e-3", "--run", "1:30", "--model.options.label", "0123"]
    recipe = sources.from_arguments(words)[1]
    assert (recipe.loss.tet_target, recipe.run, recipe.model.options.label) == (-0.001, "1:30", "0123")
    with pytest.raises(ValueError, match="seed must be an integer"):
        sources.from_arguments(["digits", "--seed", "010"])


def test_pixels_that_are_fractions_already_are_not_divided(tiny):
    generator = torch.Generator().manual_seed(0)
    inputs, labels = torch.rand(96, 2, 1, 8, 8, generator=generator), torch.arange(96) % 2
    parts = [rb.data.Split(inputs[i::3], labels[i::3]) for i in range(3)]
    given = {**{key: value for key, value in tiny.items() if "data." not in key}, "data.shift": 0, "data.scale": "unit"}
    for split, white, said in (
        (parts, 255.0, "divides by white, 255, and .* reach 0.9"),
        (parts, 0.5, "by white, 0.5"),
    ):
        data = rb.data.Dataset.of("made", 2, *split, white=white)
        with pytest.raises(ValueError, match=said):
            rb.train("digits", data=data, **given)
    data = rb.data.Dataset.of("made", 2, *parts, white=1.0)
    assert rb.train("digits", data=data, **given, **{"data.batch_size": 8}).summary["seed"] == 0


def test_a_function_that_is_not_pythons_is_refused(fails):
    assert "data.name: math:hypot does not tell its arguments" in fails("train", "digits", "--data.name", "math:hypot")


@pytest.mark.parametrize(("given", "wanted"), [(0.25, 0.25), (2.0, 2), (1.5, 1.5)])
def test_a_part_of_a_sample_is_not_rounded(given, wanted, monkeypatch):
    asked = []
    monkeypatch.setattr(build, "load", lambda name, root, **options: asked.append(options["validation"]))
    build.dataset(sources.load("mnist-convnet", {"data.validation": given}))
    assert asked == [wanted]
    assert type(asked[0]) is type(wanted)


def test_a_model_of_another_dtype_is_named(tiny):
    model = rb.models.create("plain_convnet", classes=10, in_channels=1, depth=2, width=4).double()
    with pytest.raises(ValueError, match=r"features.*weight is torch.float64, and images are torch.float32"):
        rb.train("digits", model=model, run=tiny["run"])


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_is_looked_at_with_what_it_began_with(tiny, finished, stopping):
    """Also where it would fit: other labels of the same shape, or a changed recipe."""
    data = load("digits").limited(96)
    given = {key: value for key, value in tiny.items() if key != "data.train_limit" and key != "data.name"}
    with nullcontext() if finished else stopping(15):
        rb.train("digits", data=data, **given)
    other = replace(data, validation=replace(data.validation, labels=data.validation.labels.flip(0)))
    folder = Path(tiny["run"])
    for look in (evaluate, report.write):
        look(folder, data=data)
        with pytest.raises(ValueError, match=f"{folder}: this run began with other data: validation_sha256 was"):
            look(folder, data=other)
    recipe = folder / "recipe.json"
    recipe.write_text(recipe.read_text().replace('"one_cycle"', '"cosine"'))
    for look in (evaluate, resume):
        with pytest.raises(ValueError, match="recipe.json is not the recipe that this run began with"):
            look(folder, data=data)


def test_more_processes_than_samples_are_refused_before_the_run_begins(tiny):
    few = replace(load("digits").limited(96), validation=load("digits").validation.some(2))
    given = {key: value for key, value in tiny.items() if key != "data.train_limit" and key != "data.name"}
    with pytest.raises(ValueError, match="the validation samples must be at least 3, one a process .*, got 2"):
        rb.train("digits", data=few, **given, **{"trainer.devices": 3})
    assert not Path(tiny["run"]).exists()


def test_a_penalty_of_hidden_weights_wants_some(tiny):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Unflatten(0, (1, -1)))
    with pytest.raises(ValueError, match="loss.weight_penalty must be 0 for a model without hidden layers, got 0.1"):
        rb.train("digits", model=net, run=tiny["run"], **{"loss.weight_penalty": 0.1})


class BatchFirst(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, images):
        return self.head(images.flatten(1)).unsqueeze(1).expand(-1, 16, -1)


def test_a_model_that_puts_the_batch_first_is_refused_where_both_axes_are_as_long(tiny):
    with pytest.raises(
        ValueError, match=r"for images \[15, 1, 8, 8\] it must give .* \[T, 15, 10\], got \[15, 16, 10\]"
    ):
        rb.train("digits", model=BatchFirst(), run=tiny["run"])


class Noisy(nn.Module):
    """It draws from NumPy and Python, at its start and in training."""

    def __init__(self):
        super().__init__()
        self.first = rb.PerStep(nn.Linear(64, 10))
        with torch.no_grad():
            self.first.module.bias += random.random() + np.random.rand()
        self.fire = rb.LIF()
        self.head = rb.PerStep(nn.Linear(10, 10))

    def forward(self, images):
        x = images.flatten(1).expand(2, -1, -1)
        return self.head(self.fire(self.first(x) + self.training * (np.random.randn() + random.random())))


def noisy():
    return Noisy()


def test_what_a_model_draws_from_numpy_and_python_is_of_the_seed(tiny, tmp_path, stopping):
    given = {**tiny, "model.name": f"{__name__}:noisy", "model.width": None, "model.depth": None, "model.steps": 4}
    whole = rb.train("digits", **{**given, "run": str(tmp_path / "whole")})
    random.seed(3)
    np.random.seed(3)
    with stopping(9):
        rb.train("digits", **given)
    assert resume(tiny["run"]).summary["weights_sha256"] == whole.summary["weights_sha256"]
    other = rb.train("digits", **{**given, "run": str(tmp_path / "other"), "seed": 1})
    assert other.summary["weights_sha256"] != whole.summary["weights_sha256"]


def test_the_cache_is_the_same_from_any_place(tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = RunFolder.create(Recipe().replace({"data.cache": "cache", "run": tiny["run"]}), "x")
    assert folder.read_recipe().data.cache == str(tmp_path / "cache")

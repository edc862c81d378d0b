import io
import itertools
import json
import math
import sys

import pytest
import torch
from rich.console import Console

import rheobase as rb
from rheobase import compat
from rheobase.data import load
from rheobase.training import Recipe, Run, board, build, console, evaluate, loop, resume, runs, sources
from rheobase.training.evaluation import weights_sha256


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny_options):
    """A finished run of 3 epochs of 6 steps, made once."""
    return rb.train("digits", **tiny_options, run=str(tmp_path_factory.mktemp("trained") / "run"))


def test_the_run_folder_is_complete(trained, rows):
    assert isinstance(trained, Run)
    names = {str(path.relative_to(trained.folder)) for path in trained.folder.rglob("*") if path.is_file()}
    checkpoints = {"checkpoints/last.ckpt", "checkpoints/best.safetensors"}
    assert names == {"recipe.json", "metrics.csv", "summary.json", *checkpoints}
    found = rows(trained.folder)
    assert [(row["epoch"], row["step"]) for row in found] == [("1", "6"), ("2", "12"), ("3", "18")]
    assert all(math.isfinite(float(value)) for row in found for value in row.values())


def test_the_summary_says_what_others_rely_on(trained, rows):
    summary = json.loads((trained.folder / "summary.json").read_text())
    assert summary == trained.summary
    recipe = Recipe.from_json((trained.folder / "recipe.json").read_text())
    assert summary["recipe_sha256"] == recipe.sha256
    assert summary["seed"] == recipe.seed
    assert 0 <= summary["test_accuracy"] <= 1
    found = rows(trained.folder)
    assert summary["validation_accuracy"] == max(float(row["validation_accuracy"]) for row in found)
    assert found[summary["best_epoch"] - 1]["validation_accuracy"] == str(summary["validation_accuracy"])
    assert summary["train_seconds"] > 0
    assert {"python", "torch", "numba", "lightning", "rheobase"} <= summary["versions"].keys()
    assert {"cpu", "cores", "threads", "gpu"} <= summary["machine"].keys()
    assert summary["machine"]["threads"] == 1
    assert {"commit", "date", "images_per_second"} <= summary.keys()
    assert len(summary["layers"]) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="no lock there")
def test_a_folder_is_locked_while_it_trains(tiny, monkeypatch):
    def second(*_):
        with pytest.raises(BlockingIOError, match="is in use"):
            resume(tiny["run"])
        raise KeyError("seen")

    monkeypatch.setattr(runs, "fit", second)
    with pytest.raises(KeyError, match="seen"):
        rb.train("digits", **tiny)
    with pytest.raises(KeyError, match="seen"):
        resume(tiny["run"])


def test_weights_hash_is_of_the_last_checkpoint(trained):
    state = torch.load(trained.folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert weights_sha256(state["net"]) == trained.summary["weights_sha256"]


def test_accuracies_are_those_of_the_best_model(trained):
    best = rb.load(trained.folder / "checkpoints" / "best.safetensors").eval()
    data = load("digits")
    scale = (data.test.inputs.float() - data.mean) / data.std
    guesses = rb.readout(best(scale)).argmax(1)
    assert (guesses == data.test.labels).sum().item() / 360 == pytest.approx(
        trained.summary["test_accuracy"], abs=1 / 360
    )
    assert evaluate(trained.folder, [2]) == {2: trained.summary["validation_accuracy"]}
    assert not trained.model.training


def test_evaluate_defaults_to_validation_up_to_the_trained_steps(trained):
    assert list(evaluate(trained.folder)) == [1, 2]
    assert list(evaluate(trained.folder, [3, 1])) == [3, 1]
    assert not (trained.folder / "evaluations.json").exists()


def test_a_look_at_the_test_set_is_noted_and_said(trained, capsys):
    for look in (1, 2):
        assert evaluate(trained.folder, [2], "test") == {2: trained.summary["test_accuracy"]}
        assert f"look number {look} at the test set" in capsys.readouterr().out
    noted = json.loads((trained.folder / "evaluations.json").read_text())
    assert [(note["split"], note["accuracy"]) for note in noted] == [
        ("test", {"2": trained.summary["test_accuracy"]})
    ] * 2
    (trained.folder / "evaluations.json").unlink()


@pytest.mark.parametrize(
    ("arguments", "match"),
    [(([0],), "at least 1, got 0"), (([],), "at least one number"), (([1], "tset"), "split must be .* got 'tset'")],
)
def test_evaluate_checks_its_arguments(trained, arguments, match):
    with pytest.raises(ValueError, match=match):
        evaluate(trained.folder, *arguments)


def test_resuming_a_finished_run_says_so_and_changes_nothing(trained, capsys):
    before = {path: path.read_bytes() for path in trained.folder.rglob("*") if path.is_file()}
    again = resume(trained.folder)
    assert "is finished" in capsys.readouterr().out
    assert again.summary == trained.summary
    assert {path: path.read_bytes() for path in trained.folder.rglob("*") if path.is_file()} == before


def test_training_is_reproducible_whatever_the_global_random_state(trained, tiny, rows):
    torch.manual_seed(12345)
    again = rb.train("digits", **tiny)
    assert again.summary["weights_sha256"] == trained.summary["weights_sha256"]
    assert again.summary["test_accuracy"] == trained.summary["test_accuracy"]
    assert rows(again.folder) == rows(trained.folder)


def test_the_seed_matters(trained, tiny):
    other = rb.train("digits", **tiny, seed=1)
    assert other.summary["weights_sha256"] != trained.summary["weights_sha256"]


def test_an_epoch_is_a_line_when_stdout_is_no_terminal(tiny, capsys):
    rb.train("digits", **{**tiny, "trainer.epochs": 2})
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("epoch")]
    assert [line.split()[1] for line in lines] == ["1/2", "2/2"]
    assert all("loss" in line and "accuracy" in line and "images/s" in line for line in lines)


def test_a_terminal_gets_a_bar_besides(tiny, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=screen, force_terminal=True, highlight=False))
    monkeypatch.setattr(console.time, "perf_counter", itertools.count(1.0).__next__)  # a second a look: always redrawn
    rb.train("digits", **tiny)
    assert "epoch 2  loss" in screen.getvalue()
    assert "epoch 3/3  loss" in screen.getvalue()


def test_the_bar_is_gone_when_a_run_fails(tiny, monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(console, "console", Console(file=screen, force_terminal=True, highlight=False))

    def failing(*_):
        raise KeyError("stop")

    monkeypatch.setattr(loop.Training, "validate", failing)
    with pytest.raises(KeyError):
        rb.train("digits", **tiny)
    assert screen.getvalue().count("\x1b[?25l") == screen.getvalue().count("\x1b[?25h") == 1, "the cursor is back"


@pytest.mark.parametrize(
    "options",
    [
        {"model.spiking": False},
        {"loss.name": "tet"},
        {"loss.name": "membrane", "loss.membrane_decay": 0.0},
        {"optimizer.name": "sgd", "trainer.clip_gradient": 1.0},
        {"trainer.precision": "bf16"},
        {"model.neuron.kind": "if", "model.neuron.surrogate": "triangle"},
        {"model.name": "plain_mlp", "model.image_size": 8},
    ],
    ids=lambda options: next(iter(options)) if isinstance(options, dict) else None,
)
def test_variants_train(tiny, options):
    run = rb.train("digits", **{**tiny, "trainer.epochs": 1, **options})
    steps = 1 if "model.spiking" in options else 2
    assert evaluate(run.folder)[steps] == run.summary["validation_accuracy"]
    assert evaluate(run.folder, [steps], "test")[steps] == run.summary["test_accuracy"]


@pytest.mark.parametrize(("precision", "has", "told"), [("bf16", False, 1), ("bf16", True, 0), ("32", False, 0)])
def test_slow_arithmetic_is_told(tiny, monkeypatch, capsys, precision, has, told):
    monkeypatch.setattr(compat, "cpu_has_bfloat16", lambda: has)
    rb.train("digits", **{**tiny, "trainer.epochs": 1, "data.train_limit": 32, "trainer.precision": precision})
    assert capsys.readouterr().out.count("no instructions for bfloat16") == told


@pytest.mark.parametrize(
    ("machine", "torch_says", "avx512", "amx", "has"),
    [
        ("x86_64", True, True, False, True),
        ("AMD64", True, False, True, True),
        ("x86_64", True, False, False, False),  # (an AVX-512 without them)
        ("x86_64", False, True, False, False),
        ("aarch64", True, False, False, True),
    ],
)
def test_which_processors_have_bfloat16(monkeypatch, machine, torch_says, avx512, amx, has):
    monkeypatch.setattr(compat.platform, "machine", lambda: machine)
    for name, value in (("_fast_bfloat16", torch_says), ("_avx512_bfloat16", avx512), ("_amx", amx)):
        monkeypatch.setattr(compat, name, lambda value=value: value)
    assert compat.cpu_has_bfloat16() is has


def test_the_learning_rate_follows_the_schedule(tiny, monkeypatch):
    used = []
    step = loop.Training.train_on

    def spy(self, batch):
        done = step(self, batch)
        used.append({group["lr"] for group in self.optimizer.param_groups})
        return done

    monkeypatch.setattr(loop.Training, "train_on", spy)
    rb.train("digits", **tiny)
    recipe = sources.load("digits", tiny)
    assert used == [{loop.learning_rate(recipe, index, 6)} for index in range(18)]


def test_gradients_are_clipped(tiny, monkeypatch):
    norms = []

    step = loop.Training.train_on

    def spy(self, batch):
        done = step(self, batch)
        norms.append(math.hypot(*[p.grad.norm().item() for p in self.net.parameters()]))
        return done

    monkeypatch.setattr(loop.Training, "train_on", spy)
    rb.train("digits", **{**tiny, "trainer.epochs": 1, "trainer.clip_gradient": 0.01})
    assert norms
    assert max(norms) <= 0.0101


def test_nothing_is_left_behind_when_the_recipe_does_not_fit(tiny, tmp_path):
    for bad in (
        {"model.name": "nonet"},
        {"model.name": "plain_mlp", "model.image_size": 9},
        {"data.train_limit": 9999},
    ):
        with pytest.raises(ValueError, match=r"nonet|image_size|data\.train_limit"):
            rb.train("digits", **{**tiny, **bad})
    assert not (tmp_path / "run").exists()


def test_a_run_that_diverges_stops_and_says_what_to_do(tiny):
    with pytest.raises(ValueError, match=r"diverged.*lower optimizer\.lr \(1e\+30\) or set trainer\.clip_gradient"):
        rb.train("digits", **{**tiny, "optimizer.lr": 1e30, "optimizer.name": "sgd", "loss.name": "tet"})


def test_overrides_do_not_go_with_a_recipe_object():
    with pytest.raises(ValueError, match=r"recipe\.replace"):
        rb.train(Recipe(), seed=1)


def test_tensorboard_writes_the_rows(tiny):
    pytest.importorskip("tensorboard")
    run = rb.train("digits", **tiny, **{"trainer.tensorboard": True})
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("validation_accuracy")] == [6, 12, 18]


def test_tensorboard_missing_says_how_to_install_it(tiny, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"pip install 'rheobase\[tensorboard\]'"):
        rb.train("digits", **tiny, **{"trainer.tensorboard": True})
    assert board is not None


def test_training_batches_are_those_of_the_recipe(tiny):
    recipe = sources.load("digits", tiny)
    batches = build.training_batches(recipe, build.dataset(recipe))
    assert (batches.count, batches.augmentation.shift, batches.seed) == (6, 1, 0)

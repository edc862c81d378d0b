"""A net that is tuned before its first step, and probed while it trains."""

import csv
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import rheobase as rb
from rheobase.training import build, loop, resume, sources, watch

SAME = ("weights_sha256", "best_sha256", "test_accuracy", "validation_accuracy", "best_epoch", "layers")


def readings(run):
    with (run.folder / "probe.csv").open() as file:
        return list(csv.DictReader(file))


def surrogates(net):
    return {path: str(m.surrogate) for path, m in net.named_modules() if isinstance(m, rb.LIF)}


@pytest.fixture
def plain_resnet(tiny):
    """A classic net that does not begin as the identity, but may."""
    return {
        **{key: value for key, value in tiny.items() if key != "model.depth"},
        **{"model.name": "spiking_resnet11", "model.start": "plain", "model.shortcut": "pool", "trainer.epochs": 1},
        **{"tune.samples": 32, "tune.start": "identity"},
    }


def test_a_net_is_tuned_before_its_first_step(tiny, firing, checkpoint, capsys):
    tiny["model.neuron.surrogate"], tiny["model.depth"] = "superspike", 3
    run = rb.train("digits", **{**tiny, "tune.samples": 64})
    firing(run)
    told = run.summary["tuned"]
    levels = [told[when]["gradient_first_over_last"] for when in ("before", "after", "held_out")]
    assert abs(levels[1] - 1) < 0.1 < abs(levels[0] - 1)
    assert told["before"]["verdict"] == "healthy"
    assert f"tuned: gradient, first over last: {levels[0]:.2g} before" in capsys.readouterr().out
    assert surrogates(run.model) == {path: after for path, (_, after) in told["surrogates"].items()}
    assert any(before != after for before, after in told["surrogates"].values())
    assert surrogates(rb.load(run.folder / "checkpoints" / "best.safetensors")) == surrogates(run.model)
    assert checkpoint(run.folder)["journal"]["tuned"] == told


@pytest.mark.parametrize("step", [0, 3])
def test_a_tuned_run_is_resumed_exactly(plain_resnet, tmp_path, stopping, rows, step):
    whole = rb.train("digits", **{**plain_resnet, "run": str(tmp_path / "whole")})
    assert len(whole.summary["tuned"]["begun"]) == 4
    assert not all(m.detach_reset for m in whole.model.modules() if isinstance(m, rb.LIF))
    with stopping(step):
        rb.train("digits", **plain_resnet)
    run = resume(plain_resnet["run"])
    for key in (*SAME, "tuned"):
        assert run.summary[key] == whole.summary[key], key
    assert rows(run.folder) == rows(whole.folder)
    assert surrogates(run.model) == surrogates(whole.model)


@pytest.mark.parametrize(
    "more",
    [
        {"trainer.ema": 0.8, "trainer.accumulate": 2},
        {
            **{"model.name": "mlp", "model.layers": "24-24", "model.image_size": 8, "model.depth": None},
            **{"model.width": None, "model.coding": "poisson", "data.scale": "unit", "trainer.checkpoint_segments": 2},
        },
        {"model.neuron.kind": "adaptive_lif", "model.neuron.learn": "decay,adaptation"},
    ],
    ids=str,
)
def test_a_probe_changes_nothing(tiny, tmp_path, rows, more):
    tiny |= more
    alone = rb.train("digits", **{**tiny, "run": str(tmp_path / "alone")})
    watched = rb.train("digits", **{**tiny, "probe.every_steps": 4})
    for key in SAME:
        assert watched.summary[key] == alone.summary[key], key
    assert rows(watched.folder) == rows(alone.folder)
    assert [row["step"] for row in readings(watched)] == [str(step) for step in range(0, 18, 4) for _ in range(2)]
    assert not (alone.folder / "probe.csv").exists()


def smoothed(logits, labels):
    return F.cross_entropy(logits.mean(0), labels, label_smoothing=0.1, reduction="none")


def counted(logits, labels):
    return (logits.mean(0) - F.one_hot(labels, 10)).square().mean(1)


@pytest.mark.parametrize(("name", "loss"), [("cross_entropy", smoothed), ("count", counted)])
def test_readings_are_those_of_a_probe_with_the_loss_of_the_run(plain_resnet, name, loss):
    del plain_resnet["tune.samples"], plain_resnet["tune.start"]
    options = {**plain_resnet, "probe.every_steps": 5, "probe.samples": 32}
    options |= {"loss.name": name, "loss.label_smoothing": 0.1 if name == "cross_entropy" else 0.0}
    run = rb.train("digits", **options)
    recipe = sources.load("digits", options)
    data = build.dataset(recipe)
    few = build.sample(data, data.train, 32)
    report = rb.probe(build.model(recipe, data), few.inputs, few.labels, loss=loss)
    first = [row for row in readings(run) if row["step"] == "0"]
    wanted = [("neuron", each) for each in report.layers] + [("waist", each) for each in report.waists]
    assert [(row["of"], row["path"]) for row in first] == [(of, each.path) for of, each in wanted]
    for row, (_, each) in zip(first, wanted, strict=True):
        for name in watch.READ:
            value = getattr(each, name, None)
            assert (row[name] == "") == (value is None), name
            assert value is None or float(row[name]) == pytest.approx(value, rel=1e-4), name


@pytest.mark.parametrize("step", [3, 8])
def test_a_watched_run_is_resumed_exactly(tiny, tmp_path, stopping, rows, step):
    tiny |= {"probe.every_steps": 3, "probe.samples": 16}
    whole = rb.train("digits", **{**tiny, "run": str(tmp_path / "whole")})
    with stopping(step):
        rb.train("digits", **tiny)
    run = resume(tiny["run"])
    for key in SAME:
        assert run.summary[key] == whole.summary[key], key
    assert rows(run.folder) == rows(whole.folder)
    assert readings(run) == readings(whole)


class Ladder(nn.Module):
    """Three layers on pixels; the threshold of the second can be put out of reach."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            *(
                nn.Sequential(rb.PerStep(nn.Linear(size, 32)), rb.Fire(rb.CurrentNorm(32), rb.LIF()))
                for size in (64, 32, 32)
            )
        )
        self.head = rb.PerStep(nn.Linear(32, 10))

    def forward(self, images):
        return self.head(self.layers(images.flatten(1).expand(4, -1, -1)))


def test_each_layer_is_warned_of_once(tiny, tmp_path, monkeypatch, stopping, capsys):
    """Also of a run that is resumed; and when it comes to it, not before."""
    train_on = loop.Training.train_on

    def kills(self, *batch):
        if self.step == 7:
            self.net.layers[1][1].neuron.threshold = 50.0
        return train_on(self, *batch)

    monkeypatch.setattr(loop.Training, "train_on", kills)
    options = {key: value for key, value in tiny.items() if "model" not in key}
    options |= {"probe.every_steps": 2, "probe.samples": 32}
    with stopping(13):
        rb.train("digits", model=Ladder(), **options)
    resume(options["run"], model=Ladder())
    said = capsys.readouterr().out.splitlines()
    silent = [line for line in said if ": silent: " in line]
    assert [line.partition(" has ")[0] for line in silent] == [
        "before step 9: silent: layers.1.1.neuron",
        "before step 9: silent: layers.2.1.neuron",
    ]
    assert "lower its threshold" in silent[0]
    warned = [line.partition(": ")[2] for line in said if line.startswith("before step")]
    assert len({line.partition(" has ")[0] for line in warned}) == len(warned)


def test_sequences_are_read_up_to_their_ends(tiny):
    inputs = torch.rand(64, 6, 8, 1, 1, generator=torch.Generator().manual_seed(0))
    labels, lengths = torch.arange(64) % 2, 3 + torch.arange(64) % 4
    past = torch.arange(6) >= lengths.unsqueeze(1)
    found = []
    for end in (0.0, 9.0):
        inputs[past] = end
        split = rb.data.Split(inputs.clone(), labels, lengths)
        data = rb.data.Dataset.of("made", 2, *(split.at(torch.arange(i, 64, 3)) for i in range(3)))
        options = {**tiny, "model.depth": None, "model.width": None}
        del options["data.name"]
        options |= {"data.shift": 0, "data.train_limit": None, "data.batch_size": 8, "trainer.epochs": 1}
        options |= {"model.name": "mlp", "model.layers": "12-R12", "model.image_size": 1}
        options |= {"run": f"{tiny['run']}-{end}", "probe.every_steps": 2, "probe.samples": 16}
        run = rb.train("digits", data=data, **options)
        found.append([row["gradient_norm"] for row in readings(run)])
        with pytest.raises(ValueError, match=r"^tune: sequences of different lengths are not tuned in a run"):
            rb.train("digits", data=data, **{**options, "run": f"{tiny['run']}-tuned", "tune.samples": 16})
        assert not Path(f"{tiny['run']}-tuned").exists()
    assert found[0] == found[1]
    assert len(found[0]) > 2


def test_the_board_has_the_readings(tiny):
    pytest.importorskip("tensorboard")
    run = rb.train("digits", **tiny, **{"trainer.tensorboard": True, "probe.every_steps": 8})
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    for row in readings(run):
        [event] = [e for e in events.Scalars(f"probe/rate/neuron {row['path']}") if str(e.step) == row["step"]]
        assert event.value == pytest.approx(float(row["rate"]))


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"tune.samples": 97}, "tune.samples must be at most 96, the training samples of digits, got 97"),
        ({"probe.every_steps": 1, "probe.samples": 97}, "probe.samples must be at most 96"),
        ({"tune.samples": 16, "model.spiking": False}, "tune.samples must be null for a model without neurons, got 16"),
        ({"probe.every_steps": 2, "model.spiking": False}, "probe.every_steps must be null for a model without"),
        ({"tune.start": "identity"}, "tune.samples must be given with tune.start, got null and 'identity'"),
        ({"tune.samples": 4}, "tune.samples must be an integer >= 8 or null, got 4"),
        ({"tune.samples": 16, "tune.start": "fluctuation"}, "tune: start 'fluctuation' does not go with this model"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_told_before_there_is_a_folder(tiny, keys, told):
    with pytest.raises(ValueError, match=told):
        rb.train("digits", **tiny, **keys)
    assert not Path(tiny["run"]).exists()

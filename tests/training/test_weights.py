"""Nets that begin with weights from elsewhere."""

import json
import tempfile

import pytest
import safetensors.torch
import torch
from torch import nn

import rheobase as rb
from rheobase.training import health, weights
from rheobase.training.evaluation import weights_sha256
from rheobase.training.recipe import Recipe

STILL = {"optimizer.lr": 1e-12, "optimizer.weight_decay": 0.0, "trainer.epochs": 1}


def net(seed=0, **options):
    torch.manual_seed(seed)
    return rb.models.create("plain_convnet", **{"classes": 10, "in_channels": 1, "depth": 2, "width": 4, **options})


def layers(model):
    """All tensors but those that neurons have as buffers."""
    return {name: each for name, each in model.state_dict().items() if "neuron." not in name or ".raw_" in name}


def begin(mine, other, classes=10, **half):
    """What a file of the other one does."""
    with tempfile.TemporaryDirectory() as folder:
        rb.save(other, f"{folder}/other.safetensors", **half)
        return weights.begin(mine, weights.read(f"{folder}/other.safetensors"), classes)


def tensors(model):
    return {name: each.contiguous() for name, each in model.state_dict().items()}


def assert_same(ours, theirs, but=()):
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - set(but):
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize(("spiking", "begins"), [(False, True), (True, False), (True, True), (False, False)])
def test_a_net_begins_with_its_twin(spiking, begins):
    other, mine = net(1, spiking=spiking), net(2, spiking=begins)
    assert any(not torch.equal(each, layers(other)[name]) for name, each in layers(mine).items())
    told = begin(mine, other)
    assert_same(layers(mine), layers(other))
    assert told == {"sha256": weights_sha256(other.state_dict()), "taken": 12, "drawn": [], "left_out": []}


def test_files_in_half_precision():
    other, mine = net(1), net(2)
    begin(mine, other, half=True)
    for name, each in layers(mine).items():
        assert each.dtype == torch.float32
        torch.testing.assert_close(each, layers(other)[name], rtol=1e-3, atol=1e-4)


def test_neurons_are_those_of_the_net_but_what_they_learn_is_learned():
    theirs = rb.LIF(decay=0.9, threshold=0.7, learn=("decay",), surrogate=rb.surrogate.SuperSpike(3.0))
    ours = rb.LIF(decay=0.5, threshold=1.5, learn=("decay",), surrogate=rb.surrogate.Sigmoid(2.0), reset="hard")
    mine = net(2, neuron=ours)
    begin(mine, net(1, neuron=theirs))
    neurons = [each for each in mine.modules() if isinstance(each, rb.LIF)]
    assert len(neurons) > 1
    for neuron in neurons:
        torch.testing.assert_close(neuron.decay, torch.tensor(0.9))
        assert float(neuron.threshold) == 1.5
        assert neuron.reset == "hard"
        assert neuron.surrogate == rb.surrogate.Sigmoid(2.0)


def test_a_neuron_in_two_places_stays_as_it_is():
    def twice(neuron, seed):
        torch.manual_seed(seed)
        return nn.Sequential(rb.PerStep(nn.Linear(6, 6)), neuron, rb.PerStep(nn.Linear(6, 6)), neuron)

    mine, other = twice(rb.LIF(0.3, 0.6), 1), twice(rb.LIF(0.9, 1.8), 2)
    weights.begin(mine, other.state_dict(), 10)
    assert_same(layers(mine[0]), layers(other[0]))
    assert (float(mine[1].decay), float(mine[1].threshold)) == (pytest.approx(0.3), pytest.approx(0.6))
    mine, twin = twice(rb.LIF(0.3, 0.6), 1), twice(nn.ReLU(), 2)
    weights.begin(mine, twin.state_dict(), 10)
    assert_same(layers(mine[2]), layers(twin[2]))


@pytest.mark.parametrize("kind", [rb.LIF, rb.AdaptiveLIF], ids=str)
def test_what_one_of_them_learns_is_told(kind):
    plain, learning = net(1), net(2, neuron=kind(decay=0.8, learn=("decay",)))
    before = dict(learning.state_dict())
    told = begin(learning, plain)
    paths = ("features.1.neuron", "features.3.neuron")
    assert told["drawn"] == [f"{path}.raw_decay" for path in paths]
    assert_same(layers(learning), {**layers(plain), **{name: before[name] for name in told["drawn"]}})
    told = begin(net(3), learning)
    assert (told["drawn"], told["left_out"]) == ([], [f"{path}.raw_decay" for path in paths])
    assert weights.told(told) == (
        "begins with 12 tensors that were given; left out: features.1.neuron.raw_decay, features.3.neuron.raw_decay"
    )


def test_an_ann_goes_to_qcfs_and_its_thresholds_to_neurons_that_learn_theirs():
    ann, quantised = net(1, spiking=False), rb.graph.with_qcfs(net(2, spiking=False), 4, 3.0)
    names = ["features.1.neuron.raw_threshold", "features.3.neuron.raw_threshold"]
    assert weights.begin(quantised, tensors(ann), 10)["drawn"] == names
    assert_same(layers(quantised), {**layers(ann), **{name: quantised.state_dict()[name] for name in names}})
    learning, fixed = net(3, neuron=rb.LIF(learn=("threshold",))), net(4)
    assert weights.begin(learning, tensors(quantised), 10)["left_out"] == []
    assert all(
        float(each.threshold.detach()) == pytest.approx(3.0) for each in learning.modules() if isinstance(each, rb.LIF)
    )
    assert weights.begin(fixed, tensors(quantised), 10)["left_out"] == names
    assert all(float(each.threshold) == 1.0 for each in fixed.modules() if isinstance(each, rb.LIF))


def test_more_or_fewer_classes():
    other, mine, before = net(1, classes=7), net(2), net(2)
    told = begin(mine, other)
    assert told["drawn"] == ["head.module.bias", "head.module.weight"]
    assert_same(layers(mine), {**layers(other), **{name: layers(before)[name] for name in told["drawn"]}})
    assert "; drawn: head.module.bias, head.module.weight" in weights.told(told)


def test_a_recurrent_layer_and_norms_of_one_factor_a_step():
    options = {"layers": "6-R5", "image_size": 8, "neuron": rb.LIF(0.7)}
    other, mine = (rb.models.create("mlp", classes=10, in_channels=1, **options) for _ in range(2))
    begin(mine, other)
    assert_same(layers(mine), layers(other))
    assert any("neuron.module.weight" in name for name in mine.state_dict())
    begin(net(2, norm="tebn", steps=10), net(1, norm="tebn", steps=10))
    with pytest.raises(ValueError, match=r"'features.1.norm.factor' must be \[10\], and is \[4\] in it"):
        begin(net(2, norm="tebn", steps=10), net(1, norm="tebn", steps=4))


@pytest.mark.parametrize(
    ("other", "wanted"),
    [
        ({"width": 5}, "'features.0.module.weight' must be [4, 1, 3, 3], and is [5, 1, 3, 3] in it: another network?"),
        ({"depth": 3}, "model.weights: "),
        ({"depth": 1}, "model.weights: there is no 'features."),
        ({"in_channels": 3}, "must be [4, 1, 3, 3], and is [4, 3, 3, 3] in it"),
        ({"norm": "none"}, "there is no 'features.1.norm.bias' in it: another network?"),
        ({"classes": 7, "width": 5}, "model.weights: "),
    ],
    ids=str,
)
def test_other_networks_are_refused_and_nothing_is_changed(other, wanted):
    mine = net(2)
    with pytest.raises(ValueError, match="^model.weights: ") as caught:
        begin(mine, net(1, **other))
    assert wanted in str(caught.value)
    assert_same(mine.state_dict(), net(2).state_dict())


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda t: t | {"features.9.weight": torch.ones(3)}, "'features.9.weight' of it has no place here"),
        (lambda t: t | {"features.0.module.extra": torch.ones(3)}, "'features.0.module.extra' of it has no place here"),
        (lambda t: t | {"features.4.weight": torch.ones(3)}, "'features.4.weight' of it has no place here"),
        (lambda t: t | {"head.module.bias": t["head.module.bias"] * torch.nan}, "'head.module.bias' of it is not fin"),
        (lambda t: t | {"head.module.bias": torch.ones(10, dtype=torch.int8)}, "and is torch.int8 [10] in it"),
        (lambda t: t | {"head.module.weight": torch.ones(7, 9)}, "'head.module.weight' must be [10, "),
        (
            lambda t: {f"module.{name}": each for name, each in t.items()},
            "all begin with 'module.': those of a wrapped net?",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(change, wanted):
    mine = net(2)
    with pytest.raises(ValueError, match="^model.weights: ") as caught:
        weights.begin(mine, change(tensors(net(1))), 10)
    assert wanted in str(caught.value)
    assert_same(mine.state_dict(), net(2).state_dict())


def test_one_tensor_by_two_names():
    def twice(seed, tied=True):
        torch.manual_seed(seed)
        layers = [nn.Linear(3, 3, bias=False) for _ in range(2)]
        if tied:
            layers[1].weight = layers[0].weight
        return nn.Sequential(*layers)

    mine, other = twice(1), twice(2)
    weights.begin(mine, {"1.weight": other[1].weight.detach()}, 10)
    assert torch.equal(mine[0].weight, other[0].weight)
    assert mine[0].weight is mine[1].weight
    with pytest.raises(ValueError, match=r"'0.weight' and '1.weight' are one tensor here, and two in it"):
        weights.begin(mine, dict(twice(3, tied=False).state_dict()), 10)


@pytest.mark.parametrize("kind", ["absent", "empty folder", "pickle", "cut off"])
def test_what_holds_no_weights_is_refused(tmp_path, tiny, kind):
    place = tmp_path / "other.safetensors"
    if kind == "empty folder":
        place.mkdir()
    elif kind == "pickle":
        torch.save(net(1).state_dict(), place)
    elif kind == "cut off":
        rb.save(net(1), place)
        place.write_bytes(place.read_bytes()[:-10])
    absent = kind in ("absent", "empty folder")
    wanted = "there is no " if absent else ".* is not a safetensors file, or not the whole"
    with pytest.raises(FileNotFoundError if absent else ValueError, match=f"^model.weights: {wanted}"):
        rb.train("digits", **{**tiny, "model.weights": str(place)})
    assert not (tmp_path / "run").exists()


def test_a_run_begins_with_the_best_of_another(tmp_path, tiny, capsys):
    twin = rb.train("digits", **{**tiny, "run": str(tmp_path / "ann"), "model.spiking": False})
    run = rb.train("digits", **{**tiny, **STILL, "seed": 1, "model.weights": str(twin.folder)})
    ours, theirs = layers(run.model), layers(twin.model)
    for name in ours:
        if "running" not in name:  # (which one epoch moved)
            torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-8)
    told = json.loads((run.folder / "summary.json").read_text())["weights"]
    assert (told["drawn"], told["sha256"]) == ([], twin.summary["best_sha256"])
    assert "begins with 12 tensors that were given\n" in capsys.readouterr().out


def test_a_network_of_ones_own_begins_with_a_state_dict(tmp_path, tiny):
    def own(seed):
        torch.manual_seed(seed)
        return rb.to_spiking(
            nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)), rb.LIF(), steps=2
        )

    safetensors.torch.save_file(tensors(own(1)), tmp_path / "own.safetensors", {"format": "pt"})
    mine = own(2)
    weights.begin(mine, weights.read(str(tmp_path / "own.safetensors")), 10)
    assert_same(mine.state_dict(), own(1).state_dict())
    with pytest.raises(ValueError, match=r"model.weights is .* but with model=..., an object, it is of no use"):
        rb.train("digits", model=mine, **{"run": tiny["run"], "model.weights": str(tmp_path / "own.safetensors")})


def test_resuming_does_not_ask_for_the_weights_again(tmp_path, tiny, rows, monkeypatch):
    rb.save(net(1, in_channels=1), tmp_path / "other.safetensors")
    options = {**tiny, "model.weights": str(tmp_path / "other.safetensors")}
    whole = rb.train("digits", **{**options, "run": str(tmp_path / "whole")})
    plain = rb.train("digits", **{**tiny, "run": str(tmp_path / "plain")})
    assert rows(whole.folder) != rows(plain.folder)

    step = rb.training.loop.Training.train_on

    def stopping(self, batch):
        if self.step == 9:
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(rb.training.loop.Training, "train_on", stopping)
    with pytest.raises(KeyboardInterrupt):
        rb.train("digits", **options)
    monkeypatch.undo()
    (tmp_path / "other.safetensors").unlink()
    again = rb.training.resume(tmp_path / "run")
    assert rows(again.folder) == rows(whole.folder)
    for key in ("weights_sha256", "best_sha256", "test_accuracy", "weights", "recipe_sha256"):
        assert again.summary[key] == whole.summary[key]


def test_the_recipe_says_that_weights_were_given_not_where_they_lie(tmp_path, tiny, monkeypatch):
    given, moved, none = (Recipe().replace({"model.weights": each}) for each in ("a", "/b/c", None))
    assert given.sha256 == moved.sha256 != none.sha256 == Recipe().sha256
    monkeypatch.chdir(tmp_path)
    rb.save(net(1), tmp_path / "other.safetensors")
    run = rb.train("digits", **{**tiny, "trainer.epochs": 1, "model.weights": "other.safetensors"})
    kept = json.loads((run.folder / "recipe.json").read_text())["model"]["weights"]
    assert kept == str(tmp_path / "other.safetensors")


def test_a_probe_of_a_recipe_sees_the_weights(tmp_path, tiny):
    rb.save(net(1), tmp_path / "other.safetensors")
    keys = [f"--{key}={value}" for key, value in tiny.items() if key != "run"]
    plain, given = (health.health("digits", [*keys, *more], samples=8).table() for more in (
        [], [f"--model.weights={tmp_path / 'other.safetensors'}"]
    ))  # fmt: skip
    assert plain != given
    with pytest.raises(FileNotFoundError, match=r"model.weights: there is no .*nowhere"):
        health.health("digits", [*keys, "--model.weights=nowhere"], samples=8)


def test_a_start_does_not_go_with_weights():
    with pytest.raises(ValueError, match=r"tune.start must be null with model.weights, .* got 'identity'"):
        Recipe().replace({"model.weights": "a", "tune.samples": 8, "tune.start": "identity"})

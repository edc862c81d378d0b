"""Nets that begin with weights from elsewhere."""

import json

import pytest
import safetensors.torch
import torch
from torch import nn

import rheobase as rb
from rheobase.training import weights
from rheobase.training.recipe import Recipe

STILL = {"optimizer.lr": 1e-12, "optimizer.weight_decay": 0.0, "trainer.epochs": 1}


def net(seed=0, **options):
    torch.manual_seed(seed)
    return rb.models.create("plain_convnet", **{"classes": 10, "in_channels": 1, "depth": 2, "width": 4, **options})


def layers(model):
    """All tensors but those that neurons have as buffers."""
    return {name: each for name, each in model.state_dict().items() if "neuron." not in name or ".raw_" in name}


def assert_same(ours, theirs, but=()):
    assert ours.keys() == theirs.keys()
    for name in ours.keys() - set(but):
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0, msg=name)


@pytest.mark.parametrize(("spiking", "begins"), [(False, True), (True, False), (True, True), (False, False)])
def test_a_net_begins_with_its_twin(tmp_path, spiking, begins):
    other, mine = net(1, spiking=spiking), net(2, spiking=begins)
    rb.save(other, tmp_path / "other.safetensors")
    assert any(not torch.equal(each, layers(other)[name]) for name, each in layers(mine).items())
    told = weights.begin(mine, str(tmp_path / "other.safetensors"), 10)
    assert_same(layers(mine), layers(other))
    assert told["drawn"] == []
    assert all("neuron." in name for name in told["passed_over"])


def test_files_in_half_precision(tmp_path):
    rb.save(net(1), tmp_path / "other.safetensors", half=True)
    mine = net(2)
    weights.begin(mine, str(tmp_path / "other.safetensors"), 10)
    assert_same(layers(mine), layers(rb.load(tmp_path / "other.safetensors")))
    assert all(each.dtype == torch.float32 for each in layers(mine).values())


def test_neurons_are_those_of_the_net_but_what_they_learn_is_learned(tmp_path):
    theirs = rb.LIF(decay=0.9, threshold=0.7, learn=("decay",), surrogate=rb.surrogate.SuperSpike(3.0))
    ours = rb.LIF(decay=0.5, threshold=1.5, learn=("decay",), surrogate=rb.surrogate.Sigmoid(2.0), reset="hard")
    rb.save(net(1, neuron=theirs), tmp_path / "other.safetensors")
    mine = net(2, neuron=ours)
    weights.begin(mine, str(tmp_path / "other.safetensors"), 10)
    neurons = [each for each in mine.modules() if isinstance(each, rb.LIF)]
    assert len(neurons) > 1
    for neuron in neurons:
        torch.testing.assert_close(neuron.decay, torch.tensor(0.9))
        assert float(neuron.threshold) == 1.5
        assert neuron.reset == "hard"
        assert neuron.surrogate == rb.surrogate.Sigmoid(2.0)


def test_what_only_ours_learns_stays_and_is_told(tmp_path):
    rb.save(net(1), tmp_path / "other.safetensors")
    mine = net(2, neuron=rb.LIF(decay=0.8, learn=("decay",)))
    told = weights.begin(mine, str(tmp_path / "other.safetensors"), 10)
    assert told["drawn"]
    assert all(name.endswith("neuron.raw_decay") for name in told["drawn"])
    assert_same(layers(mine), {**layers(net(1)), **{name: mine.state_dict()[name] for name in told["drawn"]}})


def test_other_classes(tmp_path, capsys):
    other, mine, before = net(1, classes=7), net(2), net(2)
    rb.save(other, tmp_path / "other.safetensors")
    told = weights.begin(mine, str(tmp_path / "other.safetensors"), 10)
    head = [name for name, each in layers(mine).items() if each.shape != layers(other)[name].shape]
    assert told["drawn"] == sorted(head)
    assert head
    assert_same(layers(mine), layers(other), but=head)
    assert_same({name: layers(mine)[name] for name in head}, {name: layers(before)[name] for name in head})
    assert f"as drawn: {', '.join(sorted(head))}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("other", "wanted"),
    [
        ({"width": 5}, "is of another network: 'features.0.module.weight' is [5, 1, 3, 3] in it, not [4, 1, 3, 3]"),
        ({"depth": 3}, "of another network: "),
        ({"depth": 1}, "is of another network: there is no 'features."),
        ({"in_channels": 3}, "is [4, 3, 3, 3] in it, not [4, 1, 3, 3]"),
        ({"norm": "none"}, "there is no 'features.1.norm.bias' in it"),
    ],
    ids=str,
)
def test_other_networks_are_refused_and_nothing_is_changed(tmp_path, other, wanted):
    rb.save(net(1, **other), tmp_path / "other.safetensors")
    mine = net(2)
    with pytest.raises(ValueError, match="model.weights: ") as caught:
        weights.begin(mine, str(tmp_path / "other.safetensors"), 10)
    assert wanted in str(caught.value)
    assert_same(mine.state_dict(), net(2).state_dict())


def test_tensors_without_a_place_are_refused(tmp_path):
    tensors = {name: each.contiguous() for name, each in layers(net(1)).items()} | {"features.9.weight": torch.ones(3)}
    safetensors.torch.save_file(tensors, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"'features.9.weight' of it has no place here"):
        weights.begin(net(2), str(tmp_path / "other.safetensors"), 10)


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


def test_a_run_begins_with_the_best_of_another(tmp_path, tiny):
    twin = rb.train("digits", **{**tiny, "run": str(tmp_path / "ann"), "model.spiking": False})
    run = rb.train("digits", **{**tiny, **STILL, "seed": 1, "model.weights": str(twin.folder)})
    ours, theirs = layers(run.model), layers(twin.model)
    for name in ours:
        if "running" not in name:  # (which one epoch moved)
            torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-8)
    begun = json.loads((run.folder / "summary.json").read_text())["begun"]
    assert begun["drawn"] == []
    assert len(begun["weights_sha256"]) == 64


def test_a_network_of_ones_own_begins_with_a_state_dict(tmp_path, tiny):
    def own(seed):
        torch.manual_seed(seed)
        return rb.to_spiking(
            nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)), rb.LIF(), steps=2
        )

    tensors = {name: each.contiguous() for name, each in own(1).state_dict().items()}
    safetensors.torch.save_file(tensors, tmp_path / "own.safetensors")
    mine = own(2)
    weights.begin(mine, str(tmp_path / "own.safetensors"), 10)
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
    for key in ("weights_sha256", "best_sha256", "test_accuracy", "begun", "recipe_sha256"):
        assert again.summary[key] == whole.summary[key]


def test_the_recipe_says_that_weights_were_given_not_where_they_lie(tmp_path, tiny, monkeypatch):
    given, moved, none = (Recipe().replace({"model.weights": each}) for each in ("a", "/b/c", None))
    assert given.sha256 == moved.sha256 != none.sha256 == Recipe().sha256
    monkeypatch.chdir(tmp_path)
    rb.save(net(1), tmp_path / "other.safetensors")
    run = rb.train("digits", **{**tiny, "trainer.epochs": 1, "model.weights": "other.safetensors"})
    kept = json.loads((run.folder / "recipe.json").read_text())["model"]["weights"]
    assert kept == str(tmp_path / "other.safetensors")

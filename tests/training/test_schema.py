"""Keys of a recipe that are declared where they are taken: options of data sets, of families, numbers of neurons."""

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Literal

import pytest
from torch import nn

import rheobase as rb
from rheobase import data
from rheobase.data.options import told
from rheobase.models import Family, Parts
from rheobase.models.family import Count
from rheobase.training import Recipe, build, evaluate, resume, sources
from rheobase.training.keys import known, leaves


def test_a_key_of_data_is_what_its_loader_says():
    keys = leaves(Recipe)
    for name in data.names():
        for option, what in data.options(name).items():
            leaf = keys[f"data.{option}"]
            assert (leaf.nullable, leaf.field.default) == (True, None), option
            assert leaf.kind in (what.type, *getattr(what.type, "__args__", ())), option
            assert name in leaf.field.description
            assert what.default is None or f"null: {what.default}" in leaf.field.description
    for option, what in told(data.Augmentation).items():
        assert keys[f"data.{option}"].field.default == what.default
    assert keys["data.mels"].wanted == "an integer >= 1 or null"
    assert keys["data.crop"].wanted == "a number > 0 and <= 1"
    assert keys["data.rand_augment"].wanted == "a number > 0 and < 30 or null"
    assert keys["data.by"].wanted == "one of time, count or null"


@pytest.mark.parametrize(
    ("key", "value", "match"),
    [
        ("data.frames", 0, "data.frames must be an integer >= 1 or null, got 0"),
        ("data.hop", 0.0, "data.hop must be a number > 0 or null, got 0"),
        ("data.cutmix", -0.5, "data.cutmix must be a number >= 0, got -0.5"),
        ("data.by", "size", "data.by must be one of time, count or null, got 'size'"),
        ("data.mel", 40, "unknown key 'data.mel': did you mean 'data.mels'"),
    ],
)
def test_a_key_of_data_is_checked(key, value, match):
    with pytest.raises(ValueError, match=match):
        Recipe.from_json(json.dumps({key: value}))


def test_a_new_option_of_a_loader_is_a_key():
    """In a process of its own, as the schema is made once."""
    code = """
import rheobase.data
from typing import Annotated
from pydantic import Field
def load(root: str | None = None, *, wings: Annotated[int, Field(ge=2)] = 4) -> None:
    \"\"\"Birds.

    Args:
        root: folder.
        wings: how many.
    \"\"\"
rheobase.data._loaders["birds"] = load
from rheobase.training import Recipe
from rheobase.training.keys import leaves
leaf = leaves(Recipe)["data.wings"]
print(leaf.field.description, "|", leaf.wanted)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "birds: how many (null: 4) | an integer >= 2 or null\n"


@dataclass(frozen=True, kw_only=True)
class Bird(Family):
    """Layers of so many units each, shrunk."""

    units: tuple[int, ...] = (32, 16)
    wings: Count = 2
    shrink: float = 1.0
    colour: str | None = None
    size: Literal[1, 2] = 1
    width: int = 8
    tame: bool = False

    def stack(self, parts: Parts) -> tuple[list[nn.Module], int]:
        layers, features = [rb.models.plain.Flatten(self.in_channels, 8)], 64 * self.in_channels
        for units in (*self.units, self.width):
            layers += [parts.dense(features, units), parts.fire(units)]
            features = units
        return layers, features


FUNCTION = """
from torch import nn
import rheobase as rb

def net(classes, steps=4, *, hidden: int = 8, kind="x"):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin, self.fire = nn.Linear(64, hidden), rb.Fire(rb.CurrentNorm(hidden), rb.LIF())
            self.head = nn.Linear(hidden, classes)
        def forward(self, x):
            return self.head(self.fire(self.lin(x.flatten(1)).expand(steps, -1, -1)))
    assert kind in ("x", 3)
    return Net()
"""


@pytest.fixture
def birds(monkeypatch, tiny):
    monkeypatch.setattr(rb.models.registry, "_models", dict(rb.models.registry._models))
    rb.models.register("bird", Bird)
    rb.models.register("tame_bird", Bird, tame=True)
    return {**tiny, "model.name": "bird", "model.depth": None, "model.width": 12, "trainer.epochs": 2}


def test_a_family_of_ones_own_has_its_fields_as_options(birds, tmp_path, firing, stopping, rows):
    options = {**birds, "model.options.units": [40, 20], "model.options.shrink": 2, "model.options.colour": "red"}
    whole = rb.train("digits", **{**options, "run": str(tmp_path / "whole")})
    firing(whole)
    described = whole.model.description
    assert (described.units, described.shrink, described.colour, described.width) == ((40, 20), 2.0, "red", 12)
    recipe = Recipe.from_json((whole.folder / "recipe.json").read_text())
    assert recipe.flat() | {"model.options.colour": "red", "model.options.units": [40, 20]} == recipe.flat()
    assert hash(recipe) == hash(recipe.replace({}))
    with stopping(5):
        rb.train("digits", **options)
    run = resume(tiny := options["run"])
    assert run.summary["weights_sha256"] == whole.summary["weights_sha256"]
    assert rows(run.folder) == rows(whole.folder)
    assert evaluate(tiny)[2] == run.summary["validation_accuracy"]
    other = rb.train("digits", **{**birds, "run": str(tmp_path / "other")})
    assert other.summary["recipe_sha256"] != whole.summary["recipe_sha256"]
    assert other.model.description == Bird(
        classes=10, in_channels=1, steps=2, width=12, neuron=other.model.description.neuron
    )


def test_its_twin_has_them_too(birds):
    run = rb.train("digits", **{**birds, "model.spiking": False, "model.options.units": [24], "trainer.epochs": 1})
    assert run.model.description.units == (24,)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"model.options.wing": 3}, "bird takes no 'wing': did you mean 'wings'"),
        ({"model.options.xyz": 3}, "bird takes no 'xyz': keys are units, .*tame"),
        ({"model.options.shrink": "much"}, "model.options.shrink must be a number, got 'much'"),
        ({"model.options.shrink": True}, "model.options.shrink must be a number, got True"),
        ({"model.options.wings": 2.5}, "model.options.wings must be an integer, got 2.5"),
        ({"model.options.wings": 0}, "wings must be a positive integer, got 0"),
        ({"model.options.size": 3}, "model.options.size must be one of 1, 2, got 3"),
        ({"model.options.units": 3}, "model.options.units must be a list, each an integer, got 3"),
        ({"model.options.units": [3, "x"]}, r"model.options.units must be a list, each an integer, got \[3, 'x'\]"),
        ({"model.options.width": 8}, "model.options.width is set: give it as model.width"),
        ({"model.options.norm": "tdbn"}, "model.options.norm is set: give it as model.norm"),
        ({"model.options.neuron.decay": 8}, "key 'model.options.neuron.decay'.*mean 'model.neuron.decay'"),
        ({"model.options": 3}, "'model.options' is a group of keys, got 3"),
        ({"model.wings": 3}, "unknown key 'model.wings'"),
        ({"model.name": "tame_bird", "model.options.tame": False}, "tame_bird takes no 'tame'"),
        ({"model.name": "sew_resnet18", "model.options.wings": 3}, "sew_resnet18 takes no 'wings': it takes none"),
        ({"model.options.wings": {3}}, "model.options.wings must be what JSON has: .* got {.*}"),
    ],
)
def test_options_are_checked(birds, options, match):
    with pytest.raises(ValueError, match=match):
        rb.train("digits", **{**birds, **options})


def test_options_come_from_files_and_the_command_line(birds, tmp_path):
    (tmp_path / "mine.yaml").write_text(
        "model: {name: bird, options: {units: [8, 4], shrink: 1e-3, colour: '32', size: 2}}\ndata: {name: digits}"
    )
    words = ["--model.options.wings=3", "--model.options.tame", "true", "--model.options.units=[5]"]
    _, recipe = sources.from_arguments([str(tmp_path / "mine.yaml"), *words])
    net = build.model(recipe, build.dataset(recipe)).description
    assert (net.units, net.shrink, net.colour, net.size, net.wings, net.tame) == ((5,), 0.001, "32", 2, 3, True)
    assert (
        sources.load(tmp_path / "mine.yaml", {"model.options.wings": None}).sha256
        == sources.load(tmp_path / "mine.yaml").sha256
    ), "null leaves it out"
    with pytest.raises(ValueError, match=r"--model\.options\.wings is given 2 times"):
        sources.from_arguments([str(tmp_path / "mine.yaml"), *words, "--model.options.wings=3"])
    with pytest.raises(ValueError, match="'model.options' is a group, not a key: give one of model.options.NAME"):
        known(Recipe, "model.options")


def test_a_function_of_ones_own_takes_options(tmp_path, monkeypatch, tiny, firing):
    (tmp_path / "birds.py").write_text(FUNCTION)
    monkeypatch.syspath_prepend(str(tmp_path))
    options = {**tiny, "model.name": "birds:net", "model.depth": None, "model.width": None, "trainer.epochs": 1}
    run = rb.train("digits", **options, **{"model.options.hidden": 20, "model.options.kind": 3})
    firing(run)
    assert run.model.lin.out_features == 20
    assert evaluate(run.folder)[2] == run.summary["validation_accuracy"]
    for given, match in (
        ({"hiden": 3}, "birds:net takes no 'hiden': did you mean 'hidden'"),
        ({"hidden": "x"}, "model.options.hidden must be an integer, got 'x'"),
        ({"classes": 3}, "takes no 'classes'"),
    ):
        with pytest.raises(ValueError, match=match):
            rb.train(
                "digits",
                **{**options, "run": str(tmp_path / "no")},
                **{f"model.options.{k}": v for k, v in given.items()},
            )
    monkeypatch.delitem(sys.modules, "birds")


def test_options_are_of_no_use_beside_an_object(birds):
    options = {key: value for key, value in birds.items() if not key.startswith("model")}
    model = rb.models.create("plain_convnet", classes=10, in_channels=1, depth=2, width=4, steps=2)
    with pytest.raises(ValueError, match=r"model\.options\.wings is 3, but with model=.* it is of no use"):
        rb.train("digits", model=model, **options, **{"model.options.wings": 3})

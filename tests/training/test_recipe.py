import dataclasses
import json

import pytest

from rheobase.training import Recipe
from rheobase.training.recipe import DataOptions, ModelOptions, NeuronOptions, TrainerOptions
from rheobase.training.schema import keys, known


def test_json_round_trip():
    recipe = Recipe(
        seed=3,
        run="somewhere",
        data=DataOptions(root="/data", train_limit=10),
        model=ModelOptions(name="plain_mlp", width=7, neuron=NeuronOptions(kind="if", surrogate_parameter=0.5)),
        trainer=TrainerOptions(epochs=2, clip_gradient=1.5),
    )
    assert Recipe.from_json(recipe.to_json()) == recipe


def test_json_has_every_key_and_absent_keys_take_defaults():
    content = json.loads(Recipe().to_json())
    for leaf in keys(Recipe):
        value = content
        for part in leaf.name.split("."):
            value = value[part]
        assert value == leaf.default
    assert Recipe.from_json("{}") == Recipe()


def test_hash_is_of_what_is_trained_and_not_of_where():
    recipe = Recipe()
    elsewhere = dataclasses.replace(recipe, run="x", data=DataOptions(root="/y"))
    assert recipe.sha256 == elsewhere.sha256 == Recipe.from_json(elsewhere.to_json()).sha256
    assert recipe.sha256 != dataclasses.replace(recipe, seed=1).sha256


def test_an_integer_where_a_number_is_wanted_makes_the_same_recipe():
    whole = Recipe.from_json('{"optimizer.lr": 1}')
    assert whole.to_json() == Recipe.from_json('{"optimizer.lr": 1.0}').to_json()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({"model": {"stps": 3}}, "unknown key 'model.stps': did you mean 'model.steps'"),
        ({"steps": 3}, "unknown key 'steps': did you mean 'model.steps'"),
        ({"trainer.learning_rate": 3}, "unknown key 'trainer.learning_rate'"),
        ({"model": {"lr": 3}}, "did you mean 'optimizer.lr'"),
        ({"model": 3}, "'model' is a group of keys, got 3"),
        ({"model": {"steps": 2.5}}, "model.steps must be an integer, got 2.5"),
        ({"model": {"steps": True}}, "model.steps must be an integer, got True"),
        ({"model.steps": 0}, "model.steps must be a number >= 1, got 0"),
        ({"optimizer": {"lr": 0}}, r"optimizer.lr must be a number > 0, got 0"),
        ({"optimizer": {"lr": float("nan")}}, r"optimizer.lr must be a number > 0, got nan"),
        ({"optimizer": {"momentum": 1.0}}, r"optimizer.momentum must be a number >= 0 and <= 0.9999, got 1.0"),
        ({"trainer": {"precision": "16"}}, "trainer.precision must be one of 32, bf16, got '16'"),
        ({"model": {"stem": "x"}}, "model.stem must be one of cifar, imagenet or null, got 'x'"),
        ({"model": {"neuron": {"kind": "if", "decay": 0.5}}}, "model.neuron.decay must be 1 or null"),
        ({"trainer.epochs": 2, "schedule.warmup_epochs": 3}, r"at most trainer.epochs \(2\), got 3"),
        ([], "a recipe must be a mapping of keys, got list"),
    ],
)
def test_errors_name_the_key_what_was_got_and_what_is_wanted(content, match):
    with pytest.raises(ValueError, match=match):
        Recipe.from_json(json.dumps(content))


def test_a_group_is_not_a_key():
    with pytest.raises(ValueError, match="'model.neuron' is a group, not a key: give one of model.neuron.kind"):
        known(Recipe, "model.neuron")


def test_a_group_of_another_kind_is_refused():
    with pytest.raises(ValueError, match="data must be DataOptions, got ModelOptions"):
        Recipe(data=ModelOptions())


def test_every_key_has_a_meaning():
    assert all(leaf.metadata["help"] for leaf in keys(Recipe))

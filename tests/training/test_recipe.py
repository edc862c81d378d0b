import json

import pytest

from rheobase.training import Recipe
from rheobase.training.keys import known, leaves
from rheobase.training.recipe import ALWAYS, ELSEWHERE, DataOptions, ModelOptions, NeuronOptions, TrainerOptions


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
    for name, leaf in leaves(Recipe).items():
        value = content
        for part in name.split("."):
            value = value[part]
        assert value == leaf.field.default
    assert Recipe.from_json("{}") == Recipe()


def test_hash_is_of_what_is_trained_and_not_of_where():
    recipe = Recipe()
    elsewhere = recipe.replace({"run": "x", "data.root": "/y", "data.cache": "z"})
    assert recipe.sha256 == elsewhere.sha256 == Recipe.from_json(elsewhere.to_json()).sha256
    assert recipe.sha256 != recipe.replace({"seed": 1}).sha256


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
        ({"model": {"steps": 2.5}}, "model.steps must be an integer >= 1, got 2.5"),
        ({"model": {"steps": True}}, "model.steps must be an integer >= 1, got True"),
        ({"model.steps": 0}, "model.steps must be an integer >= 1, got 0"),
        ({"optimizer": {"lr": 0}}, r"optimizer.lr must be a number > 0, got 0"),
        ({"optimizer": {"lr": float("nan")}}, r"optimizer.lr must be a number > 0, got nan"),
        ({"optimizer": {"momentum": 1.0}}, r"optimizer.momentum must be a number >= 0 and <= 0.9999, got 1.0"),
        ({"trainer": {"precision": "16"}}, "trainer.precision must be one of 32, bf16, got '16'"),
        ({"model": {"stem": "x"}}, "model.stem must be one of cifar, imagenet or null, got 'x'"),
        ({"model": {"neuron": {"kind": "if", "decay": 0.5}}}, "model.neuron.decay must be 1 or null"),
        ({"model.neuron.inhibition": -0.1}, "model.neuron.inhibition must be 0 where kind is not 'lateral', got -0.1"),
        ({"loss": {"count_low": 1, "count_high": 0}}, r"loss.count_low must be below loss.count_high \(0\), got 1"),
        ({"loss.count_margin": 0.5}, r"loss.count_margin must be below half of .* \(0.5\), got 0.5"),
        ({"trainer.epochs": 2, "schedule.warmup_epochs": 3}, r"at most trainer.epochs \(2\), got 3"),
        (
            {"trainer.devices": 2, "trainer.accumulate": 3, "data.batch_size": 5},
            r"at least 6 for .* 2 \* 1 \* 3, got 5",
        ),
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


def test_from_python_it_is_as_strict():
    for values, match in (
        ({"seed": "1"}, "seed must be an integer >= 0, got '1'"),
        ({"sead": 1}, "unknown key 'sead': did you mean 'seed'"),
        ({"data": 3}, "data must be DataOptions, got int"),
    ):
        with pytest.raises(ValueError, match=match):
            Recipe(**values)
    with pytest.raises(ValueError, match="batch_size"):
        DataOptions(batch_size=0)
    with pytest.raises(ValueError, match="frozen"):
        Recipe().seed = 1
    assert hash(Recipe(seed=1)) == hash(Recipe().replace({"seed": 1})) != hash(Recipe())


def test_keys_that_came_later_leave_the_hash_of_older_recipes():
    before = "137ce92ce14ad337fba0cb3115e177869b29f0b6a00fdae7f9cd376df55576df"  # of a version without them
    options = {
        **{"data.batch_size": 16, "data.shift": 1, "data.train_limit": 96, "loss.label_smoothing": 0.1},
        **{"model.name": "plain_convnet", "model.depth": 2, "model.width": 4, "model.steps": 2},
        **{"optimizer.lr": 0.01, "schedule.name": "one_cycle", "trainer.epochs": 3, "trainer.threads": 1},
        **{"trainer.accelerator": "cpu", "trainer.checkpoint_every_steps": 2},
    }
    recipe = Recipe().replace(options)
    assert recipe.sha256 == before
    later = {"trainer.accumulate": 2, "trainer.ema": 0.9, "trainer.devices": 2, "trainer.nodes": 2}
    later |= {"trainer.checkpoint_segments": 2, "loss.membrane_decay": 0.9, "loss.membrane_at": "max"}
    later |= {"loss.rate_penalty": 0.5, "loss.rate_target": 0.2}
    later |= {
        "model.start": "identity",
        "model.shortcut": "pool",
        "model.layers": "400",
        "model.padding": "valid",
        "model.dropout": 0.5,
        "data.workers": 2,
    }
    later |= {"data.validation": 0.2, "data.size": 64, "data.channels": 1, "data.stream": True, "data.image": "a"}
    later |= {"data.label": "b", "data.split": "official", "data.mels": 20, "data.frame": 0.1}
    later |= {
        "data.hop": 0.1,
        "data.frames": 5,
        "data.by": "count",
        "data.max_steps": 9,
        "data.bsa_threshold": 0.5,
        "data.words": "letters",
        "data.crop": 0.5,
        "data.rand_augment": 9.0,
    }
    later |= {"data.max_steps": 9, "data.bsa_threshold": 0.5, "data.words": "letters"}
    later |= {"data.cutout": 2, "data.mixup": 0.2, "data.cutmix": 1.0, "data.scale": "unit"}
    later |= {"model.coding": "poisson", "model.coding_rate": 0.2, "model.output": "spikes", "model.alpha": 2.0}
    later |= {"model.alpha_out": 3.0, "model.neuron.learn_threshold": True, "model.neuron.inhibition": -0.1}
    later |= {"model.neuron.refractory": 2.0, "loss.weight_penalty": 0.1, "loss.weight_penalty_beta": 2.0}
    later |= {"loss.count_high": 0.3, "loss.count_low": 0.05, "loss.count_margin": 0.05, "loss.boosting": 0.1}
    later |= {"model.options": {"wings": 2}, "model.neuron.input_scale": 2.0, "model.neuron.learn": "decay"}
    later |= {"model.neuron.current_decay": 0.9, "model.neuron.adaptation_decay": 0.8, "model.neuron.adaptation": 0.2}
    soft = {"tau_rc": 0.05, "tau_ref": 0.001, "amplitude": 0.1, "gain": 0.8, "smoothing": 0.01, "noise": 0.0}
    later |= {f"model.neuron.{name}": value for name, value in soft.items()}
    later |= {"model.qcfs_levels": 4, "model.qcfs_threshold": 2.0, "model.weights": "runs/ann"}
    later |= {"tune.samples": 8, "tune.start": "identity", "probe.every_steps": 2, "probe.samples": 16}
    assert set(later) == {*leaves(Recipe), "model.options"} - ALWAYS - ELSEWHERE
    assert leaves(Recipe).keys() > ALWAYS
    lateral = {name: {"model.neuron.kind": "lateral"} for name in later if name.startswith("model.neuron.")}
    with_them = lateral | {
        "tune.start": {"tune.samples": 16},
        "model.qcfs_levels": {"model.spiking": False},
        "model.qcfs_threshold": {"model.spiking": False, "model.qcfs_levels": 4},
    }
    changed = [recipe.replace({name: value, **with_them.get(name, {})}) for name, value in later.items()]
    assert len({other.sha256 for other in changed} | {before}) == 1 + len(later)


def test_every_key_has_a_meaning():
    assert all(leaf.field.description for leaf in leaves(Recipe).values())

import json

import pytest

from rheobase.training import Recipe, sources
from rheobase.training.keys import leaves


def test_every_recipe_loads_and_has_a_heading():
    listed = dict(sources.listing())
    assert {"digits", "mnist-convnet", "fashion-mnist-sew"} <= set(listed)
    for name, heading in listed.items():
        sources.load(name)
        told = dict(
            line.split(":", 1) for line in heading if line.startswith(("Command:", "Hardware:", "Time:", "Result:"))
        )
        measured = not told["Result"].strip().startswith("not measured")
        assert [key for key in told if key != "Time"] == ["Command", "Hardware", "Result"]
        assert "Time" in told or not measured, "a result took some time"


def test_file_then_overrides_then_defaults(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("seed: 4\nmodel:\n  steps: 8\n  neuron:\n    decay: 0.25\noptimizer: {lr: 1e-2}\ndata:\n")
    recipe = sources.load(path, {"model.steps": 2, "trainer": {"epochs": 7}})
    assert (recipe.seed, recipe.model.steps, recipe.model.neuron.decay) == (4, 2, 0.25)
    assert (recipe.optimizer.lr, recipe.trainer.epochs, recipe.data.batch_size) == (0.01, 7, 64)


def test_a_resolved_recipe_can_be_trained_again(tmp_path):
    recipe = sources.load("digits", {"seed": 5})
    path = tmp_path / "recipe.json"
    path.write_text(recipe.to_json())
    assert sources.load(path) == recipe


def test_an_empty_file_is_all_defaults(tmp_path):
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert sources.load(tmp_path / "empty.yaml") == Recipe()


def test_numbers_written_as_texts_and_texts_written_as_numbers():
    recipe = sources.load("digits", {"optimizer.lr": "1e-3", "trainer.precision": 32, "run": 7})
    assert (recipe.optimizer.lr, recipe.trainer.precision, recipe.run) == (0.001, "32", "7")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("model: {stps: 3}", "mine.yaml: unknown key 'model.stps': did you mean 'model.steps'"),
        ("model: {steps: 2.5}", "mine.yaml: model.steps must be an integer >= 1, got 2.5"),
        ("- 1", "mine.yaml: a recipe must be a mapping of keys, got list"),
        ("a: [", "mine.yaml: not YAML"),
        ("seed: 1\nmodel: {}\nseed: 1", "mine.yaml: key 'seed' is given twice, in line 1 and in line 3"),
        ("optimizer:\n  lr: 1\n  lr: 2", "mine.yaml: key 'lr' is given twice, in line 2 and in line 3"),
        ('{"model": {"steps": 1}, "model": {}}', "mine.yaml: key 'model' is given twice, in line 1"),
        ("model.steps: 1\nmodel: {steps: 2}", "mine.yaml: 'model.steps' is given twice, with dots and within"),
    ],
)
def test_errors_name_the_file(tmp_path, text, match):
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match=match):
        sources.load(tmp_path / "mine.yaml")


def test_unknown_recipe_names_the_nearest():
    with pytest.raises(FileNotFoundError, match="no recipe 'digit': did you mean 'digits'"):
        sources.load("digit")


def test_unknown_override_names_the_nearest():
    with pytest.raises(ValueError, match="unknown key 'trainer.epoch': did you mean 'trainer.epochs'"):
        sources.load("digits", {"trainer.epoch": 3})


def test_every_key_can_be_given_on_the_command_line():
    values = {"seed": "7", "run": "here", "model.steps": "3", "model.spiking": "false", "model.width": "null"}
    words = [word for name, value in values.items() for word in (f"--{name}", value)]
    name, recipe = sources.from_arguments(["mnist-convnet", *words, "--optimizer.lr=1e-1"])
    assert name == "mnist-convnet"
    assert (recipe.seed, recipe.run, recipe.model.steps, recipe.model.spiking) == (7, "here", 3, False)
    assert (recipe.model.width, recipe.optimizer.lr, recipe.data.name) == (None, 0.1, "mnist")
    every = [f"--{key}={value if type(value) is str else json.dumps(value)}" for key, value in recipe.flat().items()]
    assert len(every) == len(leaves(Recipe))
    assert sources.from_arguments(["digits", *every]) == ("digits", recipe)


def test_a_bare_command_line_is_the_default_recipe():
    assert sources.from_arguments([]) == ("digits", sources.load("digits"))


@pytest.mark.parametrize(
    ("words", "name", "size", "steps"),
    [
        ([], "digits", 32, 4),
        (["mnist-convnet", "--model.steps", "7"], "mnist-convnet", 128, 7),
    ],
)
def test_help_shows_what_would_be_trained(capsys, monkeypatch, words, name, size, steps):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as caught:
        sources.from_arguments([*words, "--help"])
    assert caught.value.code == 0
    output = capsys.readouterr().out
    assert f"of the recipe {name}" in output
    output = " ".join(output.split())
    assert f"over all processes (an integer >= 1; default: {size})" in output
    assert f"time steps T (an integer >= 1; default: {steps})" in output
    assert "(one of lif, if, cuba_lif, adaptive_lif, lateral, soft_lif; default: lif)" in output
    assert "augmentation (an integer >= 0; default: 0)" in output
    assert "(true or false; default: true)" in output
    assert "(a number > 0 or null; default: null)" in output
    assert "one_cycle 30 % of all epochs" in output


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--model.stps", "3"], "unknown key 'model.stps': did you mean 'model.steps'"),
        (["--see", "3"], "unknown key 'see': did you mean 'seed'"),  # no abbreviations
        (["--model", "{steps: 3}"], "'model' is a group, not a key"),
        (["--model.steps", "x"], "model.steps must be an integer >= 1, got 'x'"),
        (["--model.width=x"], "model.width must be an integer >= 1 or null, got 'x'"),
        (["--trainer.precision", "64"], "trainer.precision must be one of 32, bf16, got '64'"),
        (["--model.steps", "0"], "model.steps must be an integer >= 1, got 0"),
        (["--seed", "1", "--seed", "2"], "--seed is given 2 times"),
        (["--trainer.ema", "1"], "trainer.ema must be a number > 0 and < 1 or null, got 1"),
        (["--seed"], "--seed: expected one argument"),
        (["digits", "mnist-convnet"], "unrecognized arguments: mnist-convnet"),
    ],
)
def test_command_line_errors_are_one_line(words, match):
    with pytest.raises(ValueError, match=match) as caught:
        sources.from_arguments(words)
    assert "\n" not in str(caught.value)

"""Data and models of the user's own, by name and as objects."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import rheobase
import rheobase as rb
from rheobase.data import load
from rheobase.training import Recipe, evaluate, resume
from rheobase.training.evaluation import weights_sha256
from rheobase.training.recipe import ModelOptions

MINE = """
import torch
import rheobase as rb
from rheobase.data import load
from torch import nn

def digits():
    return load("digits").limited(96)

class Net(nn.Module):
    def __init__(self, classes, steps):
        super().__init__()
        self.steps = steps
        self.fire = rb.Fire(rb.CurrentNorm(32), rb.LIF())
        self.hidden = rb.PerStep(nn.Linear(64, 32))
        self.head = rb.PerStep(nn.Linear(32, classes))

    def forward(self, images):
        return self.head(self.fire(self.hidden(images.flatten(1).expand(self.steps, -1, -1))))

def net(classes, steps=4):
    return Net(classes, steps)

class Flat(Net):
    def forward(self, images):
        return super().forward(images).mean(0)

def flat(classes):
    return Flat(classes, 2)

def frozen(classes):
    return Net(classes, 2).requires_grad_(False)

def needy(classes, wings):
    return Net(classes, 2)

def nothing():
    return {}

number = 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch, tiny):
    """A module of the user's own in the current directory, and options that name what is in it."""
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    own = {"data.name": "mine:digits", "model.name": "mine:net", "model.width": None, "model.depth": None}
    yield {**tiny, **own, "data.train_limit": None}
    sys.modules.pop("mine", None)


def test_by_name_they_train_resume_and_are_evaluated(mine, tmp_path, stopping, firing, rows):
    whole = rb.train("digits", **{**mine, "run": "whole"})
    firing(whole)
    assert [layer["layer"] for layer in whole.summary["layers"]] == ["fire.neuron"]
    with stopping(9):
        rb.train("digits", **mine)
    run = resume(mine["run"])
    assert run.summary["weights_sha256"] == whole.summary["weights_sha256"]
    assert rows(run.folder) == rows(Path("whole"))
    found = evaluate(run.folder)
    assert list(found) == [1, 2]
    assert found[2] == run.summary["validation_accuracy"]
    best = load_file(run.folder / "checkpoints" / "best.safetensors")
    assert weights_sha256(best) == weights_sha256(run.model.state_dict())
    assert weights_sha256(resume(run.folder).model.state_dict()) == weights_sha256(best), "also when it is finished"
    with pytest.raises(ValueError, match="at most 2 for this model, got 3"):
        evaluate(run.folder, [3])


def test_the_command_imports_from_the_current_directory(mine, tmp_path):
    words = [word for key, value in mine.items() if value is not None for word in (f"--{key}", str(value))]
    words += ["--model.width=null", "--model.depth=null", "--data.train_limit=null", "--trainer.epochs=1"]
    words = [word for word in words if word not in ("--trainer.epochs", "3")]

    # one process for all, as most of the time is its start
    code = (
        "import sys; sys.path.remove(''); from rheobase.cli import main; [main(words) for words in eval(sys.argv[1])]"
    )
    commands = [["train", *words], ["resume", mine["run"]], ["evaluate", mine["run"]]]
    done = subprocess.run(
        [sys.executable, "-c", code, repr(commands)],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(Path(rheobase.__file__).parents[1])},
    )
    assert done.returncode == 0, done.stderr
    places = [done.stdout.index(said) for said in ("test accuracy", "is finished", "validation accuracy")]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"data.name": "nowhere:digits"}, r"data\.name: there is no module 'nowhere' for 'nowhere:digits'.*from /"),
        ({"data.name": "mine:"}, r"data\.name must be package\.module:function, got 'mine:'"),
        ({"model.name": "mine:nett"}, r"model\.name: .*mine\.py has no 'nett'; did you mean 'net'"),
        ({"data.name": "mine:number"}, r"data\.name: mine:number must be a function, got int"),
        ({"data.name": "mine:nothing"}, r"data\.name: mine:nothing must return a rheobase Dataset, got dict"),
        ({"model.name": "mine:nothing", "model.steps": 4}, r"mine:nothing must return a torch Module, got dict"),
        ({"model.name": "mine:flat", "model.steps": 4}, r"mine:flat: .* logits \[T, 16, 10\], got \[16, 10\]"),
        ({"model.name": "mine:frozen", "model.steps": 4}, r"mine:frozen has no parameter to train"),
        (
            {"model.name": "mine:needy", "model.steps": 4},
            r"missing a required argument: 'wings'; it may take .*classes",
        ),
        ({"model.width": 8}, r"model\.width is set, but mine:net takes no argument 'width'"),
        ({"data.root": "here"}, r"data\.root is set, but mine:digits takes no argument 'root'"),
        ({"model.name": "given"}, r"model\.name is 'given': this run got its model from Python"),
    ],
)
def test_what_does_not_fit_is_named(mine, options, match):
    with pytest.raises(ValueError, match=match):
        rb.train("digits", **{**mine, **options})
    assert not Path(mine["run"]).exists()


def test_an_error_within_the_users_module_is_theirs(mine, tmp_path):
    (tmp_path / "broken.py").write_text("import no_such_thing\n")
    with pytest.raises(ValueError, match=r"failed: ModuleNotFoundError: .*no_such_thing.*broken\.py, line 1") as caught:
        rb.train("digits", **{**mine, "data.name": "broken:digits"})
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def net(classes=10):
    torch.manual_seed(0)
    return rb.models.create("plain_convnet", classes=classes, in_channels=1, depth=2, width=4, steps=2)


def test_as_objects_they_train_and_resume_wants_them_again(tiny, tmp_path, stopping, firing, rows):
    data = load("digits").limited(96)
    recipe = Recipe().replace({key: value for key, value in tiny.items() if key.startswith(("trainer", "optimizer"))})
    recipe = recipe.replace({"data.batch_size": 16})
    whole = rb.train(recipe.replace({"run": str(tmp_path / "whole")}), data=data, model=net())
    firing(whole)
    with stopping(9):
        rb.train(recipe.replace({"run": tiny["run"]}), data=data, model=net())
    with pytest.raises(
        ValueError, match=r"data\.name is 'given': this run got its data from Python, and needs it again"
    ):
        resume(tiny["run"])
    with pytest.raises(ValueError, match=r"model\.name is 'given': .*resume\(folder, model=\.\.\.\)"):
        resume(tiny["run"], data=data)
    with pytest.raises(ValueError, match=r"other data: train was 96, and is 64"):
        resume(tiny["run"], data=load("digits").limited(64), model=net())
    with pytest.raises(ValueError, match=r"checkpoint is of another model than this one: .*features"):
        other = rb.models.create("plain_convnet", classes=10, in_channels=1, depth=2, width=8, steps=2)
        resume(tiny["run"], data=data, model=other)
    run = resume(tiny["run"], data=data, model=net())
    assert run.summary["weights_sha256"] == whole.summary["weights_sha256"]
    assert rows(run.folder) == rows(whole.folder)
    assert evaluate(run.folder, [2], data=data, model=net()) == {2: run.summary["validation_accuracy"]}
    with pytest.raises(ValueError, match=r"data\.name is 'given'"):
        evaluate(run.folder)
    with pytest.raises(ValueError, match="is damaged, or of another model"):
        evaluate(run.folder, data=data, model=other)


def test_a_model_given_ends_as_the_best_one(tiny):
    model = net()
    run = rb.train("digits", model=model, **{key: value for key, value in tiny.items() if "model" not in key})
    assert run.model is model
    assert not model.training
    best = load_file(run.folder / "checkpoints" / "best.safetensors")
    assert weights_sha256(best) == weights_sha256(model.state_dict())


def test_tied_weights_are_kept(tiny):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.neuron, self.head = nn.Linear(64, 64), rb.LIF(), nn.Linear(64, 10)
            self.second = self.first

        def forward(self, images):
            currents = self.second(self.first(images.flatten(1))).expand(2, -1, -1)
            return self.head(self.neuron(currents))

    options = {key: value for key, value in tiny.items() if "model" not in key}
    run = rb.train("digits", model=Tied(), **options)
    assert evaluate(run.folder, model=Tied())[2] == run.summary["validation_accuracy"]


@pytest.mark.parametrize(
    ("what", "key", "value"),
    [
        ("model", "model.steps", 8),
        ("model", "model.norm", "tdbn"),
        ("model", "model.name", "vgg11"),
        ("model", "model.neuron.decay", 0.25),
        ("data", "data.validation", 0.25),
        ("data", "data.name", "digits"),
        ("data", "data.mels", 40),
    ],
)
def test_keys_that_an_object_makes_no_use_of_are_refused(tiny, what, key, value):
    objects = {"data": load("digits").limited(96), "model": net()}
    given = {what: objects[what]}
    options = {key: value for key, value in tiny.items() if not key.startswith(what)}
    with pytest.raises(ValueError, match=rf"{key} is {value!r}, but with {what}=..., an object, it is of no use"):
        rb.train("digits", **given, **options, **{key: value})
    if key != "data.name":  # (which is the default)
        with pytest.raises(ValueError, match=rf"{key} is {value!r}, but with {what}=..., an object"):
            rb.train(Recipe().replace({**options, key: value}), **given)
    assert not Path(tiny["run"]).exists()


def test_what_a_recipe_says_of_its_own_data_and_model_is_not_recorded_of_objects(tiny, tmp_path):
    (tmp_path / "mine.yaml").write_text("data: {name: cifar10, validation: 0.5}\nmodel: {steps: 9, width: 3}\n")
    options = {key: value for key, value in tiny.items() if key.startswith(("run", "trainer", "data.b", "data.s"))}
    run = rb.train(
        tmp_path / "mine.yaml", data=load("digits").limited(96), model=net(), **{**options, "trainer.epochs": 1}
    )
    recipe = Recipe.from_json((run.folder / "recipe.json").read_text())
    assert (recipe.data.name, recipe.data.validation, recipe.data.batch_size) == ("given", None, 16)
    assert recipe.model == ModelOptions(name="given")


def test_data_functions_take_the_keys_that_they_name_and_others_are_refused(mine, tmp_path):
    with (tmp_path / "mine.py").open("a") as file:
        file.write("\ndef part(validation, root=None): return load('digits').limited(validation)\n")
    run = rb.train("digits", **{**mine, "data.name": "mine:part", "data.validation": 64, "trainer.epochs": 1})
    assert "train': 64" in str(torch.load(run.folder / "checkpoints" / "last.ckpt", weights_only=True)["data"])
    with pytest.raises(ValueError, match=r"data\.mels is set, but mine:digits takes no argument 'mels'"):
        rb.train("digits", **{**mine, "data.mels": 40})


class Mine(rb.Neuron):
    """A leaky neuron of one's own."""

    def step(self, current, state):
        u = 0.5 * state + current
        s = rb.spike(u - 1, rb.surrogate.ATan(2.0))
        return s, u - s.detach()


def made(classes, in_channels, steps, spiking):
    return rb.models.create("plain_convnet", classes=classes, in_channels=in_channels, depth=2, width=4, neuron=Mine())


@pytest.fixture
def registered(monkeypatch):
    """A function without an option, whose neurons are its own."""
    monkeypatch.setattr(rb.models.registry, "_models", dict(rb.models.registry._models))
    rb.models.register("made_by_hand", made)


def test_a_registered_function_with_neurons_of_its_own(registered, tiny, firing, stopping, tmp_path, rows):
    options = {**tiny, "model.name": "made_by_hand", "model.width": None, "model.depth": None}
    with pytest.raises(ValueError, match="no option 'neuron'"):
        rb.train("digits", **{**options, "model.neuron.decay": 0.25})
    assert not Path(tiny["run"]).exists()
    whole = rb.train("digits", **{**options, "run": str(tmp_path / "whole")})
    firing(whole)
    with stopping(9):
        rb.train("digits", **options)
    run = resume(tiny["run"])
    assert run.summary["weights_sha256"] == whole.summary["weights_sha256"]
    assert evaluate(run.folder)[4] == run.summary["validation_accuracy"]
    assert weights_sha256(resume(run.folder).model.state_dict()) == weights_sha256(run.model.state_dict())


@pytest.mark.parametrize("what", ["data", "model"])
def test_objects_of_another_type_are_refused(tiny, what):
    with pytest.raises(TypeError, match=rf"{what} must be a (Dataset|Module), got dict; keys go in as"):
        rb.train("digits", **{**tiny, what: {"name": "x"}})


def test_a_run_that_knows_its_model_by_name_takes_no_other(tiny):
    run = rb.train("digits", **{**tiny, "trainer.epochs": 1})
    with pytest.raises(ValueError, match=r"model\.name is 'plain_convnet', so this run takes no model="):
        evaluate(run.folder, model=net())

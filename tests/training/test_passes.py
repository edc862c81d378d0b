"""What a run leaves as it was: random numbers, modes, what a net keeps; and what it may not hang on."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

import rheobase as rb
from rheobase.data import Batch, load
from rheobase.modes import in_mode
from rheobase.training import build, evaluate, loop, resume, runs, sources
from rheobase.training.activity import activity
from rheobase.training.passes import seeded


@pytest.fixture
def options(tiny):
    """For a model that is given."""
    return {key: value for key, value in tiny.items() if "model" not in key}


class Net(nn.Module):
    """Two steps of a layer that fires, and a head; what a test wants of it is in `drive`."""

    def __init__(self, classes=10):
        super().__init__()
        with seeded("net"):
            self.hidden, self.fire = nn.Linear(64, 32), rb.Fire(rb.CurrentNorm(32), rb.LIF())
            self.head = nn.Linear(32, classes)

    def drive(self, images):
        return self.hidden(images.flatten(1))

    def forward(self, images):
        return self.head(self.fire(self.drive(images).expand(2, -1, -1)))


class Noisy(Net):
    """It draws in evaluation too, as much as it sees."""

    def drive(self, images):
        currents = super().drive(images)
        return currents + 5 * torch.randn_like(currents)


def test_a_net_that_draws_is_evaluated_alike_each_time(options, tmp_path, firing, stopping, monkeypatch, rows):
    whole = rb.train("digits", model=Noisy(), **{**options, "run": str(tmp_path / "whole")})
    firing(whole)
    with monkeypatch.context() as patch, pytest.raises(KeyError, match="killed"):

        def killed(*_):
            raise KeyError("killed")

        patch.setattr(runs, "write_json", killed)  # when all is trained and tested
        rb.train("digits", model=Noisy(), **options)
    torch.manual_seed(77)
    run = resume(options["run"], model=Noisy())
    for key in ("test_accuracy", "validation_accuracy", "layers", "weights_sha256"):
        assert run.summary[key] == whole.summary[key]
    assert rows(run.folder) == rows(whole.folder)
    found = [evaluate(run.folder, [1, 2], model=Noisy()) for _ in range(3)]
    assert found[0] == found[1] == found[2]
    assert found[0][2] == run.summary["validation_accuracy"]
    assert evaluate(run.folder, [2], "test", model=Noisy())[2] == run.summary["test_accuracy"]
    net, data = run.model, load("digits")
    inputs = build.sample(data, data.test, 360).inputs
    assert not torch.equal(net(inputs), net(inputs)), "it does draw"


def test_a_host_goes_on_with_its_own_random_numbers(options, tiny, stopping):
    def undisturbed(call):
        torch.manual_seed(5)
        wanted = torch.rand(3)
        torch.manual_seed(5)
        call()
        assert torch.equal(torch.rand(3), wanted)

    def failing():
        with pytest.raises(ValueError, match="diverged"):
            rb.train("digits", **{**tiny, "run": tiny["run"] + "-bad", "optimizer.lr": 1e30, "loss.name": "tet"})

    def stopped():
        with stopping(9):
            rb.train("digits", model=Noisy(), **options)

    undisturbed(stopped)
    undisturbed(lambda: resume(options["run"], model=Noisy()))
    undisturbed(lambda: evaluate(options["run"], model=Noisy()))
    undisturbed(lambda: rb.train("digits", model=Noisy(), **{**options, "run": options["run"] + "-whole"}))
    undisturbed(failing)


def test_seeded_is_a_function_of_its_arguments_and_leaves_no_trace():
    torch.manual_seed(1)
    wanted = torch.rand(4)
    torch.manual_seed(1)
    found = []
    for number in (3, 4, 3):
        with seeded("test", number):
            found.append(torch.rand(4))
    assert torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[1])
    with pytest.raises(KeyError), seeded("test", 3):
        raise KeyError
    assert torch.equal(torch.rand(4), wanted)


class Frozen(Net):
    """A second norm, which its user has frozen."""

    def __init__(self):
        super().__init__()
        self.frozen = nn.BatchNorm1d(64).eval()
        self.frozen.running_mean.fill_(0.25)
        self.seen = set()

    def drive(self, images):
        self.seen.add((self.training, self.frozen.training))
        return super().drive(self.frozen(images.flatten(1)).view_as(images))


@pytest.mark.parametrize("more", [{}, {"trainer.ema": 0.5}], ids=["", "ema"])
def test_what_the_user_put_into_evaluation_mode_stays_there(options, checkpoint, firing, more):
    net = Frozen()
    run = rb.train("digits", model=net, **options, **more)
    firing(run)
    assert net.seen == {(True, False), (False, False)}
    state = checkpoint(run.folder)["net"]
    assert (state["frozen.running_mean"] == 0.25).all()
    assert state["fire.norm.running_mean"].abs().max() > 0.01


def test_a_model_in_evaluation_mode_is_trained_as_a_whole(options, checkpoint):
    net = Frozen().eval()
    run = rb.train("digits", model=net, **options)
    assert net.seen == {(True, True), (False, False)}
    assert not (checkpoint(run.folder)["net"]["frozen.running_mean"] == 0.25).any()
    assert not any(module.training for module in run.model.modules())


def test_in_mode_leaves_each_module_in_its_mode():
    net = Frozen()
    with pytest.raises(KeyError), in_mode(net, training=False):
        assert not any(module.training for module in net.modules())
        raise KeyError
    assert [name for name, module in net.named_modules() if not module.training] == ["frozen"]


class Caching(Net):
    """It makes a tensor in its first pass, and keeps it."""

    kept = None

    def drive(self, images):
        if self.kept is None:
            self.kept = images.new_full((32,), 1.5)
        return super().drive(images) * self.kept


def test_a_net_that_keeps_a_tensor_of_its_first_pass_is_trained_and_after_evaluation_too(options, tmp_path, firing):
    run = rb.train("digits", model=Caching(), **options)
    firing(run)
    fresh = Caching()
    evaluate(run.folder, model=fresh)
    with pytest.MonkeyPatch.context() as patch:  # without the trial, evaluation itself comes first
        patch.setattr(runs, "prepare", lambda recipe, data, net: (build.dataset(recipe, data), net))
        other = Caching()
        evaluate(run.folder, [2], model=other)
    other.train()(torch.rand(4, 1, 8, 8)).sum().backward()
    assert other.hidden.weight.grad.abs().max() > 0


class Remembering(Net):
    """It keeps what it gave last, with its graph, of which there is no copy."""

    def forward(self, images):
        self.last = super().forward(images)
        return self.last


def test_a_net_that_keeps_what_it_gave_can_be_averaged(options, firing):
    firing(rb.train("digits", model=Remembering(), **{**options, "trainer.ema": 0.5, "trainer.epochs": 1}))


class Lazy(Net):
    """Its first layer learns its size from its first pass."""

    def __init__(self):
        super().__init__()
        self.hidden = nn.LazyLinear(32)


def test_lazy_layers_begin_as_a_function_of_the_seed_and_are_resumed(options, tmp_path, firing, stopping):
    torch.manual_seed(1)
    whole = rb.train("digits", model=Lazy(), **{**options, "run": str(tmp_path / "whole")})
    firing(whole)
    torch.manual_seed(2)
    with stopping(9):
        rb.train("digits", model=Lazy(), **options)
    run = resume(options["run"], model=Lazy())
    assert run.summary["weights_sha256"] == whole.summary["weights_sha256"]
    assert evaluate(run.folder, [2], model=Lazy())[2] == run.summary["validation_accuracy"]
    recipe = sources.load("digits", {"model.name": "given"})
    weights = [build.prepare(recipe.replace({"seed": seed}), None, Lazy())[1].hidden.weight for seed in (0, 0, 1)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_lazy_layers_that_do_not_run_are_named(options):
    net = Net()
    net.spare = nn.LazyLinear(3)
    with pytest.raises(ValueError, match=r"model given: spare\.weight is of a lazy layer that has not run"):
        rb.train("digits", model=net, **options)


@pytest.fixture
def ordered():
    """Digits in the order of their classes, as image folders lie."""
    data = load("digits").limited(96)
    order = data.validation.labels.argsort(stable=True)
    return replace(data, validation=data.validation.at(order))


def test_samples_are_of_all_classes(ordered, options, monkeypatch):
    assert ordered.validation.labels[:16].unique().tolist() == [0]
    few = build.sample(ordered, ordered.validation)
    assert few.labels.unique().tolist() == list(range(10))
    seen = []
    monkeypatch.setattr(runs, "activity", lambda net, batch: (seen.append(batch.labels), activity(net, batch))[1])
    options.pop("data.name")
    rb.train("digits", data=ordered, model=Net(), **{**options, "trainer.epochs": 1})
    assert [labels.bincount().tolist() for labels in seen] == [few_of(ordered, 32)]


def few_of(data, count):
    return build.sample(data, data.validation, count).labels.bincount(minlength=10).tolist()


@pytest.mark.parametrize("part", ["train", "validation", "test"])
@pytest.mark.parametrize("what", ["labels", "inputs"])
def test_other_labels_or_inputs_are_other_data(options, stopping, part, what):
    options.pop("data.name")
    data = load("digits").limited(96)
    split = getattr(data, part)
    other = replace(data, **{part: replace(split, **{what: getattr(split, what).flip(0)})})
    with stopping(3):
        rb.train("digits", data=data, model=Net(), **options)
    with pytest.raises(ValueError, match=rf"this run began with other data: {part}_sha256 was \w+, and is \w+"):
        resume(options["run"], data=other, model=Net())
    assert resume(options["run"], data=load("digits").limited(96), model=Net()).summary["best_epoch"] > 0


def test_what_tells_a_streamed_set_reads_a_few_of_it():
    read = []

    class Images:
        shape = (1, 8, 8)

        def __getitems__(self, indices):
            read.extend(indices)
            return torch.zeros(len(indices), 1, 8, 8, dtype=torch.uint8)

    split = rb.data.Streamed(Images(), torch.arange(5000), torch.arange(5000) % 10)
    data = rb.data.Dataset("far", 10, split, split, split, torch.zeros(1), torch.ones(1))
    assert build.fingerprint(data) == build.fingerprint(data)
    assert len(read) == 2 * 3 * 64


def test_rates_are_of_real_steps_alone():
    class Loud(rb.Neuron):
        def step(self, current, state):
            return (current > 0).float(), state

    net = nn.Sequential(Loud())
    inputs = torch.ones(4, 2, 3)  # both loud after their ends, the second within too
    inputs[:2, 0] = -1
    inputs[0, 1] = -1
    lengths = torch.tensor([2, 3])
    [layer] = activity(net, Batch(inputs, torch.zeros(2), lengths))
    assert layer["rate"] == pytest.approx(2 / 5)
    assert layer["dead"] == 0
    [layer] = activity(net, Batch(inputs[:, :1], torch.zeros(1), lengths[:1]))
    assert (layer["rate"], layer["dead"]) == (0, 1)


def test_the_summary_tells_both_weights(options):
    run = rb.train("digits", model=Net(), **{**options, "trainer.ema": 0.5})
    sha256 = runs.weights_sha256(run.model.state_dict())
    assert run.summary["best_sha256"] == sha256 != run.summary["weights_sha256"]


def test_seeds_of_validation_do_not_reach_training(options, monkeypatch, tmp_path):
    whole = rb.train("digits", model=Noisy(), **{**options, "run": str(tmp_path / "whole")})
    monkeypatch.setattr(loop.Training, "validate", lambda self: (torch.manual_seed(3), (0.5, 0.5))[1])
    blind = rb.train("digits", model=Noisy(), **options)
    assert blind.summary["weights_sha256"] == whole.summary["weights_sha256"]
    assert sources.load("digits").seed == 0
    assert not math.isnan(blind.summary["test_accuracy"])

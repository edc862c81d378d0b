"""What the trainer's options do to a run."""

import math

import pytest
import torch

import rheobase as rb
from rheobase.training import evaluate, loop, resume


def weights(state):
    return {name: tensor.double() for name, tensor in state.items()}


def far(a, b):
    """Largest distance of two state_dicts."""
    return max((weights(a)[name] - weights(b)[name]).abs().max().item() for name in a)


@pytest.fixture
def plain(tiny):
    """Without norms, whose statistics are of the parts that they see."""
    return {**tiny, "model.norm": "none", "data.shift": 0, "optimizer.name": "sgd", "trainer.epochs": 1}


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_a_batch_in_parts_is_the_same_batch(plain, tmp_path, checkpoint, firing, rows, parts):
    whole = rb.train("digits", **plain)
    firing(whole)
    split = rb.train("digits", **{**plain, "run": str(tmp_path / "parts"), "trainer.accumulate": parts})
    states = [checkpoint(run.folder)["net"] for run in (whole, split)]
    assert 0 < far(*states) < 1e-6
    assert far(states[0], checkpoint_of_start(plain)) > 1e-4
    for a, b in zip(rows(whole.folder), rows(split.folder), strict=True):
        assert {key: float(value) for key, value in a.items()} == pytest.approx({k: float(v) for k, v in b.items()})


def checkpoint_of_start(options):
    from rheobase.training import build, sources

    recipe = sources.load("digits", options)
    return build.model(recipe, build.dataset(recipe)).state_dict()


def test_layers_that_are_computed_again_change_nothing(tiny, tmp_path, firing):
    options = {**tiny, "trainer.accumulate": 2, "loss.rate_penalty": 1.0}
    runs = [
        rb.train("digits", **{**options, "run": str(tmp_path / str(parts)), "trainer.checkpoint_segments": parts})
        for parts in (1, 3, 5)
    ]
    firing(runs[0])
    assert [run.model.features.segments for run in runs] == [1, 3, 5]
    assert len({run.summary["weights_sha256"] for run in runs}) == 1
    assert len({run.summary["recipe_sha256"] for run in runs}) == 3


def test_layers_that_cannot_be_computed_again_are_told(tiny):
    with pytest.raises(ValueError, match=r"_segments: model plain_convnet: .* from 1 to 5, one a layer, got 6"):
        rb.train("digits", **{**tiny, "trainer.checkpoint_segments": 6})
    flat = torch.nn.Sequential(torch.nn.Flatten(1), torch.nn.Linear(64, 10), torch.nn.Unflatten(0, (1, -1)))
    options = {key: value for key, value in tiny.items() if "model" not in key}
    with pytest.raises(ValueError, match=r"_segments must be 1 for model given, .*Segmented to divide, got 2"):
        rb.train("digits", model=flat, **{**options, "trainer.checkpoint_segments": 2})


def test_parts_are_resumed_exactly(tiny, tmp_path, stopping, rows):
    options = {**tiny, "trainer.accumulate": 3, "trainer.ema": 0.8, "loss.rate_penalty": 1.0}
    whole = rb.train("digits", **{**options, "run": str(tmp_path / "whole")})
    with stopping(9):
        rb.train("digits", **options)
    run = resume(options["run"])
    for key in ("weights_sha256", "test_accuracy", "validation_accuracy", "best_epoch", "layers"):
        assert run.summary[key] == whole.summary[key]
    assert rows(run.folder) == rows(whole.folder)


def test_the_moving_average_is_what_is_validated_and_kept(tiny, checkpoint, monkeypatch):
    seen = []
    step = loop.Training.train_on

    def spy(self, *batch):
        done = step(self, *batch)
        seen.append({name: tensor.clone() for name, tensor in self.net.state_dict().items()})
        return done

    monkeypatch.setattr(loop.Training, "train_on", spy)
    run = rb.train("digits", **{**tiny, "trainer.epochs": 1, "trainer.ema": 0.7})
    average = weights(seen[0])
    for state in map(weights, seen[1:]):
        average = {name: 0.7 * average[name] + 0.3 * state[name] for name in average}
    kept = rb.load(run.folder / "checkpoints" / "best.safetensors").state_dict()
    assert far(kept, average) < 1e-6
    assert far(kept, seen[-1]) > 1e-4
    assert far(checkpoint(run.folder)["net"], seen[-1]) == 0
    assert evaluate(run.folder, [2]) == {2: run.summary["validation_accuracy"]}


@pytest.mark.parametrize("target", [0.02, 0.6])
def test_the_penalty_pulls_rates_to_the_target(tiny, tmp_path, firing, target):
    options = {**tiny, "trainer.epochs": 6, "loss.rate_target": target}
    runs = [
        rb.train("digits", **{**options, "run": str(tmp_path / str(weight)), "loss.rate_penalty": weight})
        for weight in (0.0, 50.0)
    ]
    firing(runs[0])
    free, pulled = ([abs(layer["rate"] - target) for layer in run.summary["layers"]] for run in runs)
    assert sum(pulled) < 0.7 * sum(free)


def test_the_penalty_needs_neurons(tiny):
    with pytest.raises(ValueError, match=r"loss\.rate_penalty must be 0 for a model without neurons, got 1"):
        rb.train("digits", **{**tiny, "model.spiking": False, "loss.rate_penalty": 1.0})


def poison(monkeypatch, step, how):
    """Let `how(training)` happen just before that step."""
    original = loop.Training.train_on

    def poisoned(self, *batch):
        if self.step == step:
            how(self)
        return original(self, *batch)

    monkeypatch.setattr(loop.Training, "train_on", poisoned)


def no_number_in_weights(training):
    training.net.features[2].module.weight.data[0, 0, 0, 0] = math.nan


def huge_weights(training):
    for module in (training.net.features[0].module, training.net.features[2].module):
        module.weight.data.mul_(1e38)
        module.bias.data.fill_(3e38)


def sick_gradient(training):
    neuron = training.net.features[3].neuron
    neuron.register_full_backward_hook(lambda module, inputs, outputs: (inputs[0] * math.inf,))


@pytest.mark.parametrize(
    ("how", "norm", "name"),
    [
        (no_number_in_weights, "current", r"the weights features\.2\.module\.weight"),
        (huge_weights, "none", r"the currents of layer features\.1\.neuron"),
        (sick_gradient, "current", r"the gradient of the outputs of layer features\.3\.norm"),
    ],
)
@pytest.mark.parametrize("segments", [1, 3])
def test_what_is_not_finite_is_named_and_nothing_is_saved_after_it(
    tiny, monkeypatch, checkpoint, how, norm, name, segments
):
    tiny["trainer.checkpoint_segments"] = segments
    with monkeypatch.context() as patch:
        poison(patch, 9, how)
        with pytest.raises(ValueError, match=rf"diverged in step 10; .*not finite: {name}.*saved after step 8; go on"):
            rb.train("digits", **{**tiny, "model.norm": norm})
    state = checkpoint(tiny["run"])
    assert (state["journal"]["epoch"], state["journal"]["batch"]) == (1, 2)
    assert all(tensor.isfinite().all() for tensor in state["net"].values())
    assert resume(tiny["run"]).summary["best_epoch"] > 0


def test_weights_that_are_not_finite_after_a_step_are_not_saved(tiny, monkeypatch, checkpoint):
    step = loop.Training.train_on

    def poisoned(self, *batch):
        done = step(self, *batch)
        if self.step == 9:
            no_number_in_weights(self)
        return done

    monkeypatch.setattr(loop.Training, "train_on", poisoned)
    with pytest.raises(ValueError, match=r"not finite: the weights features\.2\.module\.weight"):
        rb.train("digits", **tiny)
    assert checkpoint(tiny["run"])["journal"]["batch"] == 2


def test_the_board_has_rates_and_gradients_of_every_layer(tiny):
    pytest.importorskip("tensorboard")
    run = rb.train("digits", **tiny, **{"trainer.tensorboard": True})
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run.folder / "tensorboard"))
    events.Reload()
    layers = [layer["layer"] for layer in run.summary["layers"]]
    names = {name for name, parameter in run.model.named_parameters()}
    assert {f"rate/{layer}" for layer in layers} | {f"gradient/{name}" for name in names} <= set(
        events.Tags()["scalars"]
    )
    assert [event.step for event in events.Scalars(f"rate/{layers[0]}")] == [6, 12, 18]
    assert all(0 < event.value < 1 for event in events.Scalars(f"rate/{layers[0]}"))
    assert all(event.value > 0 for name in names for event in events.Scalars(f"gradient/{name}"))


def test_a_run_with_a_number_of_threads_begins_without_a_remark(tiny, capsys):
    torch.set_num_threads(2)
    try:
        rb.train("digits", **{**tiny, "trainer.epochs": 1})
    finally:
        torch.set_num_threads(1)
    assert "threads" not in capsys.readouterr().out

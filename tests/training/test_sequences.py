"""Sequences of different lengths, from the data to the summary."""

from dataclasses import replace

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import rheobase as rb
from rheobase.training import evaluate, losses, resume
from rheobase.training.evaluation import accuracies
from rheobase.training.passes import seeded


@pytest.fixture(scope="module")
def data():
    """Two classes that differ in where the input is; 3 to 6 steps of 8 channels, and noise past the end."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(96) % 2
    inputs = torch.rand(96, 6, 8, 1, 1, generator=generator)
    inputs[:, :, :4] += labels.view(-1, 1, 1, 1, 1)
    lengths = torch.randint(3, 7, (96,), generator=generator)
    for sample, length in zip(inputs, lengths.tolist(), strict=True):
        sample[length:] = 9
    split = rb.data.Split(inputs, labels, lengths)
    return rb.data.Dataset.of("made", 2, *(split.at(torch.arange(i, 96, 3)) for i in range(3)))


@pytest.fixture
def options(tiny):
    tiny.pop("data.name")
    return {**tiny, "data.shift": 0, "data.train_limit": None, "data.batch_size": 8,
            "model.name": "mlp", "model.layers": "12-R12", "model.image_size": 1, "model.depth": None,
            "model.width": None}  # fmt: skip


@pytest.mark.parametrize("name", ["cross_entropy", "tet", "membrane"])
def test_sequences_are_learned(data, options, name):
    run = rb.train("digits", data=data, **{**options, "loss.name": name, "trainer.accumulate": 2, "trainer.epochs": 12})
    assert run.summary["test_accuracy"] > 0.9
    found = evaluate(run.folder, [1, 6], data=data)
    assert found[6] == pytest.approx(run.summary["validation_accuracy"])


def test_resumed_is_uninterrupted(data, options, tmp_path, stopping):
    whole = rb.train("digits", data=data, **{**options, "run": str(tmp_path / "whole")})
    with stopping(7):
        rb.train("digits", data=data, **options)
    again = resume(options["run"], data=data)
    assert again.summary["weights_sha256"] == whole.summary["weights_sha256"]


def test_what_lies_past_the_end_changes_nothing(data, options, tmp_path):
    other = [torch.where(split.inputs == 9, -50, split.inputs) for split in (data.train, data.validation, data.test)]
    splits = [
        rb.data.Split(inputs, split.labels, split.lengths)
        for inputs, split in zip(other, (data.train, data.validation, data.test), strict=True)
    ]
    assert not torch.equal(splits[0].inputs, data.train.inputs)
    changed = rb.data.Dataset.of("made", 2, *splits)
    runs = [
        rb.train("digits", data=each, **{**options, "run": str(tmp_path / str(i)), "trainer.epochs": 1})
        for i, each in enumerate((data, changed))
    ]
    assert runs[0].summary["weights_sha256"] == runs[1].summary["weights_sha256"]


@pytest.fixture
def sorted_data(data):
    """Short sequences first: the batches of an evaluation have other lengths than the first samples."""
    by_length = data.validation.at(data.validation.lengths.argsort(stable=True))
    return replace(data, validation=by_length)


def test_any_steps_of_any_batch_are_evaluated(sorted_data, options, firing):
    run = rb.train("digits", data=sorted_data, **options)
    firing(run)
    split = sorted_data.validation
    assert split.lengths[:16].max() < split.lengths.max() == 6
    found = evaluate(run.folder, data=sorted_data)
    assert list(found) == [1, 2, 3, 4, 5, 6]
    assert found[6] == run.summary["validation_accuracy"]
    frames = (split.inputs - sorted_data.mean.view(-1, 1, 1)) / sorted_data.std.view(-1, 1, 1)
    for steps, accuracy in found.items():
        right = 0
        for sample, label, length in zip(frames, split.labels, split.lengths.clamp(max=steps), strict=True):
            logits = run.model(sample[:length, None], steps=int(length))
            right += int(rb.readout(logits).argmax(1) == label)
        assert accuracy == right / len(split)
    assert len(set(found.values())) > 1
    with pytest.raises(ValueError, match="steps must be at most 6 for this model, got 7"):
        evaluate(run.folder, [7], data=sorted_data)


def test_steps_past_the_end_of_a_sequence_do_not_decide(data):
    """By a model that is right within a sequence, and sure of the other class after its end."""

    def model(images, labels=data.test.labels):
        right = torch.nn.functional.one_hot(labels, 2).float()
        return torch.where(images[:, :, :1, 0, 0] == 0, 100 * (1 - right), right)

    batches = rb.data.Batches(data.test, batch_size=len(data.test), mean=torch.zeros(8), std=torch.ones(8))
    net = torch.nn.Module()
    net.forward = model
    assert accuracies(net, batches, [1, 5, 6]) == [1, 1, 1]


@pytest.mark.parametrize("name", ["cross_entropy", "tet", "membrane", "count"])
def test_twins_take_the_mean_of_real_steps(data, options, name):
    more = {"model.spiking": False, "loss.name": name, "loss.membrane_at": "last"}
    run = rb.train("digits", data=data, **options, **more)
    assert list(evaluate(run.folder, data=data)) == [1]
    assert evaluate(run.folder, [1], data=data) == {1: run.summary["validation_accuracy"]}
    split = data.test
    frames = (split.inputs - data.mean.view(-1, 1, 1)) / data.std.view(-1, 1, 1)
    logits = [run.model(x[:n].mean(0, keepdim=True))[0, 0] for x, n in zip(frames, split.lengths, strict=True)]
    right = (torch.stack(logits).argmax(1) == split.labels).sum().item()
    assert run.summary["test_accuracy"] == right / len(split)
    wrong = run.model(frames.mean(1))[0]  # as if padding were real
    assert (wrong - torch.stack(logits)).abs().max() > 0.1


@pytest.mark.parametrize("steps", [8, 16])
def test_a_batch_of_as_many_sequences_as_a_net_has_steps_raises_no_doubt(data, options, steps):
    class Wrapped(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = rb.models.create(
                "mlp", classes=2, in_channels=8, layers="12-R12", image_size=1, steps=steps, neuron=rb.LIF()
            )

        def forward(self, images):
            return self.net(images)

    with pytest.warns(RuntimeWarning, match="are taken for 3 time steps of"):  # as it is outside
        Wrapped()(torch.rand(3, steps, 8, 1, 1))
    more = {**options, "trainer.epochs": 1}
    run = rb.train("digits", data=data, **{**more, "model.steps": steps})
    evaluate(run.folder, data=data)
    given = {key: value for key, value in more.items() if "model" not in key}
    rb.train("digits", data=data, model=Wrapped(), **{**given, "run": options["run"] + "-given"})


class Again(torch.nn.Module):
    """Its hidden layer is computed again in the backward pass, or not."""

    def __init__(self, again):
        super().__init__()
        self.again = again
        with seeded("net"):
            self.fire = rb.Fire(rb.CurrentNorm(12), rb.LIF())
            self.hidden, self.head = torch.nn.Linear(8, 12), torch.nn.Linear(12, 2)

    def forward(self, frames):
        frames = frames.flatten(2)
        if not self.again:
            return self.head(self.fire(self.hidden(frames)))
        return self.head(checkpoint(lambda x: self.fire(self.hidden(x)), frames, use_reentrant=False))


def test_layers_that_are_computed_again_know_the_lengths(data, options, firing):
    given = {key: value for key, value in options.items() if "model" not in key}
    runs = [
        rb.train("digits", data=data, model=Again(again), **{**given, "run": f"{options['run']}-{again}"})
        for again in (False, True)
    ]
    firing(runs[0])
    states = [torch.load(run.folder / "checkpoints" / "last.ckpt", weights_only=True)["net"] for run in runs]
    for name in ("hidden.weight", "head.weight", "fire.norm.weight"):
        assert torch.equal(states[0][name], states[1][name])


def test_the_penalty_is_of_real_steps(data, options, monkeypatch):
    seen = []
    penalty = losses.rate_penalty
    monkeypatch.setattr(
        losses, "rate_penalty", lambda spikes, o: (seen.append([len(one) for one in spikes]), penalty(spikes, o))[1]
    )
    rb.train("digits", data=data, **{**options, "trainer.epochs": 1, "loss.rate_penalty": 1.0})
    steps = [counts[0] for counts in seen]
    assert all(counts == [steps[i]] * len(counts) for i, counts in enumerate(seen))
    assert sum(steps) == data.train.lengths.sum() + data.validation.lengths.sum()

"""Sequences of different lengths, from the data to the summary."""

import pytest
import torch

import rheobase as rb
from rheobase.training import evaluate, resume
from rheobase.training.loop import Training


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
    return {**tiny, "data.shift": 0, "data.train_limit": None, "data.batch_size": 8, "model.name": "mlp",
            "model.layers": "12-R12", "model.image_size": 1, "model.depth": None, "model.width": None}  # fmt: skip


@pytest.mark.parametrize("name", ["cross_entropy", "tet", "membrane"])
def test_sequences_are_learned(data, options, name):
    run = rb.train("digits", data=data, **{**options, "loss.name": name, "trainer.accumulate": 2, "trainer.epochs": 12})
    assert run.summary["test_accuracy"] > 0.9
    found = evaluate(run.folder, [1, 6], data=data)
    assert found[6] == pytest.approx(run.summary["validation_accuracy"])


def test_resumed_is_uninterrupted(data, options, tmp_path, monkeypatch):
    whole = rb.train("digits", data=data, **{**options, "run": str(tmp_path / "whole")})
    step = Training.train_on

    def stopping(self, batch):
        if self.step == 7:
            raise KeyError
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "train_on", stopping)
        with pytest.raises(KeyError):
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

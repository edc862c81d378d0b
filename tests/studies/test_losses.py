"""The study of losses: which runs there are, and what a line has."""

import pytest
import torch

import rheobase as rb
from recipes.studies import losses
from recipes.studies.lines import read


def test_it_trains_each_arm_at_its_best_rate(tmp_path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    generator = torch.Generator().manual_seed(0)
    images = (torch.rand(40, 1, 28, 28, generator=generator) * 255).byte()
    split = rb.data.Split(images, torch.arange(40) % 10)
    monkeypatch.setattr(rb.training.build, "load", lambda *_, **__: rb.data.Dataset.of("made", 10, split, split, split))
    monkeypatch.setattr(losses, "RATES", (0.001, 0.004))
    out = tmp_path / "losses.jsonl"
    few = {"data.train_limit": 20, "trainer.epochs": 1, "model.width": 2, "data.batch_size": 10}
    monkeypatch.setattr(losses, "SMALL", losses.SMALL | few)
    losses.train(out, 2)
    found = read(out)
    assert [(each["arm"], each["seed"]) for each in found] == [
        (name, seed) for name in losses.ARMS for seed in (0, 0, 1)
    ]
    assert len({each["recipe_sha256"] for each in found}) == len(found), "each is a recipe of its own"
    for each in found:
        assert each["seed"] == 0 or each["lr"] == losses.best(found, each["arm"])
        assert each["at"]["4"] == each["validation"], "the T that it was trained with"
        assert list(each["at"]) == [str(steps) for steps in losses.STEPS]
    losses.train(out, 2)
    assert read(out) == found
    capsys.readouterr()
    losses.report(found)
    assert [line.count("|") for line in capsys.readouterr().out.splitlines()] == [11] * (2 + len(losses.ARMS))

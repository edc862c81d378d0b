"""The page of rules: which runs there are, and what is said of them."""

import json

import pytest
import torch

import rheobase as rb
from recipes.studies import rules


def line(arm: str, lr: float, seed: int, validation: float, **more: object) -> dict[str, object]:
    return {
        **{"arm": arm, "lr": lr, "seed": seed, "limit": None, "epochs": 10, "validation": validation},
        **{"test": validation - 0.01, "epoch_seconds": 3.0, "rates": [0.1, 0.2], "kept_megabytes": 7.0, **more},
    }


def test_a_rate_is_chosen_by_the_first_seed_alone(tmp_path) -> None:
    file = tmp_path / "rules.jsonl"
    found = [line("one", lr, 0, share) for lr, share in zip(rules.RATES, (0.7, 0.9, 0.8, 0.1), strict=True)]
    found.append(line("one", 0.008, 1, 0.99))
    file.write_text("".join(json.dumps(each) + "\n" for each in found))
    assert rules.best(found[:4], "one") == rules.RATES[1]
    assert list(rules.planned("one", 3, file)) == [*((lr, 0) for lr in rules.RATES), (0.002, 1), (0.002, 2)]


def test_an_arm_without_a_cosine_has_its_row(tmp_path, capsys) -> None:
    angles = {"all": [0.5, 0.75], "features.1.module.weight": [0.25, 0.5]}
    both = {"cosine at the beginning": angles, "cosine at the end": angles}
    found = [line("one", 0.002, 0, 0.9, **both), line("one", 0.002, 1, 0.8), line("ann", 0.002, 0, 0.7)]
    (tmp_path / "rules.jsonl").write_text("".join(json.dumps(each) + "\n" for each in found))
    rules.report(tmp_path / "rules.jsonl", tmp_path / "figure.png")
    said = capsys.readouterr().out
    assert "| one | 0.002 | 2 | 85.00 (80.00 to 90.00) | 84.00 (79.00 to 89.00) | 3.0 | 7.0 | 0.100 0.200 |" in said
    assert "| 0.50 (0.75) 0.25 (0.50) | 0.50 (0.75) 0.25 (0.50) |" in said
    assert "| ann | 0.002 | 1 | 70.00 | 69.00 | 3.0 | 7.0 | 0.100 0.200 |  |  |" in said
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_every_arm_has_a_net_that_its_rule_takes() -> None:
    x, y = torch.randn(8, 1, 28, 28, generator=torch.Generator().manual_seed(0)), torch.arange(8)
    for name, arm in rules.ARMS.items():
        net = arm.model(0, x, y)
        rules.loss(net(x), y).backward()
        assert all(p.grad.norm() > 0 for p in net.parameters() if p.dim() > 1), name
        assert isinstance(arm.neuron, rb.SoftLIF) == arm.ann


def test_the_ann_is_measured_as_spikes(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    images = (torch.rand(40, 1, 28, 28, generator=generator) * 255).byte()
    split = rb.data.Split(images, torch.arange(40) % 10)
    data = rb.data.Dataset.of("made", 10, split, split, split, white=255.0)
    monkeypatch.setattr(rb.data, "load", lambda name: data)
    torch.manual_seed(0)
    ann = rules.ARMS["soft LIF, converted"].model(0, *rules.few(40))
    x, y = rules.few(40)
    optimizer = torch.optim.Adam(ann.parameters(), 0.01)
    for _ in range(30):
        optimizer.zero_grad()
        rules.loss(ann(x), y).backward()
        optimizer.step()
    found = rules.as_spikes(ann.eval())
    assert found["as_rates"]["test"] > 0.9
    assert found["test"] > 0.7
    assert len(found["rates"]) == 2
    assert all(0 < rate < 0.2 for rate in found["rates"])

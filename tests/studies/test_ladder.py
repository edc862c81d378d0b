"""The study of nets without skips: the order of its arms, and SpikeInit's rule against what it promises."""

import json
import math
from dataclasses import asdict

import pytest
import torch
from torch import nn

import rheobase as rb
from recipes.studies import ladder
from recipes.studies.ladder import Arm
from recipes.studies.spike_init import by_rate, membrane, spike_init


def test_an_arm_is_tried_with_more_layers_only_where_it_learned_and_a_rate_beyond_the_best_at_the_edge():
    """Identity learns best at the largest rate, random at the middle one up to ten layers, the others nowhere."""
    found = []

    def learned(arm):
        if arm.start == "identity":
            return 0.5 + arm.lr
        return 0.6 - abs(math.log(arm.lr / 0.004)) / 10 if arm.start == "random" and arm.depth == 10 else 0.1

    seen = []
    for part, arm in ladder.arms(found):
        assert arm not in [each for _, each in seen]
        seen.append((part, arm))
        found.append({**asdict(arm), "validation": learned(arm)})
    rates = {}
    for part, arm in seen:
        if part == "rates" and arm.optimizer == "adamw":
            rates.setdefault((arm.start, arm.surrogate, arm.depth), []).append(arm.lr)
    assert rates["identity", "ATan(2)", 100] == [0.001, 0.004, 0.00025, 0.016]
    assert rates["random", "ATan(2)", 10] == [0.001, 0.004, 0.00025, 0.016]
    assert ("random", "ATan(2)", 20) in rates
    assert {depth for start, _, depth in rates if start == "random"} == {10, 20}
    assert {depth for start, _, depth in rates if start == "spikeinit"} == {10}
    seeds = [arm for part, arm in seen if part == "seeds" and arm.optimizer == "adamw"]
    assert {arm.seed for arm in seeds} == {1, 2}
    assert {arm.lr for arm in seeds if arm.start == "identity"} == {0.016}
    assert {(arm.start, arm.depth) for arm in seeds} == {("identity", 20), ("identity", 50)}
    controls = [arm for part, arm in seen if part == "controls"]
    assert {(arm.clip, arm.frozen) for arm in controls} == {(None, False), (5.0, True)}
    assert all(arm.seed == 0 and arm.start == "identity" for arm in controls)


def test_a_net_is_probed_trained_and_reported(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ladder, "WIDTH", 32)
    monkeypatch.setattr(ladder, "RECIPE", {**ladder.RECIPE, "trainer.epochs": 2})
    frozen = Arm("identity", "tuned", "adamw", 4, 0.004, frozen=True)
    data = rb.data.load("digits")
    x = (data.train.inputs[:128] - data.mean.view(-1, 1, 1)) / data.std.view(-1, 1, 1)
    net = frozen.model(x, data.train.labels[:128])
    assert [name for name, p in net.named_parameters() if p.requires_grad and "weight" in name] == [
        *("features.5.module.weight", "features.6.norm.weight", "features.7.module.weight", "features.8.norm.weight"),
        "head.module.weight",
    ]
    done = ladder.run(Arm("identity", "tuned", "adamw", 4, 0.004))
    assert done["validation"] > 0.5
    assert 0.5 < done["level"] < 2
    assert 0.02 < done["firing"] < 0.5
    found = [
        done,
        *({**done, "lr": lr, "validation": 0.2} for lr in (0.001, 0.00025)),
        {**done, "frozen": True, "validation": 0.4},
    ]
    monkeypatch.setattr(ladder, "DEPTHS", (4,))
    ladder.report(json.loads(json.dumps(found)), tmp_path / "figure.png")
    said = capsys.readouterr().out
    assert f"| adamw | identity | tuned | 4 | 0.004 | {100 * done['validation']:.1f} | {done['level']} |" in said
    assert f"| lower half frozen | {100 * done['validation']:.1f} | 40.0 |" in said
    assert (tmp_path / "figure.png").stat().st_size > 5000


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_the_membrane_of_a_neuron_under_white_currents(decay):
    """Against a simulation; the formula takes what is below the threshold for a piece of a Gaussian."""
    deviation = by_rate(decay, 1.0)
    generator = torch.Generator().manual_seed(0)
    v, neurons = torch.zeros(200_000), 200_000
    for _ in range(60):
        u = decay * v + deviation * torch.randn(neurons, generator=generator)
        fired = u >= 1
        v = u.masked_fill(fired, 0.0)
    m, s = membrane(deviation, decay, 1.0)
    assert float(fired.float().mean()) == pytest.approx(0.1, rel=0.08)
    assert float(u.mean()) == pytest.approx(m, abs=0.08)
    assert float(u.std()) == pytest.approx(s, rel=0.08)


def test_by_that_rule_rates_and_the_gradient_keep_their_size():
    torch.manual_seed(0)
    data = rb.data.load("digits")
    x = (data.train.inputs[:64] - data.mean.view(-1, 1, 1)) / data.std.view(-1, 1, 1)
    net = rb.models.create(
        "plain_mlp",
        **{"classes": 10, "in_channels": 1, "image_size": 8, "depth": 20, "width": 512, "steps": 4},
        **{"neuron": rb.LIF(reset="hard"), "norm": "none"},
    )
    spike_init(net, x, 4)
    nn.init.normal_(net.head.module.weight, std=512**-0.5)  # (it begins at zero, and then nothing comes down)
    report = rb.probe(net, x, data.train.labels[:64], preset="quick")
    rates = [layer.rate for layer in report.layers]
    assert rates[0] == pytest.approx(0.1, abs=0.03)
    assert all(0.09 < rate < 0.16 for rate in rates[1:])  # not white in time, as it takes them to be: above .1
    assert 1 / 8 < report.level < 8  # 10 % a layer: it takes the gradient for white in time, too
    for neuron in (module for module in net.modules() if isinstance(module, rb.LIF)):
        neuron.surrogate = neuron.surrogate.stretched(0.6)
    assert rb.probe(net, x, data.train.labels[:64], preset="quick").level < 1 / 8
    with pytest.raises(ValueError, match="detached hard reset"):
        spike_init(rb.models.create("plain_mlp", classes=10, in_channels=1, image_size=8), x, 4)

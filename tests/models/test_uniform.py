"""What the papers' networks need beside layers: coding, spiking outputs, and a start without norms."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import rheobase as rb
from rheobase.rules import Membrane
from rheobase.rules.spike_train_topology import grid

LEE: dict[str, Any] = {
    "classes": 10, "in_channels": 1, "image_size": 28, "norm": "none", "coding": "poisson", "output": "spikes",
    "alpha": 3.0, "alpha_out": 5.0, "steps": 6, "rule": "membrane",
}  # fmt: skip
NETS = {
    "800": ("mlp", {"layers": "800"}, [784, 800]),
    "300-300": ("mlp", {"layers": "300-300"}, [784, 300, 300]),
    "500-500": ("mlp", {"layers": "500-500"}, [784, 500, 500]),
    "conv": ("convnet", {"layers": "20C5-P2-50C5-P2-200", "padding": "valid"}, [25, 500, 800, 200]),
}


def made(what: str, **more: Any) -> rb.models.Net:
    name, options, _ = NETS[what]
    torch.manual_seed(0)
    return rb.models.create(name, **LEE | options | more)


@pytest.mark.parametrize("what", NETS)
def test_the_papers_nets_begin_as_it_says(what: str) -> None:
    """Equation (11): weights within sqrt(3 / M), thresholds alpha times that, no bias; and they fire."""
    model = made(what, neuron=rb.LIF(0.95, learn="threshold"))
    inputs = NETS[what][2]
    weights = [p for name, p in model.named_parameters() if name.endswith("weight")]
    neurons = [m for m in model.modules() if isinstance(m, rb.LIF)]
    assert len(weights) == len(neurons) == len(inputs)
    assert not [name for name, _ in model.named_parameters() if "bias" in name]
    for index, (w, neuron, m) in enumerate(zip(weights, neurons, inputs, strict=True)):
        edge, last = math.sqrt(3 / m), index == len(inputs) - 1
        assert w[0].numel() == m
        assert 0.95 * edge < w.abs().max() <= edge
        assert neuron.threshold.shape == w.shape[:1]
        torch.testing.assert_close(neuron.threshold, torch.full(w.shape[:1], (5.0 if last else 3.0) * edge))
        assert neuron.raw_threshold.requires_grad
        assert neuron.rule == Membrane(output=last)
    with torch.no_grad(), rb.record(model) as tape:
        logits = model(torch.rand(2, 1, 28, 28))
    assert all(trace.spikes.mean() > 0.02 for trace in tape.values())
    assert set(logits.unique().tolist()) == {0, 1}


@pytest.mark.filterwarnings("ignore:.*excite each other so strongly")
def test_neurons_that_hear_each_other_begin_so_too() -> None:
    neuron = rb.CubaLIF(0.8, 0.9, reset="hard")
    model = made("800", layers="800-R400", neuron=neuron, rule="spike_train", steps=12)
    back = model.features[5].neuron
    edge = math.sqrt(3 / 800)
    torch.testing.assert_close(back.neuron.threshold, torch.full((400,), 3.0 * edge))
    bound = edge * math.sqrt(11 / 400)
    assert 0.99 * bound < back.module.weight.abs().max() <= bound
    with rb.record(model) as tape:
        model(torch.rand(2, 1, 28, 28)).sum().backward()
    assert all(trace.spikes.mean() > 0.02 for trace in tape.values())
    assert all(p.grad.norm() > 0 for p in model.parameters())


@pytest.mark.filterwarnings("ignore:.*excite each other so strongly")
def test_neurons_on_a_grid_hear_those_near_them(tmp_path: Path) -> None:
    neuron = rb.CubaLIF(0.8, 0.9, reset="hard")
    model = made("800", layers="80-R5x5x4", neuron=neuron, rule="spike_train", steps=12)
    back = model.features[5].neuron
    mask, edge = grid((5, 5, 4)), math.sqrt(3 / 80)
    assert torch.equal(back.module.weight != 0, mask)
    assert 0.95 * edge < back.module.weight.abs().max() <= edge
    again = made("800", layers="80-R5x5x4", neuron=neuron, rule="spike_train", steps=12)
    assert torch.equal(again.features[5].neuron.module.weight, back.module.weight)
    rb.save(model, tmp_path / "m")
    loaded = rb.load(tmp_path / "m").features[5].neuron.module
    assert torch.equal(loaded.weight, back.module.weight)
    assert torch.equal(loaded.mask, mask)
    with rb.record(model) as tape:
        model(torch.rand(2, 1, 28, 28)).sum().backward()
    assert all(trace.spikes.mean() > 0.02 for trace in tape.values())
    assert torch.equal(back.module.values.grad != 0, mask & (back.module.values.grad != 0))
    assert back.module.values.grad.norm() > 0
    with torch.device("meta"):
        model = rb.models.create("mlp", classes=10, in_channels=1, image_size=28, layers="R3x4")
    assert model.features[2].neuron.module.weight.shape == (12, 12)
    plain = rb.models.create("mlp", classes=10, in_channels=1, image_size=28, layers="R10x10x8").features[2].neuron
    assert 0.99 < plain.module.weight.abs().max() * math.sqrt(plain.module.mask.sum() / 800) <= 1


def test_a_fixed_threshold_and_a_twin() -> None:
    model = made("conv", neuron=rb.LateralLIF(-0.1, decay=0.95))
    assert [m.threshold.shape for m in model.modules() if isinstance(m, rb.LIF)] == [(20,), (50,), (200,), (10,)]
    assert not [name for name, _ in model.named_parameters() if "threshold" in name]
    twin = made("conv", spiking=False)
    twin.load_state_dict(model.state_dict(), strict=False)
    images = torch.rand(2, 1, 28, 28)
    assert twin(images).shape == (1, 2, 10)
    assert torch.equal(twin.features[0](images[None]), 0.5 * images[None])
    assert torch.equal(twin(images), twin(images))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "current"}, "alpha must be a number > 0, with norm='none' and alpha, got 3.0, norm='current'"),
        ({"alpha": None}, "alpha_out must be a number > 0, with norm='none' and alpha, got 5.0"),
        ({"alpha": -1.0}, "alpha must be a number > 0 or null, got -1.0"),
        ({"output": "logits"}, "output must be 'currents' or 'spikes', got 'logits'"),
        ({"coding": "rate"}, "coding must be 'direct' or 'poisson', got 'rate'"),
        ({"coding_rate": 0.0}, r"Poisson: rate must be in \(0, 1\], got 0"),
        ({"neuron": rb.LIF(reset="hard")}, "features.3.neuron: the rule 'membrane' .*reset='hard'"),
        ({"neuron": rb.CubaLIF()}, "features.3.neuron: the rule 'membrane' .*not CubaLIF"),
        ({"neuron": rb.LIF(learn="decay")}, "features.3.neuron: the rule 'membrane' has no gradient .*got 'decay'"),
        (
            {"layers": "R20", "alpha": None, "alpha_out": None},
            "rule must be 'surrogate' for the Recurrent features.3.neuron, got 'membrane'",
        ),
    ],
)
def test_what_does_not_go_together(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=rf"create\('mlp'\): {message}"):
        made("800", **options)


def test_the_rule_goes_along_when_it_is_saved(tmp_path: Path) -> None:
    model = made("300-300", neuron=rb.LIF(0.9, learn="threshold"))
    rb.save(model, tmp_path / "m")
    again = rb.load(tmp_path / "m")
    assert [m.rule for m in again.modules() if isinstance(m, rb.LIF)] == [Membrane(), Membrane(), Membrane(output=True)]
    model.features[3].neuron.rule = None
    with pytest.raises(TypeError, match="rule of module features.3.neuron"):
        rb.save(model, tmp_path / "m")


def test_poisson() -> None:
    x = torch.tensor([0.0, 0.25, 0.5, 1.0])
    torch.manual_seed(0)
    coding = rb.Poisson(0.8)
    spikes = coding(x.expand(20_000, 1, 4))
    assert set(spikes.unique().tolist()) == {0, 1}
    torch.testing.assert_close(spikes.mean((0, 1)), 0.8 * x, rtol=0, atol=0.02)
    # steps are independent: the variance of counts over 20 steps is that of a binomial
    counts = spikes.unflatten(0, (-1, 20)).sum(1).var(0)[0]
    torch.testing.assert_close(counts, 20 * 0.8 * x * (1 - 0.8 * x), rtol=0.15, atol=0)
    assert torch.equal(rb.Poisson(0.8, expected=True)(x), 0.8 * x)
    torch.manual_seed(1)
    first = coding(x.expand(5, 2, 4))
    torch.manual_seed(1)
    assert torch.equal(coding(x.repeat(5, 2, 1)), first), "a static input is drawn anew in each step, as copies are"
    assert not torch.equal(coding(x.expand(5, 2, 4)), first)
    for bad in (x - 1, 2 * x, x * torch.nan):
        with pytest.raises(ValueError, match=r"inputs must be in \[0, 1\] .in recipes: data.scale unit., got"):
            coding(bad.expand(5, 2, 4))
    assert repr(coding) == "Poisson(rate=0.8)"

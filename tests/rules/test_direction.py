import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rheobase as rb
from rheobase.rules import Membrane, SpikeTrain
from rheobase.rules.direction import _compared, cosine, directions, finite_differences


class Net(nn.Module):
    """Units `[T, B, M]` to spikes, twice; float64."""

    def __init__(self, *sizes: int, decay: float = 0.9) -> None:
        super().__init__()
        torch.manual_seed(0)
        for i, (m, n) in enumerate(pairwise(sizes)):
            self.add_module(f"linear{i}", nn.Linear(m, n, bias=False))
            self.add_module(f"neuron{i}", rb.LIF(decay, 0.4))
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        for module in self.children():
            x = module(x)
        return x


def rate(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.mean(0) * labels).mean()


def test_finite_differences_of_a_smooth_function_are_its_gradient() -> None:
    p = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    before = p.detach().clone()
    value = lambda: (p.sin() * torch.arange(12.0).view(3, 4)).sum()  # noqa: E731
    (want,) = torch.autograd.grad(value(), p)
    places = torch.tensor([7, 0, 11])
    torch.testing.assert_close(finite_differences(value, p, places, 1e-4), want.flatten()[places], rtol=1e-6, atol=1e-6)
    assert torch.equal(p, before)


def test_a_neuron_of_one_step_under_noise_is_known() -> None:
    """P(w (x + noise) >= threshold) = Phi((w x - threshold) / (|w| sigma)): the differences find its derivative."""
    model, x, sigma = Net(3, 2), torch.rand(1, 2, 3, dtype=torch.float64), 0.5
    labels = torch.tensor([[1.0, -0.5], [0.3, 2.0]], dtype=torch.float64)
    w = model.linear0.weight

    def expected() -> Tensor:
        z = (x[0] @ w.t() - 0.4) / (w.norm(dim=1) * sigma)
        return ((1 + torch.erf(z / math.sqrt(2))) / 2 * labels).mean()

    (want,) = torch.autograd.grad(expected(), w)

    many, repeated = x.repeat_interleave(200_000, 1), labels.repeat_interleave(200_000, 0)
    many = many + sigma * torch.randn(many.shape, dtype=torch.float64)
    got = finite_differences(lambda: rate(model(many), repeated), w, torch.arange(6), 0.05).view_as(w)
    torch.testing.assert_close(got, want, rtol=0.05, atol=0.004)

    found = directions(
        model, x, labels, {"membrane": Membrane(), "surrogate": None}, loss=rate, noise=sigma, draws=200_000, step=0.1
    )
    for name, rule in (("membrane", Membrane()), ("surrogate", None)):
        model.neuron0.rule = rule
        (gradient,) = torch.autograd.grad(rate(model(many), repeated), w)
        assert found[name].cosine == pytest.approx(cosine(gradient.flatten(), want.flatten()), abs=0.05)
        assert found[name].norm == pytest.approx(float(gradient.norm() / want.norm()), rel=0.1)
    assert found["surrogate"].cosine > 0.5


def test_the_ceiling_is_what_the_true_gradient_reaches() -> None:
    """Of many elements of a linear loss with noise in its slopes, as of the differences over few draws."""
    torch.manual_seed(0)
    truth = torch.randn(4000, dtype=torch.float64)
    for noise, wanted in ((0.01, 1.0), (1.0, 2**0.5 / 3**0.5), (100.0, 0.0)):
        halves = truth.unsqueeze(1) + noise * torch.randn(4000, 2, dtype=torch.float64)
        found = _compared({"p": truth}, {"p": halves})
        assert found.ceiling == found.ceilings["p"] == pytest.approx(wanted, abs=0.2 if noise > 10 else 0.02)
        assert found.cosine == pytest.approx(found.ceiling, abs=0.2 if noise > 10 else 0.02)


def test_more_draws_have_a_higher_ceiling() -> None:
    model, x = Net(6, 5), (torch.rand(12, 4, 6, dtype=torch.float64) < 0.4).double()
    labels = torch.randn(4, 5, dtype=torch.float64)
    few, many = (
        directions(model, x, labels, {"r": None}, loss=rate, noise=0.3, draws=draws, step=0.05)["r"]
        for draws in (20, 2000)
    )
    assert 0.2 < few.ceiling < many.ceiling - 0.02
    assert many.ceiling > 0.95


def test_both_rules_lead_downhill_in_a_small_net() -> None:
    model = Net(6, 5, 3)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.2
    model.neuron0.rule = kept = Membrane(normalise=True)
    x = (torch.rand(12, 4, 6, dtype=torch.float64) < 0.4).double()
    labels = torch.randn(4, 3, dtype=torch.float64)
    before, before_rate = [p.detach().clone() for p in model.parameters()], model(x).mean()
    assert 0.05 < before_rate < 0.8
    rules = {"membrane": Membrane(), "surrogate": None}
    found = directions(model, x, labels, rules, loss=rate, noise=0.3, draws=400, step=0.05)
    assert {*found} == {*rules}
    for direction in found.values():
        assert direction.cosine > 0.4
        assert {*direction.parameters} == {"linear0.weight", "linear1.weight"}
        assert 0 < direction.norm < 100
    again = directions(model, x, labels, rules, loss=rate, noise=0.3, draws=400, step=0.05)
    assert again == found, "a function of the seed"
    assert all(map(torch.equal, before, model.parameters()))
    assert model.neuron0.rule is kept
    assert model.neuron1.rule is None
    assert model.training
    few = directions(model, x, labels, rules, loss=rate, noise=0.3, draws=50, step=0.05, elements=4)
    assert few != found


def test_without_noise_there_is_nothing_to_find() -> None:
    model, x = Net(3, 2), torch.rand(5, 1, 3, dtype=torch.float64)
    found = directions(model, x, torch.ones(1, 2).double(), {"r": Membrane()}, loss=rate, noise=0, draws=2, step=1e-9)
    assert math.isnan(found["r"].cosine)
    assert math.isnan(found["r"].ceiling)


def test_of_a_registered_model_that_draws() -> None:
    model = rb.models.create(
        "mlp", classes=3, in_channels=1, image_size=3, layers="6", norm="none", alpha=0.8, output="spikes", steps=8,
        coding="poisson", coding_rate=0.9, neuron=rb.LIF(0.9, learn="threshold"),
    )  # fmt: skip
    images, labels = torch.rand(2, 1, 3, 3).mul(0.4).add(0.4), torch.tensor([0, 2])
    state = torch.get_rng_state()
    found = directions(
        model, images, labels, {"membrane": Membrane()}, noise=0.05, draws=20, step=0.2,
        loss=lambda logits, wanted: nn.functional.cross_entropy(logits.mean(0), wanted),
    )  # fmt: skip
    assert torch.equal(torch.get_rng_state(), state)
    assert len(found["membrane"].parameters) == 4
    assert abs(found["membrane"].cosine) <= 1


def test_cosine() -> None:
    a, b = torch.tensor([3.0, 0.0]), torch.tensor([3.0, 4.0])
    assert cosine(a, b) == pytest.approx(0.6)
    assert cosine(a, -a) == pytest.approx(-1)
    with pytest.raises(ValueError, match="draws must be even and at least 2, step above 0 and noise at least 0, got 3"):
        directions(Net(2, 1), torch.rand(1, 1, 2), torch.rand(1, 1), {}, loss=rate, noise=0.1, draws=3)


def test_neurons_that_hear_each_other_take_the_rule_too() -> None:
    model = Net(3, 4, 2)
    model.neuron0 = rb.Recurrent(rb.LIF(0.9, 0.4, reset="hard"), nn.Linear(4, 4, bias=False)).double()
    model.neuron1 = rb.LIF(0.9, 0.4, reset="hard")
    seen = []

    class Told(SpikeTrain):
        def saved(self, spikes: Tensor, currents: Tensor) -> Any:
            seen.append(spikes.shape[-1])
            return super().saved(spikes, currents)

    x = torch.rand(5, 2, 3, dtype=torch.float64)
    directions(model, x, torch.ones(2, 2), {"told": Told()}, loss=rate, noise=0.1, draws=2, elements=1)
    assert set(seen) == {4, 2}
    assert model.neuron0.neuron.rule is None


class Plain(rb.Neuron):
    def step(self, current: Tensor, state: Any) -> Any:
        u = 0.9 * state + current
        spikes = rb.spike(u - 1)
        return spikes, u - spikes.detach()


def small() -> rb.models.Net:
    torch.manual_seed(0)
    return rb.models.create("plain_convnet", classes=3, in_channels=1, depth=2, width=4, steps=2)


def square(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.square().mean()


def test_a_loss_that_fails_leaves_the_weights_as_they_were() -> None:
    net, x, y = small(), torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    before = {name: p.clone() for name, p in net.named_parameters()}
    calls: list[int] = []

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) > 3:
            raise KeyError("stop")
        return logits.mean()

    with pytest.raises(KeyError):
        directions(net, x, y, {"surrogate": None}, loss=loss, noise=0.1, draws=2)
    assert all(torch.equal(p, before[name]) for name, p in net.named_parameters())


def test_weights_in_channels_last_memory_and_numbers_that_are_none() -> None:
    net, x, y = small(), torch.rand(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    assert not all(p.is_contiguous() for p in net.parameters())
    found = directions(net, x, y, {"surrogate": None}, loss=square, noise=0.1, draws=2, elements=3)
    assert torch.isfinite(torch.tensor(found["surrogate"].cosine))
    for wrong in ({"noise": math.nan}, {"step": math.nan}, {"step": math.inf}):
        with pytest.raises(ValueError, match="directions: draws must be even"):
            directions(net, x, y, {"surrogate": None}, loss=square, **{"noise": 0.1, "draws": 2, **wrong})


def test_a_neuron_that_rules_do_not_know_is_refused() -> None:
    net = nn.Sequential(rb.PerStep(nn.Linear(5, 4)), Plain(), rb.PerStep(nn.Linear(4, 3)))
    x, y = torch.rand(6, 4, 5), torch.tensor([0, 1, 2, 0])
    rules = {"membrane": rb.rules.Membrane()}
    with pytest.raises(ValueError, match="not the Plain 1"):
        directions(net, x, y, rules, loss=square, noise=0.1, draws=2)

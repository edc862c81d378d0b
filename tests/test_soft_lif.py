"""The soft LIF is the rate of a LIF, and its spiking twin fires at that rate."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rheobase as rb
from rheobase.graph import SpikingTwin, accuracies
from rheobase.neurons import RefractoryLIF

CIFAR = {"tau_rc": 0.05, "tau_ref": 0.001, "gain": 0.825}
EDGES = [0.0, 1e-30, 1e-10, 1e-3, 0.5, 0.8, 1.0, 10.0, 1e4, 1e10, 1e20, 1e30, 1e38]
EXTREMES = [-x for x in EDGES] + EDGES + [torch.finfo(torch.float32).max, torch.finfo(torch.float32).min]


def rate(x: Tensor, tau_rc: float = 0.022, tau_ref: float = 0.002, gain: float = 1.0) -> Tensor:
    """Spikes a second of a LIF driven by J = gain x + 1, as textbooks have it."""
    j = (gain * x + 1).double()
    return torch.where(j > 1, 1 / (tau_ref - tau_rc * torch.log(1 - 1 / j.clamp(min=1 + 1e-9))), 0.0)


# the rate neuron


def test_values_by_hand() -> None:
    soft, x = rb.SoftLIF().eval(), torch.tensor([0.0, 1.0, 10.0])
    torch.testing.assert_close(soft(x), torch.tensor([0.6533, 3.6523, 15.3778]), rtol=1e-4, atol=1e-4)
    narrow = rb.SoftLIF(**CIFAR).eval()  # of the paper's CIFAR networks
    torch.testing.assert_close(narrow(x), torch.tensor([0.292, 1.55, 9.37]), rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("options", [{}, CIFAR], ids=["mnist", "cifar"])
def test_it_becomes_the_rate_of_a_lif(options: dict[str, float]) -> None:
    x = torch.linspace(-2, 12, 1401, dtype=torch.float64)
    away = []
    for smoothing in (0.1, 0.01, 0.001, 1e-4, 1e-6):
        y = rb.SoftLIF(smoothing=smoothing, amplitude=1.0, **options).eval()(x)
        away.append((y - rate(x, **options)).abs().max().item())
    assert all(later < 0.9 * before for before, later in pairwise(away))
    assert away[0] > 5
    off = x.abs() > 0.01  # (at the threshold itself the slope of the rate has no bound)
    far = (rb.SoftLIF(smoothing=1e-6, amplitude=1.0, **options).eval()(x) - rate(x, **options))[off]
    assert far.abs().max() < 0.01


def test_gradients_are_those_of_the_formula() -> None:
    soft, x = rb.SoftLIF(**CIFAR).eval(), torch.linspace(-3, 12, 61, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(soft, x)
    assert torch.autograd.gradgradcheck(soft, x)
    y = 0.825 * x.detach() / 0.02  # by hand, as the authors' code has it
    j = 0.02 * torch.nn.functional.softplus(y, threshold=100)
    v = 0.001 + 0.05 * torch.log1p(1 / j)
    by_hand = 0.063 * 0.825 * 0.05 / (v**2 * j * (j + 1) * (1 + torch.exp(-y)))
    torch.testing.assert_close(torch.autograd.grad(soft(x).sum(), x)[0], by_hand)


@pytest.mark.parametrize("options", [{}, {"smoothing": 1e-4}, {"gain": 100.0, "smoothing": 5.0}])
def test_float32_extremes(options: dict[str, float]) -> None:
    soft = rb.SoftLIF(**options).eval()
    x = torch.tensor(EXTREMES, requires_grad=True)
    y = soft(x)
    y.sum().backward()
    wide = torch.tensor(EXTREMES, dtype=torch.float64, requires_grad=True)
    wanted = soft(wide)
    wanted.sum().backward()
    assert x.grad is not None
    assert wide.grad is not None
    torch.testing.assert_close(y, wanted.float(), rtol=2e-4, atol=1e-38)
    torch.testing.assert_close(x.grad, wide.grad.float(), rtol=2e-4, atol=1e-38)
    assert (y >= 0).all()
    assert (y <= 0.063 / 0.002 * (1 + 1e-6)).all()
    assert (x.grad >= 0).all()
    assert (y[(x < 0) & (x > -1e30)] > 0).all(), "no rate is lost to rounding"


def test_no_number_shows() -> None:
    assert rb.SoftLIF().eval()(torch.tensor([math.nan])).isnan().all()
    assert rb.SoftLIF()(torch.tensor([math.nan])).isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_that_of_float32(dtype: torch.dtype) -> None:
    x = torch.linspace(-1, 5, 50).to(dtype)
    found = rb.SoftLIF().eval()(x)
    assert found.dtype is dtype
    assert torch.equal(found, rb.SoftLIF().eval()(x.float()).to(dtype))


def test_noise_is_that_of_rates_above_the_threshold() -> None:
    torch.manual_seed(0)
    soft, x = rb.SoftLIF(noise=10.0), torch.tensor([-0.01, 0.02, 1.0, 10.0]).repeat(50_000, 1)
    still = rb.SoftLIF().eval()(x)
    away = (soft(x) - still) / 0.063
    assert (away[:, 0] == 0).all(), "none below the threshold"
    assert away[:, 2:].mean(0).abs().max() < 0.2
    assert (away[:, 2:].std(0) - 10).abs().max() < 0.1
    low = soft(x)[:, 1]
    assert (low == 0).double().mean() > 0.02, "rates end at 0"
    assert (low >= 0).all()
    assert torch.equal(rb.SoftLIF(noise=0.0)(x), still)
    assert torch.equal(soft.eval()(x), still)


def test_noise_leaves_gradients_alone_and_is_seeded() -> None:
    soft, x = rb.SoftLIF(noise=100.0), torch.linspace(-1, 5, 100, requires_grad=True)
    torch.manual_seed(3)
    first = soft(x)
    torch.manual_seed(3)
    assert torch.equal(soft(x), first)
    assert not torch.equal(soft(x), first)
    assert (first == 0).any(), "where the noise is cut off too"
    noisy = torch.autograd.grad(first.sum(), x)[0]
    assert torch.equal(noisy, torch.autograd.grad(soft.eval()(x).sum(), x)[0])


def test_noise_is_the_same_in_any_layout() -> None:
    soft, x = rb.SoftLIF(noise=100.0), torch.rand(4, 3, 5, 6, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(3)
    first = soft(x)
    for strided in (x.contiguous(memory_format=torch.channels_last), x.mT.contiguous().mT):
        torch.manual_seed(3)
        assert torch.equal(soft(strided), first)


@pytest.mark.parametrize("name", ["tau_rc", "tau_ref", "amplitude", "gain", "smoothing", "noise"])
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, "1", True, torch.ones(3)])
def test_bad_arguments_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"SoftLIF: {name} must be"):
        rb.SoftLIF(**{name: value})


def test_bad_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"SoftLIF: smoothing must be a number in \(0, inf\)"):
        rb.SoftLIF(smoothing=0)
    with pytest.raises(TypeError, match="SoftLIF: x must be a dense floating point tensor, got torch.int64"):
        rb.SoftLIF()(torch.ones(1, 2, 3, dtype=torch.int64))


# the spiking twin


@pytest.mark.parametrize(("options", "dt"), [({}, 0.001), (CIFAR, 0.0004)], ids=["mnist", "cifar"])
@torch.no_grad()
def test_its_rate_is_that_of_a_lif(options: dict[str, float], dt: float) -> None:
    x, steps = torch.tensor([-5.0, -0.1, 0.01, 0.1, 0.5, 1.0, 3.0, 10.0, 1e3, 1e20]).double(), 2000
    neuron = rb.SoftLIF(**options).spiking(dt, synapse=0.0)
    spikes = neuron(x.expand(steps, 1, -1))
    assert set(spikes.unique().tolist()) == {0.0, 1.0}
    seconds = steps * dt
    assert ((spikes.sum(0)[0] - seconds * rate(x, **options)).abs() <= 1).all(), "to a spike"


@torch.no_grad()
def test_a_neuron_at_its_threshold_keeps_its_numbers() -> None:
    x = torch.tensor([0.0, -0.0, 1e-38, 1e-45, 1e-7, torch.finfo(torch.float32).max / 2])
    spikes, state = rb.SoftLIF().spiking(synapse=0.0).run(x.expand(2000, 1, -1))
    assert spikes.isfinite().all()
    assert (spikes[..., :2] == 0).all()
    assert (RefractoryLIF(tau_rc=1e-5, synapse=0.0)(torch.zeros(20, 1, 1)) == 0).all(), "it is there at once, and stays"
    assert all(part.isfinite().all() for part in state)
    assert RefractoryLIF()(torch.full((2, 1, 1), math.nan)).isnan().all()


def test_the_refractory_period_by_hand() -> None:
    neuron = RefractoryLIF(dt=0.001, tau_rc=0.02, tau_ref=0.0035, synapse=0.0)
    spikes = neuron(torch.full((40, 1, 1), 1e9))[:, 0, 0]  # it fires as soon as it may
    assert set(spikes.nonzero()[:, 0].diff().tolist()) == {3, 4}
    assert spikes.sum() == 12
    still = neuron.run(torch.tensor([1e9, -1e9, -1e9, -1e9]).view(4, 1, 1))[1]
    assert still[0].item() == 0, "it does not fall below rest"


def test_the_synapse_is_two_low_passes() -> None:
    neuron, steps = RefractoryLIF(synapse=0.004), 200
    pulse = torch.zeros(steps, 1, 1)
    pulse[0] = 1.0
    found, state = [], None
    for piece in pulse.split(1):
        _, state = neuron.run(piece, state)
        found.append(state[3].item())
    t = torch.arange(1, steps + 1) * 0.001
    alpha = t / 0.004**2 * torch.exp(-(t - 0.001) / 0.004) * 0.004**2 * (1 - math.exp(-0.25)) ** 2 / 0.001
    torch.testing.assert_close(torch.tensor(found), alpha)
    assert sum(found) == pytest.approx(1, abs=1e-5), "a current that lasts passes whole"


def test_a_stream_is_one_run() -> None:
    torch.manual_seed(0)
    neuron, x = RefractoryLIF(), torch.rand(60, 2, 5)
    whole, end = neuron.run(x)
    assert whole.mean() > 0.01
    first, state = neuron.run(x[:25])
    second, last = neuron.run(x[25:], state)
    assert torch.equal(torch.cat([first, second]), whole)
    assert all(torch.equal(a, b) for a, b in zip(end, last, strict=True))


def test_its_gradient_is_that_of_its_surrogate_and_not_of_the_reset() -> None:
    neuron, x = RefractoryLIF(synapse=0.0), torch.tensor([5.0, 30.0, 300.0]).view(1, 1, 3).requires_grad_()
    spikes, (v, *_) = neuron.run(x)
    assert spikes.flatten().tolist() == [0, 1, 1]
    share = -math.expm1(-1 / 22)
    above = share * (x.detach() + 1) - 1
    by_hand = rb.surrogate.ATan(2.0).derivative(above) * share
    torch.testing.assert_close(torch.autograd.grad(spikes.sum(), x, retain_graph=True)[0], by_hand)
    assert torch.autograd.grad(v.sum(), x)[0].flatten().tolist() == pytest.approx([share, 0, 0])


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"dt": 0.003}, r"dt must be at most tau_ref \(0.002\), else it could fire twice in a step, got 0.003"),
        ({"synapse": -1}, r"synapse must be a number in \[0, inf\)"),
        ({"tau_rc": 0}, "tau_rc must be"),
    ],
)
def test_bad_arguments_of_the_twin_are_refused(options: dict[str, float], match: str) -> None:
    with pytest.raises(ValueError, match=f"RefractoryLIF: {match}"):
        RefractoryLIF(**options)


# in networks


def network(**options: float) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), rb.SoftLIF(**options), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(96, 10)),
    )


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, rb.data.Batches]:
    data, ann = rb.data.load("digits"), network()
    optimizer = torch.optim.AdamW(ann.parameters(), lr=2e-2)
    for epoch in range(3):
        for images, labels, _ in rb.data.Batches(data.train, batch_size=64, seed=epoch, mean=data.mean, std=data.std):
            optimizer.zero_grad()
            nn.functional.cross_entropy(ann(images), labels).backward()
            optimizer.step()
    return ann.eval(), rb.data.Batches(data.validation, batch_size=240, mean=data.mean, std=data.std)


@torch.no_grad()
def test_a_trained_network_keeps_its_accuracy(trained: tuple[nn.Module, rb.data.Batches]) -> None:
    ann, batches = trained
    x, y, _ = batches.batch(0, 0)
    own = (ann(x).argmax(1) == y).double().mean().item()
    assert own > 0.9
    net = rb.convert(ann, [x], SpikingTwin(synapse=0.002), steps=80)
    curve = accuracies(net, batches, (6, 80))
    assert curve.accuracy[80] > own - 0.02
    assert curve.accuracy[6] < 0.5, "there are few spikes so early"
    assert net.layers[0].error < 0.2
    assert "RefractoryLIF(dt=0.001, tau_rc=0.022" in net.report
    few = rb.convert(ann, [x], "soft_lif", steps=40)
    assert few.layers[0].error > net.layers[0].error


@torch.no_grad()
def test_in_time_it_becomes_the_network() -> None:
    ann, x = network(smoothing=1e-5).eval(), torch.randn(3, 1, 8, 8)
    net = rb.convert(ann, [x], SpikingTwin(synapse=0.0))
    with rb.record(net) as tape:
        away = [((rb.readout(net(x, steps=steps)) - ann(x)).norm() / ann(x).norm()).item() for steps in (100, 1000)]
    assert tape["features.2"].spikes.mean() > 0.002
    assert away[1] < away[0] / 5 < 0.2


@torch.no_grad()
def test_the_readout_begins_where_it_is_told(trained: tuple[nn.Module, rb.data.Batches]) -> None:
    ann, batches = trained
    x, y, _ = batches.batch(0, 0)
    net = rb.convert(ann, [x], "soft_lif")
    logits, right = net(x, steps=30), {}
    for steps in (14, 30):
        right[steps] = (rb.readout(logits[11:steps]).argmax(1) == y).double().mean().item()
    curve = accuracies(net, batches, (14, 30), skip=11)
    assert curve.accuracy == pytest.approx(right, abs=1e-9)
    assert curve.skip == 11
    assert "the first 11 not counted" in str(curve)
    early = accuracies(net, batches, (30,), confidence=0.6, skip=11)
    means = logits[11:].cumsum(0) / torch.arange(1, 20).view(-1, 1, 1)
    sure = means.softmax(2).amax(2) >= 0.6
    left = torch.where(sure.any(0), sure.int().argmax(0) + 12, 30)
    assert left.min() < left.max()
    assert early.exit_steps == pytest.approx(left.double().mean().item(), abs=0.02)
    for skip in (14, -1, 1.0):
        with pytest.raises(ValueError, match="skip must be an integer from 0 to 13, got"):
            accuracies(net, batches, (14, 30), skip=skip)  # type: ignore[arg-type]


def test_only_what_was_trained_for_it_is_converted() -> None:
    with pytest.raises(ValueError, match="convert by 'soft_lif' takes activations SoftLIF, got 0 "):
        rb.convert(nn.Sequential(nn.ReLU(), nn.Linear(4, 2)), [torch.rand(2, 4)], "soft_lif")
    with pytest.raises(ValueError, match="convert by 'percentile' takes activations ReLU or ReLU6, got"):
        rb.convert(network(), [torch.randn(2, 1, 8, 8)])
    with pytest.raises(ValueError, match="SpikingTwin: dt must be a number > 0, got 0"):
        SpikingTwin(dt=0)
    with pytest.raises(ValueError, match="RefractoryLIF: dt must be at most tau_ref"):
        rb.convert(network(), [torch.randn(2, 1, 8, 8)], SpikingTwin(dt=0.01))


def test_it_may_be_trained_as_a_spiking_net_too() -> None:
    net = rb.to_spiking(network(), neuron=rb.SoftLIF().spiking(), steps=30)
    logits = net(torch.randn(4, 1, 8, 8))
    assert logits.shape == (30, 4, 10)
    logits.sum().backward()
    weight = next(net.parameters())
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0


def test_a_twin_of_the_registry(tmp_path: Any) -> None:
    options: dict[str, Any] = {"classes": 3, "in_channels": 1, "depth": 2, "width": 4, "neuron": rb.SoftLIF(gain=0.5)}
    torch.manual_seed(0)
    twin = rb.models.create("plain_convnet", spiking=False, **options).eval()
    x = torch.randn(4, 1, 8, 8)
    assert twin(x).shape == (1, 4, 3)
    assert [str(one) for one in twin.modules() if isinstance(one, rb.SoftLIF)] == [str(rb.SoftLIF(gain=0.5))] * 2
    rb.save(twin, tmp_path / "twin.safetensors")
    again = rb.load(tmp_path / "twin.safetensors").eval()
    assert torch.equal(again(x), twin(x))
    net = rb.convert(twin, [x], "soft_lif", steps=50)
    assert net(x).shape == (50, 4, 3)
    report = rb.energy(net, x)
    assert report.uncounted == {}
    assert not any("RefractoryLIF" in note for note in report.notes)
    assert report.spiking.updates == 50 * (4 * 64 + 8 * 16)
    with pytest.raises(ValueError, match=r"neuron SoftLIF has no spikes: make the ANN \(spiking=False\)"):
        rb.models.create("plain_convnet", **options)
    with pytest.raises(ValueError, match=r"neuron must be a rheobase.Neuron or a rheobase.SoftLIF"):
        rb.models.create("plain_convnet", spiking=False, **{**options, "neuron": nn.ReLU()})


def test_random_numbers_of_the_host_are_left_alone_in_evaluation() -> None:
    before = torch.random.get_rng_state()
    rb.SoftLIF().eval()(torch.randn(1, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_step_far_longer_than_the_membrane_has_no_nan() -> None:
    """There u / drive, which is below 1, rounds to above it."""
    torch.manual_seed(0)
    spikes = RefractoryLIF(0.002, 0.0001, 0.002, synapse=0.0)(torch.rand(200, 1, 2000) * 2)
    assert set(spikes.unique().tolist()) == {0.0, 1.0}

"""Converted networks compute in time what they are converted from."""

import copy
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import rheobase as rb
from rheobase.graph import Calibrated, ClipFloorShift, Percentile, ThresholdBalancing, accuracies, with_qcfs
from rheobase.graph.biases import with_carriers
from rheobase.graph.building import Choices, build
from rheobase.graph.converted import Charged
from rheobase.graph.distribution import ann as as_network
from rheobase.graph.distribution import distributions
from rheobase.graph.folding import folded
from rheobase.graph.reader import read
from rheobase.graph.simulation import mean, stream
from rheobase.neurons import MaxSpikes
from tests.graph.networks import NETWORKS, FunctionalResNet, PreActivation, Small, images, mlp, randomized, vgg


def away(net: rb.models.Net, x: Tensor, wanted: Tensor, steps: int) -> float:
    found = mean(net, x, steps)
    return float((found - wanted).norm() / wanted.norm())


# conversion goes to the network as T grows


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_in_time_it_becomes_the_network(name: str) -> None:
    ann, x = randomized(NETWORKS[name]()).eval(), images(6)
    wanted = ann(x)
    net = rb.convert(ann, [x], Percentile(percentile=100), steps=4)
    with rb.record(net) as tape:
        net(x, steps=20)
    assert min(trace.spikes.mean().item() for trace in tape.values()) > 0.002
    errors = [away(net, x, wanted, steps) for steps in (32, 256, 2048)]
    assert errors[1] < errors[0] / 4
    assert errors[2] < errors[1] / 4
    assert errors[2] < 0.01


@torch.no_grad()
def test_in_time_it_becomes_the_network_in_float64() -> None:
    ann, x = randomized(FunctionalResNet()).eval().double(), images(3).double()
    net = rb.convert(ann, [x], Percentile(percentile=100))
    with rb.engine("reference"):
        assert net(x).dtype is torch.float64
        assert away(net, x, ann(x), 1024) < away(net, x, ann(x), 64) / 10 < 0.02


@pytest.mark.parametrize("name", ["sew_resnet18", "ms_resnet18", "spiking_resnet18", "vgg11"])
@torch.no_grad()
def test_our_twins_are_converted(name: str) -> None:
    torch.manual_seed(0)
    twin = rb.models.create(name, classes=3, in_channels=1, width=4, spiking=False, **start(name)).eval()
    x = images(6)
    net = rb.convert(twin, [x], Percentile(percentile=100))
    errors = [away(net, x, twin(x)[0], steps) for steps in (64, 512)]
    assert errors[1] < errors[0] / 4
    assert twin(x)[0].std() > 1e-3


def start(name: str) -> dict[str, str]:
    return {"start": "plain"} if "resnet" in name else {}


@torch.no_grad()
def test_threshold_balancing_becomes_the_network_too() -> None:
    ann, x = randomized(Small()).eval(), images(6)
    net = rb.convert(ann, [x], ThresholdBalancing(simulate=50))
    assert away(net, x, ann(x), 2048) < away(net, x, ann(x), 256) / 4 < 0.1


# parts


@torch.no_grad()
def test_folded_layers_are_the_network() -> None:
    for name in NETWORKS:
        ann = randomized(NETWORKS[name]()).eval()
        graph, _ = folded(read(ann))
        assert not graph.of("norm")
        assert not graph.of("dropout")
        torch.testing.assert_close(as_network(graph)(images()), ann(images()), rtol=1e-4, atol=1e-5)


class Unfolded(nn.Module):
    """A norm behind the dropout of what is used elsewhere too, and one over another axis than a linear layer's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.drop, self.norm1 = nn.Conv2d(1, 5, 3, 2), nn.Dropout(0.2), nn.BatchNorm2d(5)
        self.fc1, self.norm2, self.fc2 = nn.Linear(9, 7), nn.BatchNorm1d(5), nn.Linear(35, 10)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y = torch.flatten(F.relu(self.norm1(self.drop(y)) + y), 2)
        return self.fc2(F.relu(self.norm2(self.fc1(y))).flatten(1))


@torch.no_grad()
def test_a_norm_is_folded_only_where_that_changes_nothing_else() -> None:
    ann = randomized(Unfolded()).eval()
    graph, gone = folded(read(ann))
    assert gone == {"drop": "nothing, as in evaluation"}
    torch.testing.assert_close(as_network(graph)(images()), ann(images()), rtol=1e-4, atol=1e-5)
    assert away(rb.convert(ann, [images()]), images(), ann(images()), 512) < 0.02


@torch.no_grad()
def test_calibration_by_hand() -> None:
    ann, x, steps = randomized(mlp()).eval(), images(8), 8
    plain = rb.convert(ann, [x], Calibrated(bias=False, potential=False), steps)
    threshold = plain.layers[0].threshold
    layer, _ = folded(read(ann))
    shift = plain.features.get_submodule("1").module.bias - layer.of("weights")[0].module.bias
    torch.testing.assert_close(shift, torch.full_like(shift, threshold / (2 * steps)))

    def active(net: rb.models.Net) -> Tensor:
        with rb.record(net) as tape:
            net(x)
        return threshold * tape["features.3"].spikes.mean((0, 1))

    wanted: dict[str, Tensor] = {}
    as_network(layer)(x, lambda name, value: wanted.update({name: value.mean(0)}))
    lighter = rb.convert(ann, [x], Calibrated(potential=False), steps)
    whole = rb.convert(ann, [x], Calibrated(), steps)
    initial = whole.features.get_submodule("3").initial
    assert initial.abs().max() > 0.01 * threshold
    torch.testing.assert_close(initial, steps * (wanted["3"] - active(lighter)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("reset", ["soft", "hard"])
def test_neurons_have_the_reset_that_is_asked_for(reset: Any) -> None:
    net = rb.convert(randomized(mlp()).eval(), [images(8)], ThresholdBalancing(simulate=5, reset=reset), 4)
    assert net.features.get_submodule("3").reset == reset


@torch.no_grad()
def test_a_maximum_of_spikes_is_that_of_their_counts() -> None:
    torch.manual_seed(0)
    pool = MaxSpikes(nn.MaxPool2d(3, 2, 1))
    spikes = (torch.rand(40, 2, 3, 7, 7) < torch.rand(1, 2, 3, 7, 7)).float()
    out = pool(spikes)
    assert set(out.unique().tolist()) == {0.0, 1.0}
    torch.testing.assert_close(out.cumsum(0)[17], F.max_pool2d(spikes[:18].sum(0), 3, 2, 1))
    still = torch.randn(2, 3, 7, 7)
    torch.testing.assert_close(
        pool(still.expand(5, *still.shape)), F.max_pool2d(still, 3, 2, 1).expand(5, 2, 3, 4, 4), rtol=1e-4, atol=1e-5
    )
    first, state = pool.run(spikes[:13])
    assert torch.equal(torch.cat([first, pool.run(spikes[13:], state)[0]]), out)


def test_a_neuron_starts_where_it_is_told() -> None:
    currents = torch.full((6, 2, 3), 0.3)
    neuron = Charged(1.0, torch.tensor([0.0, 0.5, 0.9]))
    assert neuron(currents)[:, 0].argmax(0).tolist() == [3, 1, 0]
    spikes, state = neuron.run(currents[:2])
    assert torch.equal(torch.cat([spikes, neuron.run(currents[2:], state)[0]]), neuron(currents))
    with rb.engine("reference"):
        assert torch.equal(neuron(currents)[:, 0].argmax(0), torch.tensor([3, 1, 0]))
    with pytest.raises(ValueError, match=r"potentials of their own, which are \[3\].*got currents \[B, 4\]"):
        neuron(torch.rand(6, 2, 4))
    again = Charged(2.0, torch.zeros(3))
    again.load_state_dict(neuron.state_dict())
    assert torch.equal(again(currents), neuron(currents))
    assert "initial=[3] from 0 to 0.9" in repr(neuron)


@torch.no_grad()
def test_distributions_are_those_of_all_activations() -> None:
    ann, x = randomized(Small()).eval(), images(40)
    graph, _ = folded(read(ann))
    found = distributions(graph, x.split(15))
    values: dict[str, Tensor] = {}
    as_network(graph)(x, lambda name, value: values.update({name: value}))
    for name, one in found.items():
        positive = values[name][values[name] > 0].double()
        assert one.counts.sum() == len(positive)
        for percent in (50.0, 99.0, 99.9):
            exact = positive.sort().values[math.ceil(percent / 100 * len(positive)) - 1].item()
            assert one.percentile(percent) == pytest.approx(exact, abs=one.largest / 65_000)
        assert one.percentile(100) == one.largest == positive.max().item()
        steps, errors = 8, {}
        for i in range(95):
            v = one.largest * (1 - 0.01 * i)
            errors[v] = (positive - v / steps * (positive * steps / v).clamp(0, steps).floor()).square().sum().item()
        best = one.fitted(steps, 95)
        assert errors[best] == pytest.approx(min(errors.values()), rel=1e-3)
        assert best < one.largest


@torch.no_grad()
def test_a_bias_finds_its_place() -> None:
    """Also where no linear layer drives the activation alone: pooling before it, a norm that others read."""
    for ann in (
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 10)),
        nn.Sequential(nn.ReLU(), nn.Conv2d(1, 4, 3, bias=False), nn.ReLU(), nn.ReLU()),
        PreActivation(),
        vgg(),
    ):
        randomized(ann).eval()
        graph, _ = folded(read(ann))
        found = with_carriers(graph, images())
        torch.testing.assert_close(as_network(found)(images()), as_network(graph)(images()))
        net = rb.convert(ann, [images(8)], Calibrated(), steps=16)
        assert net(images(3)).isfinite().all()


# methods, on a net that has learned digits


def batches(split: str, size: int) -> rb.data.Batches:
    data = rb.data.load("digits")
    return rb.data.Batches(getattr(data, split), batch_size=size, mean=data.mean, std=data.std)


def trained(net: nn.Module) -> nn.Module:
    data = rb.data.load("digits")
    training = rb.data.Batches(data.train, batch_size=64, mean=data.mean, std=data.std, seed=0)
    optimizer = torch.optim.AdamW(net.parameters(), lr=5e-3)
    for _ in range(6):
        for x, y, _ in training:
            optimizer.zero_grad()
            F.cross_entropy(net(x), y).backward()
            optimizer.step()
    return net.eval()


@pytest.fixture(scope="module")
def calibration() -> list[Tensor]:
    return [batches("train", 200).batch(0, 0).inputs]


@pytest.fixture(scope="module")
def ann() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return trained(Small())


@pytest.fixture(scope="module")
def quantized() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return trained(with_qcfs(Small(), 4, 4.0))


@torch.no_grad()
def share(net: nn.Module) -> float:
    x, y, _ = batches("validation", 240).batch(0, 0)
    return (net(x).argmax(1) == y).double().mean().item()


def curve(net: rb.models.Net, *steps: int) -> list[float]:
    return list(accuracies(net, batches("validation", 240), steps).accuracy.values())


def test_percentile_reaches_the_network_slowly(ann: nn.Module, calibration: list[Tensor]) -> None:
    assert share(ann) > 0.95
    few, many = curve(rb.convert(ann, calibration), 2, 256)
    assert few < 0.7
    assert many == pytest.approx(share(ann), abs=0.01)


def test_calibrated_is_better_at_few_steps(ann: nn.Module, calibration: list[Tensor]) -> None:
    plain = rb.convert(ann, calibration)
    for steps in (4, 8):
        net = rb.convert(ann, calibration, "calibrated", steps)
        parts = [Calibrated(bias=False, potential=False), Calibrated(potential=False), Calibrated()]
        errors = [rb.convert(ann, calibration, one, steps).layers[-1].error for one in parts]
        assert max(errors[1:]) < errors[0]
        if steps == 4:
            assert curve(net, steps)[0] > curve(plain, steps)[0] + 0.3
    net = rb.convert(ann, calibration, "calibrated", 32)
    assert curve(net, 32)[0] > share(ann) - 0.02


def test_qcfs_is_better_at_few_steps(quantized: nn.Module, ann: nn.Module, calibration: list[Tensor]) -> None:
    assert share(quantized) > 0.93
    net = rb.convert(quantized, calibration, "qcfs")
    plain = rb.convert(ann, calibration)
    found = curve(net, 4, 8, 32)
    assert found[0] > curve(plain, 4)[0] + 0.1
    assert found[2] > share(quantized) - 0.02
    unshifted = rb.convert(quantized, calibration, ClipFloorShift(initial=0.0))
    assert curve(unshifted, 4)[0] < found[0]
    neurons = [one for one in net.modules() if isinstance(one, Charged)]
    activations = [one for one in quantized.modules() if isinstance(one, rb.QCFS)]
    for neuron, activation in zip(neurons, activations, strict=True):
        assert float(neuron.threshold) == pytest.approx(activation.threshold.item())
        assert float(neuron.initial) == pytest.approx(activation.threshold.item() / 2)


def test_a_converted_net_can_be_trained_on(quantized: nn.Module, calibration: list[Tensor]) -> None:
    """The gradient that comes down is about that of the network, whatever the thresholds: each spike counts for one."""
    net = rb.convert(quantized, calibration, "qcfs", 8)
    assert not any(parameter.requires_grad for parameter in net.parameters())
    net.requires_grad_()
    assert max(float(one.threshold) for one in net.modules() if isinstance(one, Charged)) > 1.5
    batch = batches("train", 128).batch(0, 0)
    grads, losses = [], []
    for module in (net.train(), quantized.eval()):
        logits = rb.readout(module(batch.inputs)) if module is net else module(batch.inputs)
        loss = nn.functional.cross_entropy(logits, batch.labels)
        weights = [p for p in module.parameters() if p.dim() == 4]
        grads.append([g.norm() * w.norm() for g, w in zip(torch.autograd.grad(loss, weights), weights, strict=True)])
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], abs=0.1)
    for spiking, own in zip(*grads, strict=True):  # (a product, which no factor between layers changes)
        assert 1 / 3 < spiking / own < 8  # (an IF passes what comes at later steps to earlier ones, too)
    optimizer = torch.optim.SGD(net.parameters(), 0.02)
    nn.functional.cross_entropy(rb.readout(net(batch.inputs)), batch.labels).backward()
    optimizer.step()
    assert nn.functional.cross_entropy(rb.readout(net(batch.inputs)), batch.labels).item() < losses[0] - 1e-3


def test_balanced_thresholds_are_the_largest_currents(ann: nn.Module, calibration: list[Tensor]) -> None:
    net = rb.convert(ann, calibration, ThresholdBalancing(simulate=20, scale=1.0))
    largest = dict.fromkeys((one.name for one in net.layers), -math.inf)
    with rb.record(net) as tape, torch.no_grad():
        net(calibration[0], steps=20)
    for name in largest:
        assert tape[f"features.{name}"].currents.max().item() == pytest.approx(
            float(net.features.get_submodule(name).threshold), rel=1e-5
        )
    less = rb.convert(ann, calibration, ThresholdBalancing(simulate=20, scale=0.7))
    assert less.layers[0].threshold == pytest.approx(0.7 * net.layers[0].threshold)


@torch.no_grad()
def test_the_error_of_a_layer_is_what_it_says(ann: nn.Module, calibration: list[Tensor]) -> None:
    net = rb.convert(ann, [calibration[0][:90], calibration[0][90:]], steps=12)
    with rb.record(net) as tape:
        net(calibration[0])
    values: dict[str, Tensor] = {}
    as_network(folded(read(ann))[0])(calibration[0], lambda name, value: values.update({name: value}))
    for one in net.layers:
        spikes = tape[f"features.{one.name}"].spikes.mean(0)
        assert one.rate == pytest.approx(spikes.mean().item(), rel=1e-4)
        wanted = values[one.name]
        error = (spikes * one.threshold - wanted).norm() / wanted.norm()
        assert one.error == pytest.approx(error.item(), rel=1e-3)
    assert min(one.rate for one in net.layers) > 0.01


def test_it_tells_what_became_of_each_layer(ann: nn.Module, calibration: list[Tensor]) -> None:
    text = repr(rb.convert(ann, calibration, Percentile(percentile=99), steps=7))
    for said in ("Percentile(percentile=99, initial=0.0), steps=7", "folded into conv2", "IF, threshold", "error", "%"):
        assert said in text


# what the net is


@torch.no_grad()
def test_it_is_a_net_as_any(ann: nn.Module, calibration: list[Tensor]) -> None:
    net = rb.convert(ann, calibration, "calibrated", 6)
    x = calibration[0][:5]
    whole = net(x)
    assert whole.shape == (6, 5, 10)
    first, state = rb.run(net, x.expand(2, *x.shape))
    rest, _ = rb.run(net, x.expand(4, *x.shape), state)
    torch.testing.assert_close(torch.cat([first, rest]), whole)
    again = rb.convert(ann, calibration, "calibrated", 6)
    for tensor in again.state_dict().values():
        if tensor.is_floating_point():
            tensor.zero_().add_(1)
    again.load_state_dict(net.state_dict())
    assert torch.equal(again(x), whole)
    with pytest.raises(ValueError, match="potentials of their own"):
        net(torch.rand(2, 1, 12, 12))
    assert not any(parameter.requires_grad for parameter in net.parameters())


def test_the_network_stays_as_it_is(calibration: list[Tensor]) -> None:
    ann = randomized(Small()).train()
    ann.bn1.eval()
    before = {name: value.clone() for name, value in ann.state_dict().items()}
    state = torch.random.get_rng_state()
    for method in ("percentile", "calibrated"):
        rb.convert(ann, calibration, method, 4)
    torch.testing.assert_close(ann.state_dict(), before, rtol=0, atol=0)
    assert [m.training for m in (ann, ann.bn1, ann.bn2)] == [True, False, True]
    assert torch.equal(torch.random.get_rng_state(), state)


# accuracy


def test_accuracy_in_one_pass_is_that_of_each_run(ann: nn.Module, calibration: list[Tensor]) -> None:
    net = rb.convert(ann, calibration)
    x, y, _ = batches("validation", 240).batch(0, 0)
    parts = [(x[:100], y[:100]), (x[:0], y[:0]), (x[100:], y[100:])]
    found = accuracies(net, parts, (1, 5, 24, 40), confidence=0.8)
    with torch.no_grad():
        logits = net(x, steps=40).double()
    means = logits.cumsum(0) / torch.arange(1, 41).view(-1, 1, 1)
    for steps, accuracy in found.accuracy.items():
        assert accuracy == pytest.approx((means[steps - 1].argmax(1) == y).double().mean().item())
    sure = means.softmax(2).amax(2) >= 0.8
    sure[-1] = True
    steps = sure.int().argmax(0)
    right = means.argmax(2).gather(0, steps[None])[0] == y
    assert found.exit_accuracy == pytest.approx(right.double().mean().item())
    assert found.exit_steps == pytest.approx((steps + 1).double().mean().item())
    assert 1 < found.exit_steps < 40
    assert found.samples == 240
    assert "exit at 0.8" in str(found)


def test_pieces_of_a_stream_are_one_run(ann: nn.Module, calibration: list[Tensor], monkeypatch: Any) -> None:
    net = rb.convert(ann, calibration, "calibrated", 8)
    x = calibration[0][:10]
    with torch.no_grad():
        whole = net(x, steps=30)
    for together in (10, 70, 1000):
        monkeypatch.setattr("rheobase.graph.simulation.TOGETHER", together)
        pieces = list(stream(net.features, x, 30))
        torch.testing.assert_close(torch.cat(pieces), whole)
    assert len(pieces) == 1


class Mixed(nn.Module):
    """Linear layers on the last axis."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 7, bias=bias), nn.Linear(7, 7, bias=bias)
        self.last = nn.Linear(28, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.flatten(F.relu(self.second(F.relu(self.first(x)))), 1))


def grown(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(5))


SHAPES = {
    "a volume": (lambda: grown(nn.Conv3d(2, 4, 3), nn.BatchNorm3d(4), nn.ReLU()), (2, 4, 4, 4)),
    "transposed first": (
        lambda: grown(nn.ConvTranspose2d(3, 4, 2, 2), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.ReLU()),
        (3, 4, 4),
    ),
    "the last axis": (lambda: Mixed(bias=True), (4, 8)),
    "the last axis, no bias": (lambda: Mixed(bias=False), (4, 8)),
    "no channels": (lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 9), nn.ReLU(), nn.Linear(9, 5)), (4, 4)),
}


@pytest.mark.parametrize("method", ["percentile", "calibrated"])
@pytest.mark.parametrize("name", SHAPES)
@torch.no_grad()
def test_inputs_of_all_shapes(name: str, method: str) -> None:
    make, shape = SHAPES[name]
    ann, x = make().eval(), torch.randn(6, *shape)
    wanted = ann(x)
    net = rb.convert(ann, [x], method, steps=64)
    assert rb.readout(net(x)).shape == wanted.shape
    assert (rb.readout(net(x)) - wanted).norm() < 0.1 * wanted.norm()


@pytest.mark.parametrize("norm", [nn.Identity(), nn.BatchNorm2d(4)], ids=["plain", "folded"])
@torch.no_grad()
def test_parametrized_weights_are_those_that_they_make(norm: nn.Module) -> None:
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 4, 3))
    conv.parametrizations.weight.original0.mul_(2)
    ann = randomized(nn.Sequential(conv, norm, nn.ReLU(), nn.Flatten(), nn.Linear(144, 5))).eval()
    x = images(6)
    wanted = ann(x)
    for _ in range(2):
        net = rb.convert(ann, [x], steps=64)
        assert (rb.readout(net(x)) - wanted).norm() < 0.1 * wanted.norm()
        assert torch.equal(ann(x), wanted), "the network stays as it was"


# mistakes


def nothing() -> Iterator[Tensor]:
    yield from ()


def test_mistakes_are_refused() -> None:
    ann = randomized(mlp()).eval()
    x = [images()]
    with pytest.raises(ValueError, match="method must be one of percentile, threshold_balancing, calibrated, qcfs"):
        rb.convert(ann, x, "best")
    with pytest.raises(TypeError, match="method must be a name or one of rheobase.graph's, got int"):
        rb.convert(ann, x, 3)
    with pytest.raises(ValueError, match="convert: steps must be a positive integer, got 0"):
        rb.convert(ann, x, steps=0)
    with pytest.raises(ValueError, match="at least one batch"):
        rb.convert(ann, nothing())
    for wrong, error, said in (
        ([torch.ones(2, 1, 8, 8, dtype=torch.uint8)], TypeError, r"floating point, got torch.uint8 \[2, 1, 8, 8\]"),
        ([{"image": images()}], TypeError, "images of floating point, got dict"),
        (images(), TypeError, "several batches of images, got one Tensor"),
        ([images(), images()[:0]], ValueError, r"one that is empty: \[0, 1, 8, 8\]"),
        ([images() * math.nan], ValueError, "one that is not finite"),
    ):
        with pytest.raises(error, match=said):
            rb.convert(ann, wrong)
    with pytest.raises(ValueError, match=r"'percentile' takes activations ReLU or ReLU6, got 1 \(GELU, .*line \d+"):
        rb.convert(nn.Sequential(nn.Flatten(), nn.GELU()), x)
    with pytest.raises(ValueError, match=r"'qcfs' takes activations QCFS, got 3 \(ReLU"):
        rb.convert(ann, x, "qcfs")
    with pytest.raises(ValueError, match="convert: Linear has no activation"):
        rb.convert(nn.Linear(8, 2), x)
    for wrong, said in (
        (lambda: Percentile(percentile=0), r"percentile must be a number in \(0, 100\], got 0"),
        (lambda: Percentile(initial=1), r"initial must be a number in \[0, 1\), got 1"),
        (lambda: ThresholdBalancing(simulate=0), "simulate must be a positive integer, got 0"),
        (lambda: ThresholdBalancing(reset="none"), "reset must be 'soft' or 'hard', got 'none'"),
        (lambda: ThresholdBalancing(scale=0), "scale must be a number > 0, got 0"),
        (lambda: Calibrated(grid=0), "grid must be an integer from 1 to 100, got 0"),
        (lambda: Calibrated(bias=1), "bias must be true or false, got 1"),
        (lambda: ClipFloorShift(initial=-1), r"initial must be a number in \[0, 1\), got -1"),
    ):
        with pytest.raises(ValueError, match=said):
            wrong()
    net, one, classes = rb.convert(ann, x), images()[:4], torch.arange(4) % 2
    everywhere = rb.convert(nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU(), nn.Conv2d(3, 2, 1)), x)
    for call, said in (
        (lambda: accuracies(net, x, ()), "steps must be numbers from 1 on"),
        (lambda: accuracies(net, x, (0,)), "steps must be numbers from 1 on"),
        (lambda: accuracies(net, x, (1.5,)), "steps must be numbers from 1 on"),
        (lambda: accuracies(net, x, confidence=1), r"confidence must be in \(0, 1\), got 1"),
        (lambda: accuracies(net, []), "at least one sample"),
        (lambda: accuracies(net, [(images()[None], torch.zeros(4))]), r"images must be static"),
        (lambda: accuracies(net, [(one, classes[:, None])]), r"integers \[4\], got torch.int64 \[4, 1\]"),
        (lambda: accuracies(net, [(one, classes[:1])]), r"integers \[4\], got torch.int64 \[1\]"),
        (lambda: accuracies(net, [(one, classes.float())]), r"integers \[4\], got torch.float32 \[4\]"),
        (lambda: accuracies(net, [{"x": one, "y": classes}]), "two tensors, images and labels, got dict"),
        (lambda: accuracies(net, [(one, [0] * 4)]), "two tensors, images and labels, got Tensor and list"),
        (lambda: accuracies(net, [one]), "two tensors, images and labels, got Tensor"),
        (lambda: accuracies(nn.Flatten(), x), "must be a rheobase.models.Net, as rb.convert gives it, got Flatten"),
        (lambda: accuracies(everywhere, [(one, classes)]), r"logits \[T, B, classes\], got \[\d+, 4, 2, 8, 8\]"),
        (lambda: accuracies(net.train(), x), "training mode"),
    ):
        with pytest.raises((ValueError, TypeError), match=said):
            call()


def test_what_numbers_will_not_do_is_said() -> None:
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)).eval(), torch.rand(16, 8)
    for scale in (1e-60, 1e60, 1e-40):
        scaled = copy.deepcopy(network).double()
        with torch.no_grad():
            for each in scaled[0].parameters():
                each *= scale
        with pytest.raises(ValueError, match=r"threshold of 1 \(ReLU.* would be .*e[+-]\d+, beyond float32"):
            rb.convert(scaled, [x.double()])
    larger = copy.deepcopy(network)
    larger[0].weight.data *= 100
    with pytest.raises(ValueError, match=r"1 \(ReLU.* gives values that are not finite"):
        rb.convert(larger, [x, x * 3e38])
    spoilt = copy.deepcopy(network)
    spoilt[2].bias.data[0] = torch.nan
    with pytest.raises(ValueError, match="Sequential gives values that are not finite"):
        rb.convert(spoilt, [x])
    everywhere, sizes = nn.Sequential(nn.Conv2d(1, 3, 1), nn.ReLU()), [torch.rand(2, 1, n, n) for n in (6, 4)]
    with pytest.raises(ValueError, match=r"images must be of one size, got \[1, ., .\] and \[1, ., .\]"):
        rb.convert(everywhere, sizes, "calibrated")


def test_one_sample_whose_outputs_have_places_and_an_input_that_is_changed_in_place() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv1d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv1d(4, 3, 1)).eval()
    x = torch.rand(1, 2, 8)
    assert rb.readout(rb.convert(network, [x], steps=256)(x).flatten(2)).sub(network(x).flatten(1)).abs().max() < 0.05
    first, y = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(16, 8)
    before = y.clone()
    rb.convert(first, [y], steps=4)
    assert torch.equal(y, before)


class Tricky(nn.Module):
    """What is read in evaluation mode is not what it does elsewhere: outside a trace it does something else."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.act = nn.Linear(64, 10), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.fc(x.flatten(1)))
        return y * 2 if type(x) is Tensor else y


def test_a_network_that_is_not_what_was_read_is_refused() -> None:
    with pytest.raises(RuntimeError, match="Tricky was not understood"):
        rb.convert(Tricky(), [images()])
    with pytest.raises(RuntimeError, match=r"what it gives: torch.bfloat16 rounds too much to tell, take .float()"):
        rb.convert(Tricky().bfloat16(), [images().bfloat16()])


@torch.no_grad()
def test_what_never_fires_is_told() -> None:
    silent = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 2))
    silent[1].bias.fill_(-100.0)
    net = rb.convert(silent, [images()])
    assert net.layers[0].rate == 0
    assert math.isnan(net.layers[0].error)
    torch.testing.assert_close(rb.readout(net(images())), silent(images()))


def test_six_is_the_most_of_relu6() -> None:
    ann = nn.Sequential(nn.Flatten(), nn.Linear(64, 30), nn.ReLU6(), nn.Linear(30, 10))
    randomized(ann)
    with torch.no_grad():
        ann[1].weight.mul_(12)
    net = rb.convert(ann, [images(20)], Percentile(percentile=100))
    assert net.layers[0].threshold == 6
    with torch.no_grad():
        assert away(net, images(20), ann(images(20)), 1024) < 0.01
    graph, _ = folded(read(ann))
    assert build(graph, Choices("soft", {"2": 3.0})).flow.get_submodule("2").threshold == 3

"""Gain and depth, told before there is a net, against nets that a probe looks into."""

import math
import statistics
import time
from itertools import pairwise

import pytest
import torch

import rheobase as rb
from rheobase.signal.field import Stack, down, up
from rheobase.signal.predict import critical, depth, gain, likeness, reached
from tests.signal.test_field import measured
from tests.signal.test_tune import Tower, Wide


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def probed(neuron: rb.LIF, steps: int, layers: int = 20) -> tuple[list[float], list[float]]:
    """Gains, and correlations over time, of a deep random convnet, by a probe."""
    model = Tower(layers, steps, neuron, width=24)
    report = rb.probe(model, torch.randn(32, 1, 8, 8), torch.arange(32) % 10, preset="quick")
    assert min(layer.rate for layer in report.layers) > 0.05
    return [layer.gain or 0.0 for layer in report.layers[:-1]], [layer.r or 0.0 for layer in report.layers[:-1]]


@pytest.mark.parametrize("width", [0.6, 1.0, 1.8])
@pytest.mark.parametrize("reset", ["soft", "hard"])
@pytest.mark.parametrize(("decay", "steps", "error"), [(0.5, 1, 0.1), (0.5, 4, 0.15), (0.5, 10, 0.15), (1.0, 4, 0.2)])
def test_predicted_gain_is_probed_gain(decay: float, steps: int, error: float, reset: str, width: float) -> None:
    neuron = rb.LIF(decay, reset=reset, surrogate=rb.surrogate.SuperSpike(1.5).stretched(width))
    gains, correlations = probed(neuron, steps)
    stack = Stack(neuron, steps, blocks=19, samples=32 * 64)
    sizes = [each.size for each in down(stack, up(stack))]
    ratios = [predicted / gain for predicted, gain in zip([a / b for a, b in pairwise(sizes)], gains, strict=True)]
    assert statistics.median(ratios) == pytest.approx(1, abs=error)
    if decay < 1:  # of a leaky neuron how the gradient is correlated with the next step tells enough
        middle = slice(6, 16)
        found, r = statistics.median(gains[middle]), statistics.median(correlations[middle])
        assert gain(neuron, steps, r, samples=32 * 64) == pytest.approx(found, rel=error)


@pytest.mark.parametrize(("surrogate", "steps"), [(rb.surrogate.SuperSpike(5.0), 1), (rb.surrogate.ATan(2.0), 4)])
def test_the_critical_width_has_a_gain_of_one(surrogate: rb.surrogate.Surrogate, steps: int) -> None:
    begin = time.perf_counter()
    found = critical(surrogate, steps, r=0.5)
    assert time.perf_counter() - begin < 10, "it is to be quick (a second on an idle machine)"
    assert gain(rb.LIF(surrogate=found), steps, r=0.5) == pytest.approx(1, abs=0.01)
    assert type(found) is type(surrogate)


def test_at_one_step_it_is_the_known_number() -> None:
    """Gaussian potentials at threshold 1: sqrt(E[h^2] / (p (1 - p))) is 1.0005 for SuperSpike(1.16)."""
    found = gain(rb.LIF(surrogate=rb.surrogate.SuperSpike(1.16)), 1, samples=4096)
    assert found == pytest.approx(1.0005, abs=0.05)


def test_a_correlated_gradient_gains_more() -> None:
    for neuron in (rb.LIF(), rb.IF()):
        gains = [gain(neuron, 10, r) for r in (0.0, 0.5, 1.0)]
        assert gains == sorted(gains)
        assert gains[-1] > 1.2 * gains[0]
    assert gain(rb.LIF(), 1, 0.0) == gain(rb.LIF(), 1, 1.0)


def test_the_way_past_a_classic_block_counts() -> None:
    assert gain(rb.LIF(), 4, junction="classic") > gain(rb.LIF(), 4) / 2**0.5
    with pytest.raises(ValueError, match="no width of ATan.* has a gain of 1"):
        critical(rb.surrogate.ATan(2.0, height=40.0), 4, junction="classic")


@pytest.mark.parametrize("orthogonal", [False, True])
@pytest.mark.parametrize(
    ("neuron", "steps"), [(rb.LIF(), 1), (rb.LIF(), 4), (rb.LIF(), 10), (rb.IF(), 4), (rb.IF(), 10)]
)
def test_information_gets_as_deep_as_predicted(neuron: rb.LIF, steps: int, orthogonal: bool) -> None:
    predicted = depth(Stack(neuron, steps, blocks=24))
    report = rb.probe(Wide(24, steps, neuron, orthogonal), torch.randn(64, 256), torch.arange(64) % 10)
    seen = reached([layer.noisy or 0.0 for layer in report.layers], 0.05)
    assert 4 < seen < 20
    assert predicted / 1.5 < seen < predicted * 1.5


@pytest.mark.parametrize("junction", ["classic", "sew", "ms"])
def test_also_in_a_residual_net(junction: str) -> None:
    """There what two views have in common falls slowly, so that half of it is the better mark."""
    least = 0.05 if junction == "classic" else 0.5
    stack = Stack(rb.LIF(), 4, blocks=24, layers=2, junction=junction)  # type: ignore[arg-type]
    predicted, seen = depth(stack, least), reached(measured(stack)[0], least)
    assert 4 < seen < 20
    assert predicted / 1.5 < seen < predicted * 1.5


def test_identity_keeps_information() -> None:
    assert depth(Stack(rb.LIF(), 4, blocks=40)) < 15
    assert depth(Stack(rb.LIF(), 4, blocks=40, identity=0.1)) == math.inf
    assert depth(Stack(rb.LIF(), 4, blocks=20, layers=2, junction="ms", gain=0.0)) == math.inf


def fires_alike(likeness: float, draws: int = 1 << 20) -> float:
    """Correlation of whether two standard normal numbers that correlate so are at least 1."""
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, draws, generator=generator)
    fired = torch.stack([a, likeness * a + (1 - likeness**2) ** 0.5 * b]) >= 1
    return float(torch.corrcoef(fired.float())[0, 1])


def test_the_map_of_one_step_is_that_of_two_normal_numbers_and_a_threshold() -> None:
    """Normed currents with threshold 1; about 0 its slope is phi(1)^2 / (p (1 - p)) = .44."""
    found = likeness(Stack(rb.LIF(), 1, blocks=20))
    for below, above in zip(found.below, found.above, strict=True):
        assert above == pytest.approx(fires_alike(below), abs=0.06)
    assert max(found.below) > 0.6
    assert found.fixed == pytest.approx(0, abs=0.05)
    assert found.slope == pytest.approx(0.5, abs=0.1)  # it bends upwards


def test_with_more_steps_an_input_is_forgotten_more_slowly() -> None:
    slopes = [likeness(Stack(rb.LIF(), steps, blocks=30)).slope for steps in (1, 4, 10)]
    assert slopes == sorted(slopes)
    assert slopes[-1] > slopes[0] + 0.1


def test_the_map_is_that_of_a_real_net() -> None:
    found = likeness(Stack(rb.LIF(), 4, blocks=30))
    report = rb.probe(Wide(12, 4, rb.LIF(), False), torch.randn(64, 256), torch.arange(64) % 10)
    seen = [layer.noisy or 0.0 for layer in report.layers]
    assert 0.05 < seen[6] < seen[1] < 0.95
    for below, above in pairwise(seen[1:9]):
        nearest = min(zip(found.below, found.above, strict=True), key=lambda pair: abs(pair[0] - below))
        assert above - below == pytest.approx(nearest[1] - nearest[0], abs=0.09)


def test_a_map_without_an_end_is_told() -> None:
    with pytest.raises(ValueError, match="likeness: the stack must have at least 10 blocks, got 9"):
        likeness(Stack(rb.LIF(), 4, blocks=9))
    with pytest.raises(ValueError, match="30 blocks are not enough: two views are alike by 0.9. behind them"):
        likeness(Stack(rb.LIF(), 4, blocks=30, identity=0.1))


def test_bad_input_is_told() -> None:
    with pytest.raises(ValueError, match="gain: junction must be 'none' or 'classic', got 'sew'"):
        gain(rb.LIF(), 4, junction="sew")
    with pytest.raises(ValueError, match=r"gain: r must be in \[-1, 1\], got 2"):
        gain(rb.LIF(), 4, r=2)
    with pytest.raises(ValueError, match="the gain is known of LIF and IF"):
        gain(rb.LIF(reset="delayed"), 4)


def test_a_stack_of_what_is_not_known_and_neurons_that_never_fire_are_told() -> None:
    for options, told in (
        ({"junction": "classics"}, "junction must be one of none, classic, sew, ms, got 'classics'"),
        ({"steps": 0}, "steps must be a whole number, at least 1, got 0"),
        ({"steps": 2.5}, "steps must be a whole number, at least 1, got 2.5"),
        ({"layers": 0}, "layers must be a whole number, at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=told):
            Stack(rb.LIF(), **options)  # type: ignore[arg-type]
    for call in (lambda n: gain(n, 4), lambda n: depth(Stack(n))):
        with pytest.raises(ValueError, match="the neurons all do the same, whatever they hear: none ever fires"):
            call(rb.LIF(threshold=50.0))

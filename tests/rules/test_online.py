"""The method as it is written, each equation by brute force in float64."""

import math
from typing import Any

import numpy as np
import pytest
import torch

import rheobase as rb
from rheobase.rules.online import Online, Settings, poisson, pull

FEW: dict[str, Any] = {"step": 0.25, "duration": 40.0, "alpha": (2.0, 1.5), "penalty": 0.0, "balance": 0.0}


def events(net: Online, seed: int = 0, rate: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    image = np.random.default_rng(seed).random(len(net.weights[0]))
    return poisson(image, net.settings, rate, seed)


def excited(sizes: list[int], settings: Settings) -> Online:
    """A net with more excitation than inhibition, so that all its layers fire."""
    net = Online(sizes, settings, seed=1)
    for w in net.weights:
        w += 0.15
    return net


def dense(net: Online, times: np.ndarray, places: np.ndarray) -> torch.Tensor:
    x = torch.zeros(net.settings.steps, 1, len(net.weights[0]), dtype=torch.float64)
    for t, k in zip(times, places, strict=True):
        x[t, 0, k] += 1
    return x


@pytest.mark.parametrize("kappa", [(0.0, 0.0), (-0.4, 0.0), (-0.4, -0.3)])
@pytest.mark.parametrize("refractory", [0.0, 1.0, 4.0])
def test_events_do_what_the_neuron_does_on_the_grid(kappa: tuple[float, float], refractory: float) -> None:
    """`present` against rb.LateralLIF by its definition, layer by layer, at every step of the grid."""
    settings = Settings(**FEW, kappa=kappa, refractory=refractory)
    net = excited([12, 9, 7, 5], settings)
    times, places = events(net, rate=3.0)
    shown, s = net.present(times, places), dense(net, times, places)
    decay = math.exp(-settings.step / settings.tau)
    assert len(times) > 100
    for layer, (w, th) in enumerate(zip(net.weights, net.thresholds, strict=True)):
        neuron = rb.LateralLIF(kappa[layer == 2], refractory / settings.step, torch.tensor(decay), torch.from_numpy(th))
        neuron = neuron.double()
        neuron.decay, neuron.threshold = torch.tensor(decay, dtype=torch.float64), torch.from_numpy(th)
        with rb.engine("reference"):
            s = neuron(s @ torch.from_numpy(w))
        assert s.sum() > (5 if refractory < 4 else 1)
        assert shown.counts[layer + 1].tolist() == s.sum((0, 1)).tolist()
        powers = decay ** torch.arange(settings.steps, 0, -1, dtype=torch.float64)
        torch.testing.assert_close(torch.from_numpy(shown.traces[layer + 1]), (s * powers[:, None, None]).sum((0, 1)))


def by_the_paper(w: np.ndarray, th: float, arrivals: list[tuple[float, int]], s: Settings) -> tuple[list[float], float]:
    """One neuron alone, equations (1) to (3) as they stand: one input spike after the other."""
    v, before, out, spikes = 0.0, 0.0, -math.inf, []
    for t, i in arrivals:
        gain = ((t - out) / s.refractory) ** 2 if t - out < s.refractory else 1.0
        v = max(v * math.exp((before - t) / s.tau) + w[i] * gain, -th)
        before = t
        if v >= th:
            v -= th
            out = t
            spikes.append(t)
    return spikes, sum(math.exp((t - s.duration) / s.tau) for t in spikes)


def test_one_event_at_a_time_is_the_papers_neuron() -> None:
    settings = Settings(**FEW | {"step": 0.01}, kappa=(0.0, 0.0), refractory=3.0)
    net = Online([6, 1], settings, seed=2)
    net.weights[0][:] = np.abs(net.weights[0])
    net.weights[0][0] *= -2
    times, places = events(net, rate=1.0)
    first = np.unique(times, return_index=True)[1]
    times, places = times[first], places[first]
    arrivals = [(t * settings.step, int(k)) for t, k in zip(times, places, strict=True)]
    spikes, trace = by_the_paper(net.weights[0][:, 0], float(net.thresholds[0][0]), arrivals, settings)
    shown = net.present(times, places)
    assert shown.counts[1].tolist() == [len(spikes)]
    assert len(spikes) > 3
    assert shown.traces[1][0] == pytest.approx(trace, rel=1e-12)
    assert shown.traces[0] == pytest.approx(
        [sum(math.exp((t - settings.duration) / settings.tau) for t, k in arrivals if k == i) for i in range(6)]
    )


def test_the_beginning() -> None:
    """Equation (11): sum of squares 1 on average, thresholds alpha times the bound."""
    net = Online([300, 200, 10], Settings(alpha=(4.0, 2.0)))
    for w, th, alpha in zip(net.weights, net.thresholds, (4, 2), strict=True):
        bound = math.sqrt(3 / len(w))
        assert 0.9 * bound < np.abs(w).max() <= bound
        assert np.square(w).sum(0).mean() == pytest.approx(1, abs=0.03)
        assert np.unique(th) == pytest.approx([alpha * bound])


def test_threshold_regularisation_keeps_the_mean_and_evens_out() -> None:
    """N_w of N fire: each of them gains rho N, all lose rho N_w; by hand for the whole layer, spike by spike."""
    settings = Settings(**FEW | {"balance": 1e-3}, kappa=(0.0, 0.0))
    net, still = excited([12, 8], settings), excited([12, 8], Settings(**FEW, kappa=(0.0, 0.0)))
    before = net.thresholds[0].copy()
    shown = net.present(*events(net), learning=True)
    counts = shown.counts[1]
    assert counts.sum() > 10
    want = before + 1e-3 * (8 * counts - counts.sum())
    assert net.thresholds[0] == pytest.approx(want, abs=1e-15)
    assert net.thresholds[0].mean() == pytest.approx(before.mean(), abs=1e-15)
    still.present(*events(still), learning=True)
    assert np.array_equal(still.thresholds[0], before)
    after = net.thresholds[0].copy()
    net.present(*events(net))
    assert np.array_equal(net.thresholds[0], after), "not without learning"


def test_at_the_least_threshold_weights_rise_instead() -> None:
    """What a threshold cannot lose any more, every weight of its neuron gains: their difference moves as before."""
    settings = Settings(**FEW | {"balance": 5e-3}, least=0.9, kappa=(0.0, 0.0))
    net = excited([12, 8], settings)
    net.weights[0][:, 0] = -2.0  # never fires
    shown = net.present(*events(net), learning=True)
    spikes, least, start = shown.counts[1].sum(), net._least, 1.5 * math.sqrt(3 / 12)
    assert spikes > 20
    assert shown.counts[1][0] == 0
    assert net.thresholds[0][0] == least == 0.9 * start
    assert net.weights[0][:, 0] == pytest.approx(-2 + (least - start) + 5e-3 * spikes)


def shown_and_net() -> tuple[Any, Online]:
    settings = Settings(**FEW, kappa=(-0.4, -0.3))
    net = excited([12, 9, 7, 5], settings)
    for th in net.thresholds:
        th *= np.linspace(0.5, 1.5, len(th))
    return net.present(*events(net)), net


def test_errors_by_the_equation() -> None:
    """Equation (12), written with sums over active indices."""
    shown, net = shown_and_net()
    deltas = net.errors(shown, 3)
    o = [c / max(shown.counts[-1]) for c in shown.counts[-1]]
    assert deltas[-1].tolist() == pytest.approx([o[i] - (i == 3) for i in range(5)])
    for layer in (1, 0):
        w, th, counts = net.weights[layer + 1], net.thresholds[layer], shown.counts[layer + 1]
        active = [i for i in range(len(th)) if counts[i]]
        assert len(active) > 1
        g_bar = math.sqrt(sum(1 / th[i] ** 2 for i in active) / len(active))
        for i in range(len(th)):
            want = 0.0
            if i in active:
                total = sum(w[i, j] * deltas[layer + 1][j] for j in range(w.shape[1]))
                want = 1 / th[i] / g_bar * math.sqrt(len(th) / len(active)) * total
            assert deltas[layer][i] == pytest.approx(want, abs=1e-12)
    assert any((shown.counts[k + 1] == 0).any() for k in (0, 1)), "some were silent"


def test_updates_by_the_equation() -> None:
    """Equation (13), and the exponential regularisation of hidden layers alone."""
    shown, net = shown_and_net()
    settings = Settings(**FEW | {"penalty": 0.01}, kappa=(-0.4, -0.3), steepness=2.0, rate=0.1, threshold_rate=0.01)
    net.settings = settings
    deltas, before = (
        net.errors(shown, 3),
        [(w.copy(), th.copy()) for w, th in zip(net.weights, net.thresholds, strict=True)],
    )
    net.learn(shown, 3, share=0.5)
    for layer, (w, th) in enumerate(before):
        (m_all, n_all), x, a = w.shape, shown.traces[layer], shown.traces[layer + 1]
        m = sum(shown.counts[layer] > 0)
        kappa = (-0.4, -0.4, -0.3)[layer]
        for i in range(n_all):
            squares = sum(w[j, i] ** 2 for j in range(m_all))
            for j in range(m_all):
                want = w[j, i] - 0.05 * math.sqrt(n_all / m) * deltas[layer][i] * x[j]
                if layer < 2:
                    want -= 0.05 * 0.01 * 2.0 * w[j, i] * math.exp(2.0 * (squares - 1))
                assert net.weights[layer][j, i] == pytest.approx(want, abs=1e-12)
            taken = -a[i] + 0.5 * kappa * sum(a[h] for h in range(n_all) if h != i)
            want = th[i] - 0.005 * math.sqrt(n_all / (m * m_all)) * deltas[layer][i] * taken
            assert net.thresholds[layer][i] == pytest.approx(max(want, net._least), abs=1e-12)
    assert sum((t == net._least).sum() for t in net.thresholds) < 3


def test_the_regularisation_does_not_overflow() -> None:
    w = np.random.default_rng(0).normal(size=(50, 3)) * [0.1, 1, 40]
    found = pull(w, 10.0)
    assert np.isfinite(found).all()
    assert (np.sign(found) == np.sign(w)).all()
    small = w[:, :1]
    h = 1e-6 * np.eye(50)[:, :1]
    ends = [0.5 * np.exp(10 * (np.square(small + s * h).sum() - 1)) for s in (1, -1)]
    assert found[0, 0] == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6)


def test_silent_outputs_learn_to_fire() -> None:
    net = Online([12, 8, 3], Settings(**FEW | {"alpha": (2.0, 40.0)}, rate=0.02, threshold_rate=0.002), seed=1)
    first = net.present(*events(net))
    assert first.counts[1].sum() > 0
    assert first.counts[2].sum() == 0
    for _ in range(100):
        shown = net.present(*events(net), learning=True)
        net.learn(shown, 1)
    assert net.answer(shown) == 1
    assert shown.counts[2][1] > 0


def test_it_learns_digits() -> None:
    data = rb.data.load("digits")
    images, labels = data.train.inputs.flatten(1).numpy() / data.train.inputs.max().item(), data.train.labels.numpy()
    settings = Settings(
        step=0.5, duration=30, alpha=(3.0, 3.0), kappa=(0.0, 0.0), penalty=0.0, balance=0.0, rate=0.002,
        threshold_rate=0.0002,
    )  # fmt: skip
    net, right = Online([64, 60, 10], settings), []
    for step in range(4000):
        i = step % len(images)
        shown = net.present(*poisson(images[i], settings, 1.0, step), learning=True)
        right.append(net.answer(shown) == labels[i])
        net.learn(shown, int(labels[i]), share=1 - step / 4000)
    assert np.mean(right[:200]) < 0.5
    assert np.mean(right[-500:]) > 0.8


def test_poisson_events_have_the_rate_and_are_a_function_of_the_seed() -> None:
    settings, image = Settings(duration=100.0), np.array([[0.0, 0.5], [1.0, 0.25]])
    many = [poisson(image, settings, 0.4, seed) for seed in range(200)]
    counts = np.array([np.bincount(places, minlength=4) for _, places in many])
    assert counts.mean(0) == pytest.approx([0, 20, 40, 10], rel=0.05)
    assert counts.var(0)[1:] == pytest.approx([20, 40, 10], rel=0.3)
    assert all((np.diff(times) >= 0).all() and times.max() < settings.steps for times, _ in many)
    again = poisson(image, settings, 0.4, 7)
    assert all(map(np.array_equal, again, many[7]))


@pytest.mark.parametrize(
    ("times", "places"), [([3, 2], [0, 1]), ([0, 160], [0, 1]), ([-1], [0]), ([0], [12]), ([0], [-1])]
)
def test_events_that_cannot_be(times: list[int], places: list[int]) -> None:
    net = Online([12, 3], Settings(**FEW))
    with pytest.raises(ValueError, match="events must be sorted, within 160 steps and 12 inputs"):
        net.present(np.array(times), np.array(places))
    with pytest.raises(ValueError, match=r"sizes must be of the input and of a layer at least, got \[4\]"):
        Online([4])


def test_no_event_is_no_spike() -> None:
    net = Online([12, 3], Settings(**FEW))
    shown = net.present(np.array([], np.int64), np.array([], np.int64))
    assert not shown.counts[1].any()
    net.learn(shown, 1)
    assert all(np.isfinite(w).all() for w in net.weights)

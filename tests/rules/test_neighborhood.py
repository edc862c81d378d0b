"""The rule against neurons simulated again by brute force, in float64; its kernel against that."""

import math

import pytest
import torch
from torch import Tensor, nn

import rheobase as rb
from rheobase.kernels.spec import Spec
from rheobase.rules import Neighborhood
from rheobase.rules.waveforms import added, aggregated, charged, difference, distance, just_below

D = torch.float64
FREE = 1e30  # no clip


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def simulated(neuron: rb.LIF, x: list[float], turned: int | None = None) -> tuple[list[float], list[float]]:
    """Potentials and spikes of one neuron, written out; at step `turned` it is at its threshold and does the other."""
    i, v, us, spikes = 0.0, 0.0, [], []
    for t, current in enumerate(x):
        i = float(getattr(neuron, "current_decay", 0.0)) * i + current
        u = float(neuron.decay) * v + float(neuron.input_scale) * i
        fires = u >= float(neuron.threshold)
        if t == turned:
            u, fires = float(neuron.threshold), not fires
        us.append(u)
        spikes.append(float(fires))
        v = u
        if fires and neuron.reset != "none":
            v = 0.0 if neuron.reset == "hard" else u - float(neuron.threshold)
    return us, spikes


def brute(neuron: rb.LIF, rule: Neighborhood, x: list[float], g: list[float]) -> list[float]:
    """The gradient of one neuron's currents."""
    leak, threshold = float(getattr(neuron, "current_decay", 0.0)), float(neuron.threshold)
    us, spikes = simulated(neuron, x)
    of_charge = []
    for t, u in enumerate(us):
        change = [b - a for a, b in zip(spikes, simulated(neuron, x, t)[1], strict=True)]
        assert not any(change[:t])
        if rule.twice:
            for k in range(1, len(change)):
                change[k] += leak * change[k - 1]
        factor = min(1 / abs(threshold - u) ** rule.power, rule.clip) * (-1 if u >= threshold else 1)
        of_charge.append(sum(map(math.prod, zip(g, change, strict=True))) * factor)
    # charge[k] = input_scale (sum over t <= k of leak^(k - t) x[t])
    steps = range(len(x))
    return [float(neuron.input_scale) * sum(leak ** (k - t) * of_charge[k] for k in steps if k >= t) for t in steps]


def made(kind: str, reset: str) -> rb.LIF:
    if kind == "IF":
        return rb.IF(0.8, reset=reset, input_scale=0.7)
    if kind == "LIF":
        return rb.LIF(0.8, 0.8, reset=reset, input_scale=0.7)
    return rb.CubaLIF(0.6, 0.8, 0.8, reset=reset, input_scale=0.7)


RULES = [
    ("LIF", Neighborhood()),
    ("IF", Neighborhood(2.0, FREE)),
    ("CubaLIF", Neighborhood()),
    ("CubaLIF", Neighborhood.published()),
]


@pytest.mark.parametrize("reset", ["soft", "hard", "none"])
@pytest.mark.parametrize(("kind", "rule"), RULES)
def test_as_by_brute_force(kind: str, reset: str, rule: Neighborhood) -> None:
    neuron = made(kind, reset).double()
    x, g = torch.randn(9, 2, 3, dtype=D, requires_grad=True), torch.randn(9, 2, 3, dtype=D)
    neuron.rule = rule
    with rb.engine("reference"):
        spikes = neuron(x + 0.5)
    spikes.backward(g)
    assert 0.05 < spikes.mean() < 0.9
    want = torch.empty_like(g)
    for b in range(2):
        for n in range(3):
            want[:, b, n] = torch.tensor(brute(neuron, rule, (x[:, b, n] + 0.5).tolist(), g[:, b, n].tolist()))
    torch.testing.assert_close(x.grad, want)


def fitted(neuron: rb.LIF, x: Tensor) -> Spec:
    return neuron.spec().fitted(x[0])


@pytest.mark.parametrize("reset", ["soft", "hard", "none"])
def test_addition_and_difference_are_inverse(reset: str) -> None:
    neuron, x = made("CubaLIF", reset).double(), torch.randn(12, 3, 4, dtype=D)
    spec = fitted(neuron, x)
    charge, eps, v = charged(spec, x), 0.7 * torch.randn(12, 3, 4, dtype=D), torch.rand(3, 4, dtype=D)
    own, spikes = added(spec, charge, torch.zeros_like(eps), v)
    other, fired = added(spec, charge, eps, v)
    assert 0.05 < spikes.mean() < 0.9
    assert (spikes != fired).double().mean() > 0.05
    torch.testing.assert_close(difference(spec, charge, other, v), eps)
    torch.testing.assert_close(added(spec, charge, difference(spec, charge, own + eps, v), v)[0], own + eps)
    torch.testing.assert_close(distance(spec, charge, other, v), eps.square().sum(0).sqrt())
    assert distance(spec, charge, own, v).max() < 1e-14
    with rb.engine("reference"):  # what is added to nothing is the neuron itself
        want = neuron.run(x, (torch.zeros_like(v), v))[0]
    assert torch.equal(spikes, want)


@pytest.mark.parametrize("reset", ["soft", "hard", "none"])
def test_it_is_the_aggregation_of_its_neighbours(reset: str) -> None:
    """Each neighbour is one perturbation away, and the pseudo-inverse of all of them gives what the rule gives."""
    neuron, x = made("LIF", reset).double(), torch.randn(7, 2, 5, dtype=D, requires_grad=True)
    spec, g = fitted(neuron, x), torch.randn(7, 2, 5, dtype=D)
    charge = charged(spec, x.detach())
    own, spikes = added(spec, charge, torch.zeros_like(charge))
    eps, change = [], []
    for t in range(7):
        other = torch.zeros_like(charge)
        to = torch.where(spikes[t] == 1, just_below(neuron.threshold), neuron.threshold)
        other[t] = (to - own[t]) * (1 + 1e-12)  # past what rounding takes
        _, fired = added(spec, charge, other)
        if t:
            assert torch.equal(fired[:t], spikes[:t])
        assert torch.equal(fired[t], 1 - spikes[t])
        eps.append(other)
        change.append((g * (fired - spikes)).sum(0))
    want = aggregated(torch.stack(eps), torch.stack(change))
    neuron.rule = Neighborhood(clip=FREE)
    neuron(x).backward(g)
    torch.testing.assert_close(x.grad, want * 0.7)


def test_aggregation_of_any_neighbours_is_least_squares() -> None:
    gradient, eps = torch.randn(6, 3, dtype=D), torch.randn(8, 6, 3, dtype=D)
    change = (eps * gradient).sum(1)
    torch.testing.assert_close(aggregated(eps, change), gradient)  # more neighbours than steps, all of one mind
    few = aggregated(eps[:4], change[:4])  # fewer: the shortest gradient that has their changes
    torch.testing.assert_close((eps[:4] * few).sum(1), change[:4])
    assert (few.norm(dim=0) < gradient.norm(dim=0)).all()


def vary(neuron: rb.LIF, each: tuple[int, ...]) -> None:
    """Give it numbers of this shape."""
    neuron.threshold, neuron.decay = 0.5 + torch.rand(each), 0.5 + 0.4 * torch.rand(each)
    neuron.input_scale = 0.4 + 0.6 * torch.rand(each)
    if isinstance(neuron, rb.CubaLIF):
        neuron.current_decay = 0.3 + 0.4 * torch.rand(each)


CASES = [
    ("CubaLIF", "hard", (), torch.float32, Neighborhood()),
    ("CubaLIF", "hard", (4,), torch.bfloat16, Neighborhood.published()),
    ("LIF", "soft", (4, 3, 3), torch.float32, Neighborhood(2.0, FREE)),
    ("LIF", "none", (4,), torch.float32, Neighborhood()),
    ("CubaLIF", "none", (4, 3, 3), torch.float32, Neighborhood(3.0, 5.0, twice=True)),
    ("LIF", "none", (4,), torch.float32, Neighborhood(1.5)),  # (which is left to the definition)
]


@pytest.mark.parametrize(("kind", "reset", "each", "dtype", "rule"), CASES)
def test_the_kernel_is_the_definition(
    kind: str, reset: str, each: tuple[int, ...], dtype: torch.dtype, rule: Neighborhood
) -> None:
    """On odd sizes, static inputs, channels-last memory, numbers of every shape, and from a state."""
    neuron = made(kind, reset)
    neuron.rule = rule
    vary(neuron, each)
    images = torch.randn(35, 4, 3, 3).contiguous(memory_format=torch.channels_last).unflatten(0, (7, 5))
    static = torch.rand(1, 5, 4, 3, 3).add(0.3).expand(7, -1, -1, -1, -1)
    for x in (images, static, torch.randn(20, 370, 4, 3, 3) if not each else images[:1]):
        x = x.to(dtype).requires_grad_()
        g, found = torch.randn(x.shape).to(dtype), {}
        v = torch.rand(x.shape[1:])
        for engine in ("reference", "numba"):
            with rb.engine(engine):
                spikes, _ = neuron.run(x, v if kind == "LIF" else (0.2 * v, v))
                found[engine] = spikes, torch.autograd.grad(spikes, x, g)[0]
        assert 0.05 < found["numba"][0].mean() < 0.95
        assert torch.equal(*(each[0] for each in found.values()))
        near = {"rtol": 0.02, "atol": 0.02} if dtype is torch.bfloat16 else {"rtol": 1e-3, "atol": 1e-4}
        torch.testing.assert_close(found["numba"][1], found["reference"][1], **near)
        assert found["numba"][1].dtype is dtype


@pytest.mark.parametrize("engine", ["reference", "numba"])
def test_samples_do_not_know_each_other(engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is its samples, padding what it is without: nothing. And few samples at a time are all of them."""
    monkeypatch.setattr("rheobase.rules.neighborhood.ELEMENTS", 64)
    neuron, x, g = made("CubaLIF", "hard"), torch.randn(8, 5, 6) + 0.3, torch.randn(8, 5, 6)
    neuron.rule = Neighborhood()

    def gradient(x: Tensor, g: Tensor) -> Tensor:
        x = x.clone().requires_grad_()
        with rb.engine(engine):
            return torch.autograd.grad(neuron(x), x, g)[0]

    whole = gradient(x, g)
    for b in range(5):
        torch.testing.assert_close(whole[:, b], gradient(x[:, b : b + 1], g[:, b : b + 1])[:, 0])
    padded = g.clone()
    padded[6:, 0] = 0  # what a loss of real steps gives
    got = gradient(x, padded)
    assert not got[6:, 0].any()
    torch.testing.assert_close(got[:6, 0], gradient(x[:6, :1], g[:6, :1])[:, 0])


@pytest.mark.parametrize("engine", ["reference", "numba"])
@pytest.mark.parametrize("current", [-3.0, 0.0, 3.0])
def test_finite_where_none_or_all_fire(current: float, engine: str) -> None:
    neuron = rb.CubaLIF(0.5, 1.0, 0.8, "hard")
    neuron.rule = Neighborhood()
    x = torch.full((6, 2, 3), current, requires_grad=True)
    with rb.engine(engine):
        spikes = neuron(x)
    spikes.backward(torch.ones_like(spikes))
    assert spikes.mean() == (current > 0)
    assert x.grad.isfinite().all()
    assert x.grad.norm() > 0
    if not current:  # what fires once, without leak and input, fires once
        torch.testing.assert_close(x.grad[-1], torch.full((2, 3), 1 / 0.8))
        torch.testing.assert_close(x.grad[-2], torch.full((2, 3), 1.5 / 0.8))


@pytest.mark.parametrize("engine", ["reference", "numba"])
def test_who_just_missed_the_threshold_stays_below_it(engine: str) -> None:
    """Without leak and input a neighbour that does not fire at its step does not do so later."""
    neuron = rb.CubaLIF(0.0, 1.0, 0.8, "hard")
    neuron.rule = Neighborhood()
    x = torch.tensor([1.0, 0.0, 0.0]).view(3, 1, 1).requires_grad_()
    with rb.engine(engine):
        spikes = neuron(x)
    assert spikes.flatten().tolist() == [1, 0, 0]
    spikes.backward(torch.tensor([1.0, 10.0, 100.0]).view(3, 1, 1))
    torch.testing.assert_close(x.grad[0, 0, 0], torch.tensor(1 / 0.2))


@pytest.mark.parametrize("engine", ["reference", "numba"])
def test_at_the_threshold_the_factor_is_the_clip(engine: str) -> None:
    neuron = rb.CubaLIF(0.5, 0.5, 1.0, "hard")
    neuron.rule = Neighborhood(clip=7.0)
    x = torch.tensor([1.0, 0.25]).view(1, 1, 2).requires_grad_()
    with rb.engine(engine):
        neuron(x).sum().backward()
    torch.testing.assert_close(x.grad.flatten(), torch.tensor([7.0, 1 / 0.75]))


@pytest.mark.parametrize("engine", ["reference", "numba"])
def test_a_neighbour_that_just_reaches_the_threshold_fires(engine: str) -> None:
    """Reset at its first step, it comes to 1 in the second, where the neuron is at 1.125: both fire."""
    neuron = rb.LIF(0.5, 1.0, "hard")
    neuron.rule = Neighborhood()
    x = torch.tensor([0.25, 1.0]).view(2, 1, 1).requires_grad_()
    with rb.engine(engine):
        spikes = neuron(x)
    assert spikes.flatten().tolist() == [0, 1]
    spikes.backward(torch.tensor([3.0, 100.0]).view(2, 1, 1))
    torch.testing.assert_close(x.grad.flatten(), torch.tensor([3 / 0.75, 100 / 0.125]))


@pytest.mark.parametrize("kind", ["LIF", "CubaLIF"])
def test_more_neurons_than_a_block_with_numbers_of_their_own(kind: str) -> None:
    neuron, x, g, found = made(kind, "soft"), torch.randn(4, 3, 1601) + 0.4, torch.randn(4, 3, 1601), {}
    vary(neuron, (1601,))
    neuron.rule = Neighborhood()
    for engine in ("reference", "numba"):
        with rb.engine(engine):
            mine = x.clone().requires_grad_()
            spikes = neuron(mine)
            found[engine] = torch.autograd.grad(spikes, mine, g)[0]
    assert 0.05 < spikes.mean() < 0.95
    torch.testing.assert_close(found["numba"], found["reference"], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("engine", ["reference", "numba"])
def test_a_nan_shows(engine: str) -> None:
    neuron, x = made("CubaLIF", "hard"), torch.randn(5, 1, 2)
    neuron.rule = Neighborhood()
    x[3, 0, 1] = math.nan
    x.requires_grad_()
    with rb.engine(engine):
        spikes = neuron(x)
    spikes.backward(torch.ones_like(spikes))
    assert x.grad[:, 0, 1].isnan().all()
    assert x.grad[:, 0, 0].isfinite().all()


@pytest.mark.parametrize("plain", [True, False])
def test_a_neuron_learns_spike_trains(plain: bool) -> None:
    """Each of 10 tasks by a neuron of its own, 200 inputs, tau_m = 5, tau_s = 2; see docs/neighborhood.md."""
    steps, count = 20, 10
    lag = (torch.arange(steps)[:, None] - torch.arange(steps)).float()
    kernel = torch.where(lag < 0, 0, 0.5 * 0.5 ** lag.clamp(min=0))
    inputs, weights = (torch.rand(steps, count, 200) < 0.1).float(), 0.07 * torch.randn(count, 200)
    desired = kernel @ (torch.rand(steps, count) < 0.2).float()
    neuron = rb.LIF(0.8, reset="hard") if plain else rb.CubaLIF(0.5, 0.8, reset="hard", input_scale=0.5)
    neuron.rule = Neighborhood(twice=not plain)
    weights.requires_grad_()
    for _ in range(60):
        loss = 0.5 * (kernel @ neuron((inputs * weights).sum(2)) - desired).square().sum(0)
        (gradient,) = torch.autograd.grad(loss.sum(), weights)
        with torch.no_grad():
            weights -= 0.1 * gradient / gradient.norm(dim=1, keepdim=True).clamp(min=1e-12)
    assert (loss < 1e-6).sum() >= (9 if plain else 5)


@pytest.mark.parametrize(
    ("neuron", "message"),
    [
        (rb.AdaptiveLIF(), "it knows LIF, CubaLIF, whose memory of a spike is their potential, not AdaptiveLIF"),
        (rb.LateralLIF(), "not LateralLIF"),
        (rb.LIF(reset="delayed"), "a neighbour's potential must tell what it did .*got reset='delayed'"),
        (rb.LIF(learn="threshold"), r"no gradient of a neuron's numbers: learn=\(\) for it"),
    ],
)
def test_what_it_refuses(neuron: rb.LIF, message: str) -> None:
    neuron.rule = Neighborhood()
    with pytest.raises(ValueError, match=f"the rule 'neighborhood' .*{message}"):
        neuron(torch.rand(3, 2, 4))


def test_single_steps_and_recurrent_neurons_are_refused() -> None:
    neuron, x = rb.LIF(), torch.rand(2, 4, requires_grad=True)
    neuron.rule = Neighborhood()
    with pytest.raises(ValueError, match=r"the rule 'neighborhood' has no gradient of single steps: call .*\[2, 4\]"):
        neuron.step(x, neuron.initial_state(x))
    with pytest.raises(ValueError, match="has no gradient of single steps"):
        neuron.step(x.detach(), neuron.initial_state(x).detach().requires_grad_())
    learning = rb.LIF(0.5, learn=("decay",))
    learning.rule = rb.rules.Membrane()
    with pytest.raises(ValueError, match="the rule 'membrane' has no gradient of single steps"):
        learning.step(x.detach(), learning.initial_state(x).detach())
    neuron.step(x.detach(), neuron.initial_state(x).detach())
    with torch.no_grad():
        neuron.step(x, neuron.initial_state(x))
        learning.step(x, learning.initial_state(x))
    recurrent = rb.Recurrent(neuron, nn.Linear(4, 4))
    with pytest.raises(ValueError, match="the rule 'neighborhood' cannot be used here: .* recurrent neurons"):
        recurrent(torch.rand(3, 2, 4))
    with torch.no_grad():
        recurrent(torch.rand(3, 2, 4))


def test_refused_otherwise() -> None:
    neuron = rb.LIF()
    neuron.rule = Neighborhood.published()
    with pytest.raises(ValueError, match="twice=True is for CubaLIF, which has a synaptic filter, not LIF"):
        neuron(torch.rand(3, 2, 4))
    for options, message in (
        ({"power": 0.0}, "power must be positive and finite, got 0.0"),
        ({"clip": math.nan}, "clip must be"),
        ({"clip": math.inf}, "clip must be"),
    ):
        with pytest.raises(ValueError, match=message):
            Neighborhood(**options)
    spec = rb.CubaLIF().spec()
    spec = spec._replace(numbers=spec.numbers | {"refractory": torch.tensor(2.0)})
    assert "it knows CubaLIF without refractory" in str(Neighborhood().why_not(spec, torch.rand(3, 2, 4)))
    spec.numbers["refractory"] = torch.tensor(0.0)
    assert Neighborhood().why_not(spec, torch.rand(3, 2, 4)) is None


def test_a_net_learns_by_it() -> None:
    """One of the papers' convolutional nets, narrow, on made images; of its weights all move."""
    model = rb.models.create(
        "convnet", classes=3, in_channels=1, image_size=10, layers="4C3-P2-6C3-P2-20", steps=5, rule="neighborhood",
        neuron=rb.CubaLIF(0.5, 0.8, reset="hard", input_scale=0.5),
    )  # fmt: skip
    assert all(module.rule == Neighborhood() for module in model.modules() if isinstance(module, rb.LIF))
    images, labels = torch.randn(30, 1, 10, 10), torch.arange(30) % 3
    images += labels.view(-1, 1, 1, 1) * torch.randn(1, 1, 10, 10)
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=1e-2), []
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(20):
        loss = nn.functional.cross_entropy(rb.readout(model(images)), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    assert not any(map(torch.equal, before, model.parameters()))

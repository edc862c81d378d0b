"""The rule against its equations, pair by pair and by brute force in float64, and against what it must not need."""

import gc
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rheobase as rb
from rheobase.rules import SpikeTrain
from rheobase.rules.spike_train import Parts, first_order, growth, psp_ratios, responses, together
from rheobase.rules.spike_train_topology import Masked, grid

D = torch.float64
DECAY, CURRENT, SCALE = 0.9, 0.7, 0.3
RULE = SpikeTrain(coupling="exact")
STRONG = pytest.mark.filterwarnings("ignore:.*excite each other so strongly that the gradient")
"""For small nets of random weights."""
HALVES = Parts(
    torch.zeros(2, 2, 2), torch.ones(2, 2, dtype=D), torch.full((2, 2), 0.5, dtype=D), torch.zeros(2, 2).bool()
)
"""Of two neurons in two samples: errors 1, denominators 0.5."""


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def cuba(threshold: Any = 1.0, rule: SpikeTrain | None = RULE) -> rb.CubaLIF:
    neuron = rb.CubaLIF(CURRENT, DECAY, threshold, reset="hard", input_scale=SCALE).double()
    neuron.rule = rule
    return neuron


def number(value: float) -> Tensor:
    return torch.tensor(value, dtype=D)


def psps(before: Tensor, after: Tensor, current: float = CURRENT) -> Tensor:
    """e of all pairs of trains `[T, M]` and `[T, N]`, step by step as the paper has it, `[N, M]`."""
    p = torch.zeros(1, before.shape[1], dtype=D)
    q = e = torch.zeros(after.shape[1], before.shape[1], dtype=D)
    for s, fires in zip(before, after[:, :, None], strict=True):
        p = current * p + s
        q = DECAY * q + SCALE * p
        e, q = e + fires * q, (1 - fires) * q
    return e


def heard(spikes: Tensor) -> Tensor:
    """Those of the step before."""
    return torch.cat([torch.zeros_like(spikes[:1]), spikes[:-1]])


def slope(counts: Tensor, steps: int) -> Tensor:
    """df/dn by differences."""

    def f(n: Tensor) -> Tensor:
        return SCALE / (1 - CURRENT) * n / ((1 - DECAY) * steps + DECAY * (n + 1))

    return (f(counts + 1e-5) - f(counts - 1e-5)) / 2e-5


def poisson(steps: int, *shape: int, rate: float = 0.4) -> Tensor:
    return (torch.rand(steps, *shape) < rate).to(D)


class Net(nn.Module):
    """6 inputs, 5 neurons, 4 that hear each other."""

    def __init__(self, rule: SpikeTrain = RULE) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 5, False).double(), nn.Linear(5, 4, False).double()
        self.below, back = cuba(1.2, rule), nn.Linear(4, 4, False).double()
        self.above = rb.Recurrent(cuba(torch.rand(4) + 0.5, rule), back)
        for layer, shift, deviation in ((self.first, 0.3, 0.6), (self.second, 0.4, 0.6), (back, 0.0, 0.2)):
            nn.init.normal_(layer.weight, shift, deviation)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        below = self.below(self.first(x))
        return below, self.above(self.second(below))

    @property
    def weights(self) -> list[Tensor]:
        return [self.first.weight, self.second.weight, self.above.module.weight]


@pytest.mark.parametrize("kind", ["LIF", "CubaLIF"])
def test_psps_sum_to_the_potentials_at_the_spikes(kind: str) -> None:
    """sum_j w_ij e_ij = sum of u_i at the spikes of i, from pairs and from responses, recurrent spikes included."""
    current = CURRENT if kind == "CubaLIF" else 0.0
    neuron = cuba(rule=None) if kind == "CubaLIF" else rb.LIF(DECAY, reset="hard", input_scale=SCALE).double()
    net, x, w = (
        rb.Recurrent(neuron, nn.Linear(4, 4, False).double()),
        poisson(40, 1, 6),
        torch.randn(4, 6, dtype=D) + 0.5,
    )
    with torch.no_grad(), rb.engine("reference"):
        ran = net._ran(x @ w.t(), None, watch=True)
    spikes = ran.outputs[:, 0]
    assert 0.1 < spikes.mean() < 0.8
    want = (ran.potentials[:, 0] * spikes).sum(0)
    inputs, r = torch.cat([x[:, 0], heard(spikes)], 1), torch.cat([w, net.module.weight.detach()], 1)
    e = psps(inputs, spikes, current=current)
    torch.testing.assert_close((r * e).sum(1), want, rtol=0, atol=1e-10)
    b = responses(spikes, number(DECAY), number(current), number(SCALE))
    torch.testing.assert_close(b.t() @ inputs, e, rtol=0, atol=1e-10)


def by_hand(net: Net, x: Tensor, g: Tensor, rule: SpikeTrain) -> list[Tensor]:
    """Gradients of one sample by the paper's equations, with dense inverses: of the three weights."""
    with torch.no_grad():
        below, above = (s[:, 0] for s in net(x))
    (w, v, r), x, again = [p.detach() for p in net.weights], x[:, 0], heard(above)
    low, high = number(1.2), net.above.neuron.threshold
    steps, counts, tops = len(x), below.sum(0), above.sum(0)
    e_low, e_high, e_back = psps(x, below), psps(below, above), psps(again, above)
    s_low, s_high = torch.ones(5, dtype=D), torch.ones(4, dtype=D)
    if rule.self_consistent:
        s_low = 1 - slope(counts, steps) * (w @ x.sum(0)) / low
        s_high = 1 - slope(tops, steps) * (v @ counts + r @ again.sum(0)) / high
        assert min(s_low[counts > 0].min(), s_high[tops > 0].min()) > rule.floor
    omega, theta = torch.diag(s_high), r * e_back / tops.clamp(min=1) / high
    phi = v * e_high / counts.clamp(min=1) / low
    inverse = torch.linalg.inv(omega - theta)
    if rule.coupling != "exact":
        inverse = torch.linalg.inv(omega)
        inverse = inverse + (inverse @ theta @ inverse) * (rule.coupling == "first_order")
    delta = g / high * (tops > 0)
    low_delta = (inverse @ phi).t() @ delta
    z = inverse.t() @ delta
    return [(low_delta / s_low)[:, None] * e_low, z[:, None] * e_high, z[:, None] * e_back]


@pytest.mark.parametrize(
    "rule",
    [RULE, SpikeTrain(coupling="none"), SpikeTrain(), SpikeTrain(False, coupling="exact")],
)
def test_gradients_are_those_of_the_equations(rule: SpikeTrain) -> None:
    torch.manual_seed(12)
    net, x, g = Net(rule), poisson(30, 1, 6), torch.randn(4, dtype=D)
    below, above = net(x)
    assert below.sum(0).min() == 0 < above.sum(0).min()  # one of the first layer is silent
    assert min(below.mean(), above.mean()) > 0.1
    (above.sum(0) @ g).sum().backward()
    for got, want in zip(net.weights, by_hand(net, x, g, rule), strict=True):
        assert want.norm() > 0.01
        torch.testing.assert_close(got.grad, want, rtol=1e-7, atol=1e-10)


def test_gradients_are_the_implicit_derivatives() -> None:
    """Of counts that solve a = sum w e with e as the rule takes it to depend on counts: by differences of solutions."""
    torch.manual_seed(12)
    net, x, g = Net(), poisson(30, 1, 6), torch.randn(4, dtype=D)
    below, above = net(x)
    (above.sum(0) @ g).sum().backward()
    below, above, inputs = below[:, 0].detach(), above[:, 0].detach(), x[:, 0]
    n, o = below.sum(0), above.sum(0)
    e_low, e_high, e_back = psps(inputs, below), psps(below, above), psps(heard(above), above)
    first, sent = inputs.sum(0), heard(above).sum(0)
    high = net.above.neuron.threshold

    def moved(e: Tensor, old: Tensor, new: Tensor, sent: Tensor, mine: Tensor, now: Tensor) -> Tensor:
        share = torch.where(old > 0, new / old.clamp(min=1), 1)
        return e * share + (slope(mine, 30) * (now - mine))[:, None] * sent

    def left(counts: Tensor, weights: list[Tensor]) -> Tensor:
        """What the equations of these counts leave."""
        w, v, r = weights
        a, (low, up) = [p.detach() for p in net.weights], counts.split([5, 4])
        got_low = (w * moved(e_low, first, first, first, n, low) - a[0] * e_low).sum(1)
        got_up = (v * moved(e_high, n, low, n, o, up) - a[1] * e_high).sum(1)
        got_up = got_up + (r * moved(e_back, o, up, sent, o, up) - a[2] * e_back).sum(1)
        fires = torch.cat([n, o]) > 0
        return counts - torch.cat([n, o]) - torch.cat([got_low / 1.2, got_up / high]) * fires

    def solution(weights: list[Tensor]) -> Tensor:
        """The loss at the counts that go with these weights."""
        counts = torch.cat([n, o])
        for _ in range(4):
            matrix = torch.autograd.functional.jacobian(lambda c: left(c, weights), counts)
            counts = counts - torch.linalg.solve(matrix, left(counts, weights))
        assert left(counts, weights).abs().max() < 1e-9
        return counts[5:] @ g

    for weight in range(3):
        for place in (0, 7, 11):
            values = []
            for sign in (1, -1):
                weights = [p.detach().clone() for p in net.weights]
                weights[weight].view(-1)[place] += sign * 1e-4
                values.append(solution(weights))
            want = (values[0] - values[1]) / 2e-4
            torch.testing.assert_close(net.weights[weight].grad.view(-1)[place], want, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("steps", [60, 400])
def test_growth_is_that_of_trains_at_random(steps: int) -> None:
    """f against the mean over random trains, within 6 % from 4 spikes on; growth as its derivative."""
    decay, current, scale = number(1 - 1 / (steps / 6)), number(0.7), number(0.3)
    counts = torch.tensor([4, 8, 16, 30], dtype=D)
    grown = torch.autograd.functional.jacobian(
        lambda n: scale / (1 - current) * n / ((1 - decay) * steps + decay * (n + 1)), counts
    ).diagonal()
    torch.testing.assert_close(growth(counts, torch.tensor(steps), decay, current, scale), grown)
    for n in counts.int().tolist():
        trains = (torch.rand(steps, 4000).argsort(0) < n).to(D)
        mean = responses(trains, decay, current, scale).mean()
        synapse = 1 - current / (1 - current) / steps  # what of the charge comes before the end
        f = scale / (1 - current) * n / ((1 - decay) * steps + decay * (n + 1)) * synapse
        torch.testing.assert_close(mean, f, rtol=0.06, atol=0)


def test_a_gradient_that_varies_counts_at_the_spikes() -> None:
    neuron, x = cuba(), (poisson(20, 3, 4) * 3).requires_grad_()
    g = torch.randn(20, 3, 4, dtype=D)
    spikes = neuron(x)
    counts = spikes.detach().sum(0)
    spikes.backward(g)
    varied, x.grad = x.grad, None
    neuron(x).backward(((g * spikes.detach()).sum(0) / counts.clamp(min=1)).expand(20, 3, 4))
    assert counts.min() > 0
    torch.testing.assert_close(varied, x.grad)


def test_a_batch_is_the_sum_of_its_samples() -> None:
    net, x, g = Net(), poisson(25, 5, 6), torch.randn(5, 4, dtype=D)
    (net(x)[1].sum(0) * g).sum().backward()
    whole = [w.grad.clone() for w in net.weights]
    net.zero_grad()
    for b in range(5):
        (net(x[:, b : b + 1])[1].sum(0) * g[b]).sum().backward()
    for got, want in zip(whole, net.weights, strict=True):
        assert got.norm() > 0.01
        torch.testing.assert_close(got, want.grad)


def test_padding_is_as_if_it_were_not_there() -> None:
    net, x, g = Net(SpikeTrain(silent=3)), poisson(25, 2, 6), torch.randn(2, 4, dtype=D)
    lengths = torch.tensor([25, 17])
    real = (torch.arange(25)[:, None] < lengths)[..., None]
    with rb.padding(lengths):
        (net(x)[1] * real * g).sum().backward()
    got = [w.grad.clone() for w in net.weights]
    net.zero_grad()
    for b, length in enumerate(lengths):
        (net(x[:length, b : b + 1])[1] * g[b]).sum().backward()
    for mine, want in zip(got, net.weights, strict=True):
        torch.testing.assert_close(mine, want.grad)


def test_the_solve_is_the_dense_inverse_and_the_ratios_the_pairs() -> None:
    net, x, g = Net(), poisson(30, 2, 6), torch.randn(30, 2, 4, dtype=D)
    above = net(x)[1].detach()
    spec, rule = net.above.neuron.spec(), SpikeTrain()
    parts = rule.parts(spec, g, rule.saved(above, torch.rand(30, 2, 4, dtype=D)))
    ratios = psp_ratios(parts.responses, above)
    for b in range(2):
        spikes = above[:, b]
        want = psps(heard(spikes), spikes) / spikes.sum(0)
        torch.testing.assert_close(ratios[b], want)
    theta = torch.randn(2, 4, 4, dtype=D)
    theta = theta / 4
    z = together(parts, theta)
    want = torch.linalg.inv(torch.diag_embed(parts.own) - theta).mT @ parts.errors[..., None]
    torch.testing.assert_close(z, want[..., 0])


def test_neurons_that_excite_each_other_without_end_are_told() -> None:
    theta = torch.tensor([[[0, 0.4], [0.4, 0]], [[0, 0.6], [0.6, 0]]], dtype=D)
    assert together(HALVES, theta[:1].expand(2, 2, 2)).min() > 9
    with pytest.warns(RuntimeWarning, match="in some sample, that their counts have no derivative"):
        together(HALVES, theta)


def test_a_first_order_that_says_little_is_told() -> None:
    theta = torch.tensor([[[0, 0.34], [0.34, 0]]], dtype=D)  # over s: 0.68
    torch.testing.assert_close(first_order(HALVES, theta), torch.full((2, 2), 2 * 1.68, dtype=D))
    with pytest.warns(RuntimeWarning, match="so strongly that the gradient to first order says little"):
        first_order(HALVES, 0.36 / 0.34 * theta)


def test_convolution_and_pooling_are_the_matrices_that_they_are() -> None:
    conv, x, g = nn.Conv2d(2, 3, 3, padding=1, bias=False).double(), poisson(15, 2, 2, 4, 4), torch.randn(12, dtype=D)
    nn.init.normal_(conv.weight, 0.2, 0.5)
    below = cuba(torch.rand(2) + 0.3)

    def spikes(after: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        start = (x * 2).requires_grad_()
        top = cuba(0.7)(after(below(start)))
        (top.flatten(2).sum(0) @ g).sum().backward()
        return top, start.grad

    step = nn.Sequential(conv, nn.AvgPool2d(2))
    matrix = step(torch.eye(32, dtype=D).view(32, 2, 4, 4)).flatten(1).detach().t()
    top, got = spikes(rb.PerStep(step))
    same, want = spikes(lambda s: s.flatten(2) @ matrix.t())
    assert 0.1 < top.mean() < 0.8
    assert torch.equal(top.flatten(2), same)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("engine", ["reference", "numba"])
@pytest.mark.parametrize("recurrent", [False, True])
def test_neurons_that_fire_at_every_step_are_not_asked_for_more(engine: str, recurrent: bool) -> None:
    x = torch.tensor([9.0, 0.8, 9.0]).expand(6, 2, 3).clone().requires_grad_()
    neuron: Any = rb.CubaLIF(0.5, 0.9, reset="hard", input_scale=0.5)
    neuron.rule = SpikeTrain(silent=35)  # a silent neuron that counts with a train at every step is not one of them
    if recurrent:
        neuron = rb.Recurrent(neuron, nn.Linear(3, 3, bias=False))
        nn.init.constant_(neuron.module.weight, 0.001)
    with rb.engine(engine):
        spikes = neuron(x)
        assert spikes.sum(0)[0].tolist() == [6, spikes[:, 0, 1].sum(), 6]
        assert 0 < spikes[:, 0, 1].sum() < 6
        more, less = (torch.autograd.grad(sign * spikes.sum(), x, retain_graph=True)[0] for sign in (-1, 1))
    assert not more[..., [0, 2]].any()
    assert more[:-1, :, 1].all()
    assert (less[..., [0, 2]] > 0).all()
    torch.testing.assert_close(less[..., 1], -more[..., 1], rtol=0.05, atol=0)
    silent = torch.zeros(6, 1, 3, requires_grad=True)
    with rb.engine(engine):
        neuron(silent).sum().neg().backward()
    assert (silent.grad < 0).all()


def test_silent_neurons_pass_nothing_but_at_the_output() -> None:
    x = torch.tensor([0.01, 9.0], dtype=D).expand(8, 1, 2).clone().requires_grad_()
    for rule in (SpikeTrain(), SpikeTrain(silent=2)):
        neuron = cuba(rule=rule)
        x.grad = None
        spikes = neuron(x)
        assert spikes.sum(0)[0, 0] == 0 < spikes.sum(0)[0, 1]
        spikes.sum().backward()
        assert (x.grad[:, 0, 0] > 0).sum() == (8 if rule.silent else 0)
        assert (x.grad[:, 0, 1] > 0).any()
    regular = torch.zeros(8, 1, 1, dtype=D)
    regular[3::4] = 1
    b = responses(regular, number(DECAY), number(CURRENT), number(SCALE))
    torch.testing.assert_close(x.grad[:, 0, :1] / x.grad[-1, 0, 0], b[:, 0] / b[-1, 0, 0])
    assert SpikeTrain().at_output == SpikeTrain(silent=35)
    assert SpikeTrain(silent=2).at_output == SpikeTrain(silent=2)


def test_a_whole_net_learns_without_a_surrogate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recurrent net whose surrogate cannot be asked lowers its loss, and its weights all move."""

    def never(*_: Any) -> Tensor:
        raise AssertionError("the derivative was asked for")

    model = rb.models.create(
        "mlp", classes=3, in_channels=1, image_size=4, layers="30-R20", norm="none", alpha=3.0, alpha_out=3.0,
        output="spikes", coding="poisson", coding_rate=0.4, rule="spike_train", steps=30,
        neuron=rb.CubaLIF(0.5, 0.9, reset="hard", input_scale=0.5),
    )  # fmt: skip
    rules = [m.rule for m in model.modules() if isinstance(m, rb.LIF)]
    assert rules == [SpikeTrain(), SpikeTrain(), SpikeTrain(silent=35)]
    for shape in rb.surrogate.SHAPES.values():
        monkeypatch.setattr(shape, "derivative", never)
        monkeypatch.setattr(shape, "formula", staticmethod(never))
    labels = torch.arange(24) % 3
    images = (torch.rand(3, 1, 4, 4) > 0.5)[labels] * 0.8 + torch.rand(24, 1, 4, 4) * 0.2
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses = []
    for step in range(30):
        torch.manual_seed(step)
        loss = (rb.readout(model(images)) - torch.eye(3)[labels] * 0.4).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())


@STRONG
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_spikes_and_states_are_the_neurons_own(dtype: torch.dtype) -> None:
    x = (2 * torch.rand(9, 3, 4)).to(dtype)
    back = nn.Linear(4, 4)
    for neuron in (rb.LIF(0.9, reset="hard"), rb.Recurrent(rb.CubaLIF(0.5, 0.9, reset="hard"), back)):
        inner = getattr(neuron, "neuron", neuron)
        inner.rule = None
        want, final = neuron.run(x)
        half, middle = neuron.run(x[:4])
        inner.rule = SpikeTrain()
        x.requires_grad_()
        spikes, ended = neuron.run(x)
        assert spikes.dtype is dtype
        assert torch.equal(spikes, want)
        torch.testing.assert_close(ended, final, rtol=0, atol=0)
        again, ended = neuron.run(x[4:], middle)
        assert torch.equal(torch.cat([half, again]), want)
        torch.testing.assert_close(ended, final, rtol=0, atol=0)
        spikes.sum().backward()
        assert x.grad.norm() > 0
        assert x.grad.dtype is dtype
        x = x.detach()


def test_float32_and_the_engine_are_the_definition() -> None:
    net, x = Net().float(), poisson(30, 4, 6).float()
    grads = []
    for name in ("reference", "numba"):
        net.zero_grad()
        with rb.engine(name):
            net(x)[1].sum().backward()
        grads.append([w.grad.clone() for w in net.weights])
    torch.testing.assert_close(*grads)


CASES = [
    ("CubaLIF", (), torch.float32, SpikeTrain()),
    ("CubaLIF", (4,), torch.bfloat16, SpikeTrain(silent=5)),
    ("LIF", (4, 3, 3), torch.float32, SpikeTrain(self_consistent=False)),
    ("CubaLIF", (4, 3, 3), torch.float32, SpikeTrain(silent=2)),
]


@pytest.mark.parametrize(("kind", "each", "dtype", "rule"), CASES)
def test_the_kernel_is_the_definition(kind: str, each: tuple[int, ...], dtype: torch.dtype, rule: SpikeTrain) -> None:
    """On odd sizes, static inputs, channels-last memory, padding, and numbers of every shape."""
    if kind == "LIF":
        neuron: rb.LIF = rb.LIF(0.8 + 0.1 * torch.rand(each), reset="hard", input_scale=0.4)
    else:
        neuron = rb.CubaLIF(0.5 + 0.2 * torch.rand(each), 0.8, reset="hard", input_scale=0.2 + 0.2 * torch.rand(each))
    neuron.threshold, neuron.rule = 0.5 + torch.rand(each), rule
    images = torch.rand(35, 4, 3, 3).contiguous(memory_format=torch.channels_last).unflatten(0, (7, 5))
    static = torch.rand(1, 5, 4, 3, 3).expand(7, -1, -1, -1, -1)
    wide = torch.rand(20, 370, 4, 3, 3)
    for x, real in ((images, None), (static, None), (wide, None), (images, torch.tensor([7, 1, 3, 7, 5]))):
        x = (3 * x - 0.5).to(dtype).requires_grad_()
        g, found = torch.randn(x.shape).to(dtype), {}
        for engine in ("reference", "numba"):
            with rb.engine(engine), rb.padding(real) if real is not None else nullcontext():
                spikes = neuron(x)
                found[engine] = spikes, torch.autograd.grad(spikes, x, g)[0]
        assert 0.05 < found["numba"][0].mean() < 0.95
        assert torch.equal(*(each[0] for each in found.values()))
        near = {"rtol": 0.02, "atol": 0.02} if dtype is torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(found["numba"][1], found["reference"][1], **near)
        assert found["numba"][1].dtype is dtype
        assert found["numba"][1].abs().mean() > 0.01


@STRONG
@pytest.mark.parametrize("coupling", ["exact", "first_order", "none"])
def test_the_kernel_is_the_definition_of_neurons_that_hear_each_other(coupling: Any) -> None:
    neuron, x = rb.CubaLIF(0.5, 0.8, reset="hard", input_scale=0.5), 2 * torch.rand(31, 3, 7)
    neuron.rule = SpikeTrain(coupling=coupling)
    layer = nn.Linear(7, 7, bias=False)
    net, found = rb.Recurrent(neuron, layer), {}
    for dtype in (torch.float32, torch.bfloat16):
        for name in ("reference", "numba"):
            currents = x.to(dtype).requires_grad_()
            with rb.engine(name):
                spikes = net(currents)
                assert 0.05 < spikes.mean() < 0.9
                found[name] = torch.autograd.grad(spikes[:, :, :3].sum(), [currents, layer.weight])
        near = {"rtol": 0.02, "atol": 0.02} if dtype is torch.bfloat16 else {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(found["numba"], found["reference"], **near)


def test_gradients_may_come_in_batches() -> None:
    neuron, x, grads = cuba(), (2 * torch.rand(9, 2, 4)).requires_grad_(), torch.randn(3, 9, 2, 4)
    spikes = neuron.float()(x)
    assert 0.05 < spikes.mean() < 0.95
    want = [torch.autograd.grad(spikes, x, grad, retain_graph=True)[0] for grad in grads]
    found = torch.autograd.grad(spikes, x, grads, is_grads_batched=True)[0]
    torch.testing.assert_close(found, torch.stack(want))


def test_gradients_stay_finite_where_neurons_lean_on_their_inputs() -> None:
    """s would be about zero, or below: many spikes come in, and one goes out."""
    neuron, x = cuba(6.0, SpikeTrain(floor=0.7)), torch.zeros(40, 1, 1, dtype=D)
    x[:10] = 1.5
    x.requires_grad_()
    spikes = neuron(x)
    assert spikes.sum() == 1
    spikes.sum().backward()
    b = responses(spikes.detach(), number(DECAY), number(CURRENT), number(SCALE))
    s = 1 - slope(number(1), 40) * x.detach().sum() / 6
    assert s < 0.7
    torch.testing.assert_close(x.grad, b / (6 * 0.7))


class Wrapped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize(
    ("neuron", "message"),
    [
        (rb.CubaLIF(), "a spike must take all of the potential.*got reset='soft'"),
        (rb.AdaptiveLIF(reset="hard"), "it knows LIF, CubaLIF, not AdaptiveLIF"),
        (rb.CubaLIF(1.0, reset="hard"), "current_decay must be below 1"),
        (rb.LIF(reset="hard", learn="threshold"), "has no gradient of a neuron's numbers"),
        (rb.Recurrent(rb.LIF(reset="hard"), Wrapped()), r"a torch.nn.Linear\(4, 4\) without hooks, got Wrapped"),
        (rb.Recurrent(rb.LIF(), nn.Linear(4, 4)), "got reset='soft'"),
    ],
)
def test_what_it_refuses(neuron: Any, message: str) -> None:
    getattr(neuron, "neuron", neuron).rule = SpikeTrain()
    with pytest.raises(ValueError, match=message):
        neuron(torch.rand(3, 2, 4))


def test_what_else_it_refuses() -> None:
    neuron = rb.Recurrent(rb.LIF(reset="hard"), nn.Linear(4, 4))
    neuron.neuron.rule = SpikeTrain()
    with pytest.raises(ValueError, match=r"currents \[T, B, 4\] .* got .* for \[3, 2, 5, 4\]"):
        neuron(torch.rand(3, 2, 5, 4))
    neuron.module.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="without hooks"):
        neuron(torch.rand(3, 2, 4))
    with torch.no_grad():  # which wants no gradient of it
        x = 2 * torch.rand(3, 2, 4)
        found = neuron(x)
        neuron.neuron.rule = None
        assert 0.1 < found.mean() < 0.9
        assert torch.equal(found, neuron(x))
    with pytest.raises(ValueError, match="floor must be above 0, got 0"):
        SpikeTrain(floor=0)
    with pytest.raises(ValueError, match="coupling must be one of exact, first_order, none, got 'taylor'"):
        SpikeTrain(coupling="taylor")
    with pytest.raises(ValueError, match="silent must be a whole number from 0 on, got -1"):
        SpikeTrain(silent=-1)


def test_the_rule_goes_along_when_it_is_saved(tmp_path: Path) -> None:
    neuron = rb.CubaLIF(0.5, 0.9, reset="hard")
    options = {"classes": 3, "in_channels": 1, "image_size": 4, "layers": "8-R6", "norm": "none", "output": "spikes"}
    model = rb.models.create("mlp", rule="spike_train", neuron=neuron, **options)
    rb.save(model, tmp_path / "m")
    again = rb.load(tmp_path / "m")
    rules = [m.rule for m in again.modules() if isinstance(m, rb.LIF)]
    assert rules == [SpikeTrain(), SpikeTrain(), SpikeTrain(silent=35)]


@pytest.mark.parametrize(("shape", "published", "selves"), [((5, 5, 4), 879, 40), ((5, 5, 16), 4445, None)])
def test_the_grid_has_as_many_connections_as_the_reference_code_draws(
    shape: tuple[int, ...], published: int, selves: int | None
) -> None:
    masks = torch.stack([grid(shape, seed) for seed in range(8)]).float()
    assert abs(masks.sum((1, 2)).mean() / published - 1) < 0.05
    if selves:
        assert abs(masks.diagonal(dim1=1, dim2=2).sum(1).mean() - selves) < 5
    assert not torch.equal(masks[0], masks[1])
    assert torch.equal(masks[0], grid(shape).float())
    one = grid((20, 1), inhibitory=0.0).float() + grid((20, 1), 1, inhibitory=1.0).float()
    assert one.tril(-8).sum() == one.triu(8).sum() == 0


def test_only_connections_that_there_are_learn() -> None:
    mask = torch.rand(4, 4) < 0.5
    net, dense, x = Net(), Net(), poisson(30, 2, 6)
    before, net.above.module = net.above.module.weight, Masked(4, 4, False, mask).double()
    assert not net.above.module.weight[~mask].any()
    with torch.no_grad():
        net.above.module.values.copy_(before * mask)
    dense.load_state_dict(net.state_dict(), strict=False)
    with torch.no_grad():
        dense.above.neuron.threshold = net.above.neuron.threshold
        dense.above.module.weight.copy_(net.above.module.weight)
    for each in (net, dense):
        each(x)[1].sum().backward()
    got, want = net.above.module.values.grad, dense.above.module.weight.grad
    assert (want[~mask] != 0).any()
    torch.testing.assert_close(got, want * mask)
    torch.testing.assert_close(net.first.weight.grad, dense.first.weight.grad)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1)
    optimizer.step()
    assert not net.above.module.values[~mask].any()
    assert not torch.equal(net.above.module.weight, dense.above.module.weight)
    with pytest.raises(ValueError, match=r"mask must be \[4, 4\], got \[3, 4\]"):
        Masked(4, 4, mask=mask[:3])
    with pytest.raises(ValueError, match="shape must be positive"):
        grid((5, 0))


def test_a_network_with_a_mask_is_converted_and_made_spiking() -> None:
    layer = Masked(16, 16, mask=grid((4, 4)))
    ann = nn.Sequential(nn.Flatten(), layer, nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3))
    x = torch.rand(32, 1, 4, 4)
    ann(x)
    ann.eval()
    spiking = rb.convert(ann, [x], "percentile")
    torch.testing.assert_close(rb.readout(spiking(x, 2000)), ann(x), rtol=0, atol=0.02)
    direct = rb.to_spiking(ann, rb.LIF(), 4)
    direct(x).sum().backward()
    values = next(m for m in direct.modules() if isinstance(m, Masked)).values
    assert values.grad[layer.mask].any()
    assert not values.grad[~layer.mask].any()
    layer.weight = nn.Parameter(torch.ones(16, 16))
    assert torch.equal(layer.weight, layer.mask.float())


def test_masked_weights_run_on_the_engine_too() -> None:
    x, layer = 2 * torch.rand(9, 3, 4), Masked(4, 4, mask=torch.rand(4, 4) < 0.5)
    net, grads = rb.Recurrent(rb.LIF(0.9), layer), []
    for name in ("reference", "numba"):
        with rb.engine(name):
            grads.append(torch.autograd.grad(net(x).sum(), list(net.parameters())))
    torch.testing.assert_close(*grads)


@STRONG
@pytest.mark.parametrize("backward", [True, False])
def test_a_call_of_neurons_that_hear_each_other_is_freed(backward: bool) -> None:
    """Outputs that hold what holds them never would be."""
    neuron = rb.CubaLIF(0.5, 0.9, reset="hard")
    neuron.rule = SpikeTrain()
    net = rb.Recurrent(neuron, nn.Linear(3, 3, bias=False))
    currents = (2 * torch.rand(6, 2, 3, generator=torch.Generator().manual_seed(0))).requires_grad_()
    spikes = net(currents)
    assert spikes.any()
    if backward:
        spikes.sum().backward()
    del spikes
    gc.collect()
    assert not [found for found in gc.get_objects() if type(found).__name__ == "_Recurrent"]

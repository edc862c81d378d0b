"""The rule against its equations, written out: brute force in float64, and against what it must not need."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import rheobase as rb
from rheobase import kernels
from rheobase.rules import Membrane
from rheobase.rules.membrane import uncoupled
from rheobase.training.passes import padded

D = torch.float64


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def traces(x: Tensor, decay: float) -> Tensor:
    """sum over t of decay^(T - 1 - t) x[t]."""
    return sum(decay ** (len(x) - 1 - t) * step for t, step in enumerate(x))


@pytest.mark.parametrize("kind", ["LIF", "LateralLIF"])
def test_no_surrogate_derivative_is_taken(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Raises(rb.surrogate.ATan):
        @staticmethod
        def formula(x: Tensor, alpha: Any) -> Tensor:
            raise AssertionError("the derivative was asked for")

        def derivative(self, x: Tensor) -> Tensor:
            raise AssertionError("the derivative was asked for")

    neuron = rb.LateralLIF(-0.2) if kind == "LateralLIF" else rb.LIF()
    neuron.surrogate = Raises(2.0)
    x = torch.rand(5, 3, 4, requires_grad=True)
    with rb.engine("reference"):
        spikes = neuron(x)
        assert 0.05 < spikes.mean() < 0.9
        with pytest.raises(AssertionError, match="asked for"):
            spikes.sum().backward()
        neuron.rule = Membrane()
        neuron(x).sum().backward()
    assert x.grad.norm() > 0


def test_a_whole_net_learns_without_a_surrogate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A net whose surrogate cannot be asked lowers its loss, and its weights all move."""
    model = rb.models.create(
        "mlp", classes=3, in_channels=1, image_size=4, layers="40-30", norm="none", alpha=2.0, alpha_out=1.0,
        output="spikes", coding="poisson", rule="membrane", steps=12, neuron=rb.LIF(0.9, learn="threshold"),
    )  # fmt: skip

    def never(*_: Any) -> Tensor:
        raise AssertionError("the derivative was asked for")

    for shape in rb.surrogate.SHAPES.values():
        monkeypatch.setattr(shape, "derivative", never)
        monkeypatch.setattr(shape, "formula", staticmethod(never))
    images, labels = torch.rand(48, 1, 4, 4), torch.arange(48) % 3
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    losses = []
    for _ in range(60):
        torch.manual_seed(1)
        activity = rb.Integrator(0.9)(model(images))[-1]
        loss = torch.nn.functional.cross_entropy(activity, labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(not torch.equal(p, before[name]) for name, p in model.named_parameters())
    assert sum("threshold" in name for name in before) == 3


@pytest.mark.parametrize("decay", [0.0, 0.8, 1.0])
def test_the_potential_at_the_end_is_what_the_traces_leave(decay: float) -> None:
    """Equation (5) is exact for a LIF without a floor: V = s - threshold a."""
    neuron, x = rb.LIF(decay, 0.7, input_scale=1.3).double(), torch.randn(20, 3, 5, dtype=D) + 0.3
    with rb.engine("reference"):
        spikes, v = neuron.run(x)
    assert 0.05 < spikes.mean() < 0.9
    torch.testing.assert_close(v, 1.3 * traces(x, decay) - 0.7 * traces(spikes, decay))


def jacobian(w: Tensor, th: Tensor, c: float, active: Tensor) -> Tensor:
    """Equation (9): of the active a by x, from the matrix, without a closed form."""
    n = int(active.sum())
    q = (1 + c) * torch.eye(n, dtype=D) - c * torch.ones(n, n, dtype=D)
    return torch.linalg.inv(q) @ (w[active] / th[active, None])


@pytest.mark.parametrize("kappa", [0.0, -0.4, -1.0])
@pytest.mark.parametrize("sigma", [0.5, 0.9])
def test_the_closed_form_is_the_inverse_matrix(kappa: float, sigma: float) -> None:
    """Equation (10) as the paper writes it, against (9), and the code against both."""
    w, th = torch.randn(7, 4, dtype=D), torch.rand(7, dtype=D) + 0.5
    active, mu = torch.tensor([1, 0, 1, 1, 0, 1, 1], dtype=torch.bool), kappa * sigma
    n, want = int(active.sum()), jacobian(w, th, mu, active)
    others = (w / th[:, None])[active].sum(0)
    for row, i in enumerate(active.nonzero().flatten().tolist()):
        paper = 1 / th[i] / (1 + mu) * (w[i] + mu * th[i] / (1 - mu * (n - 1)) * others)
        torch.testing.assert_close(paper, want[row])
    g = torch.randn(1, 1, 7, dtype=D) * active
    got = uncoupled(g, torch.tensor(mu, dtype=D), active[None]) / th @ w
    torch.testing.assert_close(got[0, 0], g[0, 0, active] @ want)


@pytest.mark.parametrize("kappa", [0.0, -0.4])
def test_the_gradient_is_that_of_the_activities(kappa: float) -> None:
    """Two layers: of weights, thresholds and inputs, as if a were the linear function of x that equation (6) says."""
    decay, sigma, steps = 0.9, 0.6, 30
    x = (torch.rand(steps, 3, 6) < 0.5).to(D)
    w = torch.randn(5, 6, dtype=D, requires_grad=True)
    neuron = rb.LateralLIF(kappa, 0, decay, torch.rand(5) + 0.5, learn="threshold").double()
    neuron.rule = Membrane(efficacy=sigma)
    spikes = neuron(x @ w.t())
    active = spikes.detach().sum(0) > 0
    assert active.any(1).all()
    assert not active.all()
    top = torch.randn(5, dtype=D)
    (traces(spikes, decay) @ top).sum().backward()

    th = neuron.threshold.detach().clone().requires_grad_()
    weights, total = w.detach().clone().requires_grad_(), 0
    for sample in range(3):
        on, a = active[sample], traces(spikes.detach(), decay)[sample]
        # the implicit function: residual(a, w, th) = 0 at these a; its derivative by Newton's step
        m = w.detach().new_tensor(sigma * kappa)
        s = traces(x, decay)[sample] @ weights[on].t()
        residual = s - th[on] * a[on] + m * th[on] * (a.sum() - a[on])
        matrix = torch.diag(th[on]) - m * th[on, None] * (1 - torch.eye(int(on.sum()), dtype=D))
        total = total + torch.linalg.solve(matrix.detach(), residual) @ top[on]
    total.backward()
    torch.testing.assert_close(w.grad, weights.grad)
    raw = neuron.raw_threshold
    torch.testing.assert_close(raw.grad, th.grad * torch.sigmoid(raw.detach()))


def test_silent_neurons_have_no_gradient_but_at_the_output() -> None:
    """There, one that leads to more spikes; anywhere, what fires in each step has only one that leads to fewer."""
    x = torch.tensor([0.1, 0.4, 2.0]).expand(4, 1, 3).clone().requires_grad_()
    for output, sign, want in (
        (False, 1, [0, 2, 2]), (False, -1, [0, -2, 0]), (True, 1, [0, 2, 2]), (True, -1, [-2, -2, 0])
    ):  # fmt: skip
        neuron = rb.LIF(0.5, 0.5)
        neuron.rule = Membrane(output=output)
        spikes = neuron(x)
        assert spikes.sum(0).tolist() == [[0, 2, 4]]
        x.grad = None
        (sign * spikes).sum().backward()
        assert x.grad[:, 0].tolist() == [want] * 4


def test_with_one_step_hidden_neurons_may_be_asked_for_more() -> None:
    """All that fires does so in each step then."""
    x = torch.tensor([0.1, 2.0]).view(1, 1, 2).requires_grad_()
    neuron = rb.LIF(0.5, 0.5)
    neuron.rule = Membrane()
    neuron(x).sum().neg().backward()
    assert x.grad.flatten().tolist() == [0, -2]


@pytest.mark.parametrize(("begin", "still"), [(5.0, 0), (-0.5, 1)])
def test_outputs_come_back_from_either_end(begin: float, still: int) -> None:
    """Both full, then both silent: the one that is wrong moves, or the one that is right; the other cannot."""
    weight = torch.full((2,), begin, requires_grad=True)
    neuron = rb.LIF(0.9, 1.0)
    neuron.rule = Membrane().at_output
    optimizer = torch.optim.SGD([weight], 0.3)
    for _ in range(60):
        counts = neuron(weight.expand(8, 1, 2)).sum(0)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(counts, torch.tensor([0])).backward()
        optimizer.step()
    assert counts[0, 0] > counts[0, 1]
    assert weight[still] == begin
    assert weight[1 - still] != begin


def test_padding_neither_fills_nor_wakes_an_output() -> None:
    """Two real steps of three: the first neuron fires in both, the second in the padding alone."""
    x = torch.tensor([[2.0, 0.0], [2.0, 0.0], [0.0, 2.0]]).unsqueeze(1).requires_grad_()
    for sign, want in ((1, [1, 0]), (-1, [0, -1])):
        neuron = rb.LIF(0.0, 1.0)
        neuron.rule = Membrane(output=True)
        x.grad = None
        with padded(torch.tensor([2])):
            spikes = neuron(x)
            assert spikes[:, 0].tolist() == [[1, 0], [1, 0], [0, 1]]
            (sign * spikes).sum().backward()
        assert x.grad[0, 0].tolist() == want


@pytest.mark.parametrize("shape", [(6,), (3, 2, 2)])
def test_error_normalisation(shape: tuple[int, ...]) -> None:
    """g / sqrt(mean g^2 over active) sqrt(N / n), with g = 1 / threshold, of each sample by itself."""
    th = torch.rand(shape) + 0.5
    neuron = rb.LIF(0.9, th)
    neuron.rule = Membrane(normalise=True)
    x = (torch.rand(8, 4, *shape) - 0.1).mul(torch.tensor([1, 0.6, 0.4, 0.3]).view(4, *[1] * len(shape)))
    x.requires_grad_()
    spikes, g = neuron(x), torch.randn(8, 4, *shape)
    spikes.backward(g)
    active = spikes.detach().sum(0) > 0
    counts = active.flatten(1).sum(1)
    assert len(counts.unique()) > 1
    for b in range(4):
        on = active[b]
        gain = (1 / th) / (1 / th[on]).square().mean().sqrt() * math.sqrt(on.numel() / int(on.sum()))
        torch.testing.assert_close(x.grad[:, b], g[:, b] * on * gain)


@pytest.mark.parametrize("each", ["one", "channel", "neuron"])
def test_thresholds_of_every_shape(each: str) -> None:
    shape = {"one": (), "channel": (3,), "neuron": (3, 2, 2)}[each]
    neuron = rb.LIF(0.9, 0.5 + torch.rand(shape), learn="threshold")
    neuron.rule = Membrane()
    x, g = torch.rand(6, 4, 3, 2, 2), torch.randn(6, 4, 3, 2, 2)
    x = x * torch.tensor([0.2, 1.0, 2.5]).view(3, 1, 1)
    spikes = neuron(x)
    spikes.backward(g)
    th = neuron.threshold.detach()
    full = th.reshape(*th.shape, *[1] * (3 - th.dim())) if th.dim() else th
    counts = spikes.detach().sum(0)
    assert 0 < (counts == 6).sum() < (counts > 0).sum() < counts.numel()
    g = g.where((counts < 6) | (g > 0), 0)  # what fires in each step cannot fire more
    want = -(g * (counts > 0) / full * spikes.detach()).sum((0, 1))
    want = want.sum() if each == "one" else want.sum((1, 2)) if each == "channel" else want
    torch.testing.assert_close(neuron.raw_threshold.grad, want * torch.sigmoid(neuron.raw_threshold.detach()))


def test_spikes_and_state_are_the_neurons_own() -> None:
    x = torch.rand(7, 3, 4)
    for neuron in (rb.LIF(0.9), rb.IF(), rb.LateralLIF(-0.4, 3, 0.9)):
        want, final = neuron.run(x)
        neuron.rule = Membrane()
        spikes, ended = neuron.run(x)
        assert 0.05 < spikes.mean() < 0.95
        assert torch.equal(spikes, want)
        torch.testing.assert_close(ended, final, rtol=0, atol=0)


def test_padding_makes_no_neuron_active() -> None:
    x = torch.zeros(4, 2, 1)
    x[3] = 2.0  # fires past the end of the first sample alone
    x.requires_grad_()
    neuron = rb.LIF()
    neuron.rule = Membrane()
    with rb.padding(torch.tensor([3, 4])):
        neuron(x).sum().backward()
    assert x.grad[0].flatten().tolist() == [0, 1]


def test_half_precision() -> None:
    neuron, x = rb.LIF(learn="threshold"), torch.rand(4, 3, 5, dtype=torch.bfloat16, requires_grad=True)
    neuron.rule = Membrane()
    neuron(x * 2).sum().backward()
    assert x.grad.dtype is torch.bfloat16
    assert neuron.raw_threshold.grad.dtype is torch.float32
    assert neuron.raw_threshold.grad < 0


@pytest.mark.parametrize(
    ("neuron", "message"),
    [
        (rb.LIF(reset="hard"), "a spike must take one threshold from the potential .*got reset='hard'"),
        (rb.CubaLIF(), "it knows LIF, LateralLIF, whose spikes are all that their potential loses, not CubaLIF"),
        (rb.AdaptiveLIF(), "not AdaptiveLIF"),
        (rb.LIF(learn="decay"), r"no gradient of a neuron's numbers: learn=\('threshold',\) for it, got 'decay'"),
    ],
)
def test_what_it_refuses(neuron: rb.LIF, message: str) -> None:
    neuron.rule = Membrane()
    with pytest.raises(ValueError, match=f"the rule 'membrane' .*{message}"):
        neuron(torch.rand(3, 2, 4))


def test_refused_otherwise() -> None:
    lateral = rb.LateralLIF(-1.0)
    lateral.rule = Membrane(efficacy=1.0)
    with pytest.raises(ValueError, match="efficacy . inhibition must be above -1"):
        lateral(torch.rand(3, 2, 4))
    with pytest.raises(ValueError, match=r"efficacy must be in \[0, 1\], got 2"):
        Membrane(efficacy=2)

    class Mine(rb.LIF):
        def step(self, current: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
            return super().step(current, state)

    mine = Mine()
    mine.rule = Membrane()
    with pytest.raises(ValueError, match="the rule 'membrane' cannot be used here: Mine has a step of its own"):
        mine(torch.rand(3, 2, 4))
    assert kernels.Rule  # the seam is public

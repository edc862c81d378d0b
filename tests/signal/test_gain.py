"""The gradient's size, predicted in closed form from potentials, is the one that is measured."""

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rheobase as rb
from rheobase.signal.gain import Profile, through_neuron

RESETS = [{"reset": reset, "detach_reset": detach} for reset in ("soft", "hard") for detach in (True, False)]
NEURONS = [(kind, options) for kind in ("LIF", "IF") for options in RESETS] + [("LIF", {"reset": "none"})]


def potentials_and_gradient(neuron: rb.LIF, steps: int, constant: bool, r: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of 20,000 neurons: potentials, a gradient of spikes with this correlation, and that of currents."""
    shape = (steps, 1, 20_000)
    currents = (torch.randn(1, *shape[1:]).repeat(steps, 1, 1) if constant else torch.randn(shape)).requires_grad_()
    with rb.record(neuron, potentials=True) as tape:
        spikes = neuron(currents)
    assert 0.05 < spikes.mean() < 0.6
    above = [torch.randn(shape[1:])]
    for _ in range(steps - 1):
        above.append(r * above[-1] + (1 - r * r) ** 0.5 * torch.randn(shape[1:]))
    gradient = torch.stack(above) * torch.linspace(2, 0.5, steps).view(-1, 1, 1)
    below = torch.autograd.grad(spikes, currents, gradient)[0]
    return tape[""].potentials.detach(), gradient, below


@pytest.mark.parametrize("constant", [False, True], ids=["white", "constant"])
@pytest.mark.parametrize(("kind", "options"), NEURONS, ids=str)
def test_through_a_neuron(kind: str, options: dict[str, Any], constant: bool) -> None:
    torch.manual_seed(0)
    for steps, r in itertools.product((1, 4, 10), (0.0, 0.7, 1.0)):
        neuron = getattr(rb, kind)(surrogate=rb.surrogate.ATan(2.0), input_scale=1.3, threshold=1.2, **options)
        potentials, gradient, below = potentials_and_gradient(neuron, steps, constant, r)
        found, measured = through_neuron(neuron, potentials, Profile.of(gradient)).mean(), Profile.of(below)
        assert found.size == pytest.approx(measured.size, rel=0.06)
        largest = measured.products.abs().max()
        torch.testing.assert_close(found.products / largest, measured.products / largest, rtol=0, atol=0.12)
        if steps > 1:
            assert found.r == pytest.approx(measured.r, abs=0.04)


def test_it_takes_the_correlation_in_time() -> None:
    torch.manual_seed(0)
    neuron = rb.IF()
    potentials, gradient, below = potentials_and_gradient(neuron, 10, True, 1.0)
    alone = Profile(torch.diag(Profile.of(gradient).products.diagonal()))
    assert through_neuron(neuron, potentials, alone).size < 0.6 * Profile.of(below).size


def test_through_a_norm() -> None:
    torch.manual_seed(0)
    steps, samples, channels = 5, 6, 4000
    ramp = torch.linspace(0.5, 2, steps).view(-1, 1, 1)
    x = (torch.randn(1, samples, channels) + 0.3 * torch.randn(steps, samples, channels)).double().requires_grad_()
    norm = rb.CurrentNorm(channels).double()
    y = norm(x)
    gradient = ((torch.randn(1, samples, channels) + torch.randn(steps, samples, channels)) / ramp).double()
    below = torch.autograd.grad(y, x, gradient)[0] * x.std((0, 1), correction=0)
    found = Profile.of(gradient).through_norm(Profile.of(y.detach()).products, samples)
    measured = Profile.of(below)
    torch.testing.assert_close(found.products, measured.products, rtol=0.03, atol=0.03 * float(measured.products.max()))
    assert not torch.allclose(Profile.of(gradient).products, measured.products, rtol=0.1)


def test_what_it_does_not_know_is_refused() -> None:
    u, above = torch.zeros(2, 3), Profile.constant(2)
    for neuron in (rb.LIF(reset="delayed"), rb.CubaLIF(), rb.LIF(decay=torch.rand(3)), nn.ReLU()):
        with pytest.raises(ValueError, match="the gain is known"):
            through_neuron(copy.deepcopy(neuron), u, above)  # type: ignore[arg-type]

"""The way down of neurons alone, without the way up before it."""

import pytest
import torch

import rheobase as rb
from rheobase import kernels


@pytest.mark.parametrize(
    "neuron",
    [
        rb.LIF(),
        rb.IF(surrogate=rb.surrogate.SuperSpike(3.0)),
        rb.LIF(threshold=torch.tensor([0.5, 1.0, 1.5])),
        rb.AdaptiveLIF(),
        rb.CubaLIF(),
    ],
    ids=lambda neuron: type(neuron).__name__,
)
@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_it_is_the_gradient_of_the_currents(neuron: rb.LIF, engine: str) -> None:
    torch.manual_seed(0)
    currents, given = 2 * torch.randn(2, 6, 4, 3, 5)
    currents.requires_grad_()
    with rb.engine(engine):
        spikes = neuron(currents)
        (wanted,) = torch.autograd.grad(spikes, currents, given)
        with torch.no_grad():
            found = kernels.back(neuron.spec(), currents.detach(), given)
    assert 0.05 < float(spikes.detach().mean()) < 0.9
    assert torch.equal(found, wanted)
    assert wanted.count_nonzero() > wanted.numel() / 2

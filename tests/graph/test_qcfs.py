"""The clip-floor-shift activation."""

import pytest
import torch
from torch import nn

import rheobase as rb
from rheobase.graph import with_qcfs
from tests.graph.networks import FunctionalResNet, Small, TorchvisionResNet, images


def test_it_is_its_equation() -> None:
    act = rb.QCFS(4, 2.0)
    x = torch.tensor([-1.0, 0.2, 0.3, 0.7, 0.8, 1.2, 1.6, 1.8, 5.0])
    torch.testing.assert_close(act(x), torch.tensor([0.0, 0.0, 0.5, 0.5, 1.0, 1.0, 1.5, 2.0, 2.0]))
    assert torch.unique(act(torch.linspace(-1, 3, 1000))).numel() == 5


def test_its_gradient_is_that_of_a_clip() -> None:
    act = rb.QCFS(4, 2.0)
    x = torch.linspace(-1, 3, 401).requires_grad_()
    act(x).sum().backward()
    inside = (x > -0.25) & (x < 2 - 0.25)
    edge = ((x + 0.25).abs() < 0.011) | ((x - 1.75).abs() < 0.011)
    assert torch.equal(x.grad[~edge], inside.float()[~edge])
    # of the threshold: with the floor as the identity, d a / d threshold is 1 above, and what the rounding added within
    act.raw_threshold.grad = None
    act(torch.tensor([5.0])).backward()
    slope = torch.sigmoid(act.raw_threshold.detach())
    torch.testing.assert_close(act.raw_threshold.grad, slope)
    act.raw_threshold.grad = None
    act(torch.tensor([0.6])).backward()
    torch.testing.assert_close(act.raw_threshold.grad, slope * (0.5 - 0.6) / 2)


def test_spikes_do_the_same_in_as_many_steps() -> None:
    """Theorem of the paper for one layer: constant currents, T = L, v(0) = threshold / 2."""
    act = rb.QCFS(8, 1.5)
    x = torch.linspace(-1, 3, 777).view(1, 1, 1, -1)
    net = rb.convert(nn.Sequential(act), [x], "qcfs", 8)
    with torch.no_grad():
        found, wanted = net(x).mean(0), act(x)
    edge = ((x * 8 / 1.5 + 0.5) - (x * 8 / 1.5 + 0.5).round()).abs() < 1e-4
    torch.testing.assert_close(found[~edge], wanted[~edge])


def test_a_network_gets_them_in_place_of_relu() -> None:
    net = with_qcfs(Small(), 8, 3.0)
    found = [one for one in net.modules() if isinstance(one, rb.QCFS)]
    assert len({id(one.raw_threshold) for one in found}) == len(found) == 4
    assert not any(isinstance(one, nn.ReLU) for one in net.modules())
    net(images()).sum().backward()
    assert all(one.raw_threshold.grad is not None for one in found)
    twin = rb.models.create("sew_resnet18", classes=3, in_channels=1, width=2, spiking=False)
    assert sum(isinstance(one, rb.QCFS) for one in with_qcfs(twin).modules()) == 20
    assert "levels=8, threshold=3" in repr(net)
    assert len(list(TorchvisionResNet().modules())) == len(list(with_qcfs(TorchvisionResNet()).modules()))


def test_mistakes_are_refused() -> None:
    with pytest.raises(ValueError, match="levels must be a positive integer, got 0"):
        rb.QCFS(0)
    with pytest.raises(ValueError, match=r"threshold must be a number in \(0, inf\)"):
        rb.QCFS(4, -1.0)
    with pytest.raises(ValueError, match="FunctionalResNet has no nn.ReLU module"):
        with_qcfs(FunctionalResNet())
    with pytest.raises(ValueError, match="convert by 'qcfs' takes activations QCFS, got relu"):
        rb.convert(FunctionalResNet(), [images()], "qcfs")

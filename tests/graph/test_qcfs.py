"""The clip-floor-shift activation."""

import pytest
import torch
from torch import Tensor, nn

import rheobase as rb
from rheobase.graph import with_qcfs
from rheobase.graph.distribution import ann as as_network
from rheobase.graph.folding import folded
from rheobase.graph.qcfs import continuous
from rheobase.graph.reader import read
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
    relu = nn.ReLU()
    twice = with_qcfs(nn.Sequential(nn.Linear(8, 8), relu, nn.Linear(8, 8), relu))
    assert isinstance(twice[1], rb.QCFS)
    assert isinstance(twice[3], rb.QCFS)
    assert twice[1] is not twice[3]
    assert "levels=8, threshold=3" in repr(net)
    assert len(list(TorchvisionResNet().modules())) == len(list(with_qcfs(TorchvisionResNet()).modules()))


class Shifted(nn.ReLU):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - 1)


class Hooked(nn.ReLU):
    def __init__(self) -> None:
        super().__init__()
        self.register_forward_hook(lambda *_: None)


def test_mistakes_are_refused() -> None:
    with pytest.raises(ValueError, match="levels must be a positive integer, got 0"):
        rb.QCFS(0)
    with pytest.raises(ValueError, match=r"threshold must be a number in \(0, inf\)"):
        rb.QCFS(4, -1.0)
    with pytest.raises(ValueError, match="FunctionalResNet has no nn.ReLU module"):
        with_qcfs(FunctionalResNet())
    for wrong, said in (
        (Shifted(), r"2 \(Shifted\) has a forward of its own"),
        (nn.ReLU6(), r"2 \(ReLU6\) is another activation"),
        (Hooked(), r"2 \(Hooked\) has hooks"),
    ):
        with pytest.raises(ValueError, match=f"with_qcfs: {said}"):
            with_qcfs(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), wrong))
    with pytest.raises(ValueError, match="convert by 'qcfs' takes activations QCFS, got relu"):
        rb.convert(FunctionalResNet(), [images()], "qcfs")


@torch.no_grad()
def test_where_the_last_bit_decides_for_a_step_a_network_is_still_understood() -> None:
    """Folded norms round otherwise than norms; here each activation is at the edge of a step but for that."""
    torch.manual_seed(0)
    act, norm, conv = rb.QCFS(4, 2.0), nn.BatchNorm2d(256), nn.Conv2d(1, 256, 1, bias=False)
    edges = (torch.arange(256) % 4 + 0.5) * act.threshold / 4
    nn.init.uniform_(norm.running_var, 0.5, 2.0)
    nn.init.uniform_(conv.weight, 0.5, 2.0)
    norm.weight.copy_(edges / conv.weight.flatten() * (norm.running_var + norm.eps).sqrt())
    net, x = nn.Sequential(conv, norm, act, nn.Flatten()).eval(), torch.ones(1, 1, 1, 1)
    flow = as_network(folded(read(net))[0])
    before, around = net(x), flow(x)
    assert (before - around).abs().max() > 0.4  # a whole step
    with continuous(net, flow):
        torch.testing.assert_close(flow(x), net(x), rtol=1e-4, atol=1e-4)
    assert torch.equal(net(x), before)
    rb.convert(net, [x], "qcfs", 8)


@torch.no_grad()
def test_what_is_misunderstood_is_still_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rheobase.graph.folding.FOLDABLE", (nn.Conv2d,))
    monkeypatch.setattr("rheobase.graph.folding._fold", lambda *_: None)
    norm = nn.BatchNorm2d(3)
    norm.running_mean.fill_(0.5)
    with pytest.raises(RuntimeError, match="was not understood"):
        rb.convert(nn.Sequential(nn.Conv2d(1, 3, 1), norm, rb.QCFS(4, 2.0)), [images()], "qcfs", 8)

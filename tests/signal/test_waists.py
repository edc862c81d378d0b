"""What everything goes through, in nets of one's own and in the registry's."""

import pytest
import torch
from torch import Tensor, nn

import rheobase as rb
from rheobase.signal.passing import passing
from rheobase.signal.waists import waists


def names(nodes: list[object]) -> list[str]:
    return [type(node).__name__ for node in nodes]


def test_on_a_graph_by_hand() -> None:
    x = torch.ones(3, requires_grad=True)
    bottom = x * 2
    left, right = bottom.sin(), bottom.exp()
    joined = left + right
    past = joined + (joined.cos() * 3).tanh()
    top = past.sum()
    found = waists(top.grad_fn, bottom.grad_fn)
    assert found == [bottom.grad_fn, joined.grad_fn, past.grad_fn, top.grad_fn]
    assert waists(top.grad_fn, torch.ones(1, requires_grad=True).exp().grad_fn) == []
    square = bottom * bottom  # two ways through one node
    assert square.grad_fn in waists(square.sum().grad_fn, bottom.grad_fn)


def test_paths_beyond_counting() -> None:
    """2^200 ways."""
    x = torch.ones(1, requires_grad=True).exp()
    y = x
    for _ in range(200):
        y = y.sin() + y.cos()
    assert len(waists(y.grad_fn, x.grad_fn)) == 201


@pytest.mark.parametrize("junction", ["spiking", "sew", "ms"])
def test_a_residual_net_has_its_blocks(junction: str) -> None:
    torch.manual_seed(0)
    model = rb.models.create(f"{junction}_resnet18", classes=3, in_channels=1, steps=2, width=8)
    found = passing(model, torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0]))
    assert [waist.place.path for waist in found.waists] == [f"features.{i}" for i in range(1, 10)]
    assert len(found.layers) > len(found.waists)
    beside = {layer.path.partition(".branch")[0] for layer in found.layers if layer.beside}
    assert beside >= {f"features.{i}" for i in range(2, 9)}
    assert [layer.beside for layer in found.layers if layer.path == "features.9.fire.neuron"] == [junction == "sew"]


def test_a_plain_net_has_every_layer() -> None:
    torch.manual_seed(0)
    model = rb.models.create("plain_convnet", classes=3, in_channels=1, steps=2, width=4)
    found = passing(model, 2 * torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 2, 0]))
    assert [waist.place.after for waist in found.waists] == [i + 1 for i in range(len(found.layers))]
    for waist, layer in zip(found.waists, found.layers, strict=True):
        assert torch.equal(waist.features, layer.spikes)
        assert torch.equal(waist.gradient, layer.spikes_grad)


class Own(nn.Module):
    """A residual net of one's own, with one neuron for all places, no PerStep, and sums outside of any module."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))
        self.lif = rb.LIF(threshold=0.5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.lif(x.expand(3, -1, -1))
        for layer in self.layers:
            h = h + self.lif(layer(h))
        return h


def test_a_net_of_ones_own_with_one_neuron_for_all_places() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 8, requires_grad=True)
    found = passing(Own(), x, torch.randint(8, (6,)))
    assert [layer.path for layer in found.layers] == ["lif", *(f"lif#{i}" for i in range(2, 6))]
    assert [layer.weights for layer in found.layers] == [(), *((f"layers.{i}.weight",) for i in range(4))]
    assert all(float(layer.spikes.mean()) > 0.01 for layer in found.layers)
    report = rb.probe(Own(), x.detach(), torch.randint(8, (6,)))
    assert len(report.layers) == 5
    assert report.layers[0].gain is None, "nothing that could be trained is below it"
    assert report.layers[1].gain == report.layers[1].gradient_norm / report.layers[2].gradient_norm


def test_a_side_branch_that_runs_first_does_not_hide_the_rest() -> None:
    torch.manual_seed(0)

    class Sided(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.side, self.main = nn.Linear(8, 3), nn.ModuleList(nn.Linear(8, 8) for _ in range(5))
            self.lifs = nn.ModuleList(rb.LIF(threshold=0.3) for _ in range(6))
            self.head = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = x.expand(4, -1, -1)
            side = self.side(self.lifs[5](x))
            for layer, lif in zip(self.main, self.lifs, strict=False):
                x = lif(layer(x))
            logits: Tensor = self.head(x) + side
            return logits

    report = rb.probe(Sided(), 2 * torch.randn(12, 8), torch.arange(12) % 3)
    assert [layer.beside for layer in report.layers] == [True, *[False] * 5]
    assert len(report.waists) >= 5


def test_sums_in_place_leave_the_spikes_as_they_were() -> None:
    """`out += identity` is how many residual nets are written."""

    class Added(nn.Module):
        def __init__(self, in_place: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layers, self.in_place = nn.ModuleList(nn.Linear(8, 8) for _ in range(4)), in_place
            self.lifs = nn.ModuleList(rb.LIF(threshold=0.4) for _ in range(5))

        def forward(self, x: Tensor) -> Tensor:
            h = self.lifs[4](x.expand(3, -1, -1))
            for layer, lif in zip(self.layers, self.lifs, strict=False):
                out = lif(layer(h))
                if self.in_place:
                    out += h
                    h = out
                else:
                    h = out + h
            return h

    x, y = torch.randn(8, 8), torch.randint(8, (8,))
    found, wanted = (rb.probe(Added(in_place), x, y) for in_place in (True, False))
    for a, b in zip(found.layers, wanted.layers, strict=True):
        assert (a.rate, a.dead, a.saturated, a.similarity) == (b.rate, b.dead, b.saturated, b.similarity)
        assert a.gradient_norm == b.gradient_norm
        assert 0 < a.rate < 1

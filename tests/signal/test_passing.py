"""One pass up and down sees every neuron, and leaves nothing behind."""

import copy

import pytest
import torch
from torch import Tensor, nn

import rheobase as rb
from rheobase.signal.measures import packed
from rheobase.signal.passing import cross_entropy, passing


def net(name: str = "sew_resnet18") -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = rb.models.create(name, classes=3, in_channels=1, steps=4, width=8)
    return model, 2 * torch.randn(6, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("name", ["plain_convnet", "spiking_resnet18", "sew_resnet18"])
@pytest.mark.parametrize("halves", [False, True])
def test_gradients_are_those_of_the_mean_loss(name: str, halves: bool) -> None:
    model, x, y = net(name)
    found = passing(model, x, y, halves=halves)
    with rb.engine(fused=False), rb.record(model, potentials=True) as tape:
        logits = rb.readout(model(x))
        loss = nn.functional.cross_entropy(logits, y)
        half = nn.functional.cross_entropy(logits[:3], y[:3], reduction="sum") / 6
    torch.testing.assert_close(found.loss, loss.detach())
    assert [layer.path for layer in found.layers] == list(tape)
    named = dict(model.named_parameters())
    wanted = [torch.autograd.grad(part, list(named.values()), retain_graph=True) for part in (loss, half)]
    for index, name in enumerate(named):
        assert len(found.weights[name]) == 1 + halves
        for gradient, want in zip(found.weights[name], wanted, strict=False):
            torch.testing.assert_close(gradient, want[index], rtol=1e-4, atol=1e-6)
    for layer in found.layers:
        trace = tape[layer.path]
        assert torch.equal(layer.spikes, trace.spikes)
        torch.testing.assert_close(layer.potentials, packed(trace.potentials, like=layer.currents))
        for gradient, of in ((layer.currents_grad, trace.currents), (layer.spikes_grad, trace.spikes)):
            want = torch.autograd.grad(loss, of, retain_graph=True)[0]
            torch.testing.assert_close(gradient, want, rtol=1e-4, atol=1e-7)
        assert set(layer.weights) < set(named)
    weights = [name for layer in found.layers for name in layer.weights]
    assert len(set(weights)) == len(weights) == sum(p.dim() > 1 for p in model.features.parameters())
    assert all(float(layer.spikes.mean()) > 0.01 for layer in found.layers)


@pytest.mark.parametrize("training", [True, False])
def test_it_leaves_nothing_behind(training: bool) -> None:
    model, x, y = net()
    model.features.insert(1, nn.Dropout(0.3))
    model.train(training)
    model.features[0].eval()
    model.head.module.weight.grad = torch.ones(3, 64)
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    random = torch.get_rng_state()
    first = passing(model, x, y)
    assert torch.equal(torch.get_rng_state(), random)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert torch.equal(model.head.module.weight.grad, torch.ones(3, 64))
    assert sum(p.grad is not None for p in model.parameters()) == 1
    assert not any(m._forward_hooks or m._backward_hooks for m in model.modules())
    assert torch.equal(first.outputs, passing(model, x, y).outputs), "what is random in it is seeded"
    assert not torch.equal(first.outputs, passing(model, x, y, seed=1).outputs)


def test_also_after_an_error() -> None:
    model, x, y = net()
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    model.eval()
    with pytest.raises(ValueError, match=r"the loss must be one a sample, \[B\] with B >= 1, got \[\]"):
        passing(model, x, y, loss=lambda outputs, labels: cross_entropy(outputs, labels).mean())
    assert not model.training
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))


class Products(nn.Module):
    """Layers that are written as products, one after the other or side by side, and a stream past neurons."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.w, self.v = (nn.Parameter(torch.randn(8, 8)) for _ in range(2))
        self.u = rb.PerStep(nn.Linear(8, 8))
        self.first, self.second = rb.LIF(), rb.LIF()
        self.head = rb.PerStep(nn.Linear(8, 3))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "in a row":
            return self.head(self.second(self.u(self.first(x @ self.w)) @ self.v.T))
        if self.kind == "side by side":
            a, b = x @ self.w, self.u(x @ self.v)
            return self.head(self.first(a) + self.second(b))
        x = x @ self.w
        x = x + self.first(x) @ self.v
        return self.head(self.second(x) + self.u(self.first(x)))


HEARD = {
    "in a row": [("first", {"w"}), ("second", {"u.module.weight", "v"})],
    "side by side": [("first", {"w"}), ("second", {"u.module.weight", "v"})],
    "a stream": [("first", {"w"}), ("second", {"v"}), ("first#2", set())],
}


@pytest.mark.parametrize("kind", HEARD)
def test_weights_are_those_that_currents_are_made_of(kind: str) -> None:
    torch.manual_seed(0)
    model = Products(kind)
    found = passing(model, 2 * torch.randn(4, 6, 8), torch.arange(6) % 3)
    assert [(layer.path, set(layer.weights)) for layer in found.layers] == HEARD[kind]
    assert all(found.weights[name][0].any() for name in ("w", "v", "u.module.weight"))

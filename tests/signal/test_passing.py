"""One pass up and down sees every neuron, and leaves nothing behind."""

import copy

import pytest
import torch
from torch import Tensor, nn

import rheobase as rb
from rheobase.signal.passing import cross_entropy, passing


def net(name: str = "sew_resnet18") -> tuple[nn.Module, Tensor, Tensor]:
    torch.manual_seed(0)
    model = rb.models.create(name, classes=3, in_channels=1, steps=4, width=4)
    return model, 2 * torch.randn(6, 1, 8, 8), torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize("name", ["plain_convnet", "spiking_resnet18", "sew_resnet18"])
@pytest.mark.parametrize("parts", [1, 2, 3])
def test_gradients_are_those_of_the_mean_loss(name: str, parts: int) -> None:
    model, x, y = net(name)
    found = passing(model, x, y, parts=parts)
    with rb.engine(fused=False), rb.record(model, potentials=True) as tape:
        loss = nn.functional.cross_entropy(rb.readout(model(x)), y)
    loss.backward(retain_graph=True)
    torch.testing.assert_close(sum(found.losses), loss.detach())
    assert list(tape) == [layer.path for layer in found.layers]
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(sum(found.weights[name]), parameter.grad, rtol=1e-4, atol=1e-6)
    for layer in found.layers:
        trace = tape[layer.path]
        assert torch.equal(layer.spikes, trace.spikes)
        assert torch.equal(layer.potentials, trace.potentials)
        for gradients, of in ((layer.currents_grad, trace.currents), (layer.spikes_grad, trace.spikes)):
            want = torch.autograd.grad(loss, of, retain_graph=True)[0]
            assert len(gradients) == parts
            torch.testing.assert_close(sum(gradients), want, rtol=1e-4, atol=1e-7)
    assert all(float(layer.spikes.mean()) > 0.01 for layer in found.layers)


@pytest.mark.parametrize("training", [True, False])
def test_it_leaves_nothing_behind(training: bool) -> None:
    model, x, y = net()
    model.features.insert(1, nn.Dropout(0.3))
    model.train(training)
    model.features[0].eval()
    model.head.module.weight.grad = torch.ones(3, 32)
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    random = torch.get_rng_state()
    first = passing(model, x, y)
    assert torch.equal(torch.get_rng_state(), random)
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(a, b) for a, b in zip(before.values(), model.state_dict().values(), strict=True))
    assert torch.equal(model.head.module.weight.grad, torch.ones(3, 32))
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

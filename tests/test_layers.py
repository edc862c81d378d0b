"""CurrentNorm is batch norm over time and batch; Fire and PerStep compose; junctions; the readout."""

import copy

import pytest
import torch
from torch import nn

import rheobase as rb
from rheobase.layers import JUNCTIONS, direct


@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 4, 5, 6), (3, 4, 5, 6, 7)])
def test_current_norm_is_batch_norm_over_time_and_batch(shape: tuple[int, ...]) -> None:
    x = torch.randn(*shape) * 2 + 1
    ours = rb.CurrentNorm(5)
    theirs = [nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d][len(shape) - 3](5)
    for _ in range(3):
        torch.testing.assert_close(ours(x), theirs(x.flatten(0, 1)).view_as(x))
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(x), theirs(x.flatten(0, 1)).view_as(x))


def test_current_norm_of_static_currents_counts_them_once() -> None:
    x = torch.randn(1, 4, 3, 5, 5)
    ours, once = rb.CurrentNorm(3), rb.CurrentNorm(3)
    y = ours(x.expand(6, -1, -1, -1, -1))
    torch.testing.assert_close(y, once(x).expand_as(y))
    assert y.stride(0) == 0
    torch.testing.assert_close(ours.running_var, once.running_var)


def test_current_norm_refuses() -> None:
    with pytest.raises(ValueError, match=r"CurrentNorm: currents must be \[T, B, 4, ...\], got \[2, 3, 5\]"):
        rb.CurrentNorm(4)(torch.rand(2, 3, 5))
    with pytest.raises(ValueError, match="more than one value a channel"):
        rb.CurrentNorm(4)(torch.rand(1, 1, 4))
    with pytest.raises(ValueError, match="channels must be a positive integer, got 0"):
        rb.CurrentNorm(0)


def test_per_step() -> None:
    conv, x = nn.Conv2d(2, 3, 3), torch.randn(4, 2, 2, 6, 6)
    want = torch.stack([conv(step) for step in x])
    torch.testing.assert_close(rb.PerStep(conv)(x), want)
    linear = nn.Linear(5, 2)
    torch.testing.assert_close(rb.PerStep(linear)(torch.ones(3, 4, 5)), linear(torch.ones(3, 4, 5)))


def test_per_step_pays_a_static_input_once_and_gets_its_gradient() -> None:
    calls = []

    class Counted(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls.append(len(x))
            return super().forward(x)

    layer = rb.PerStep(Counted(2, 3, 3))
    image = torch.randn(5, 2, 6, 6, requires_grad=True)
    weights = torch.randn(4, 5, 3, 4, 4)
    (layer(direct(image, 4)) * weights).sum().backward()
    assert calls == [5]
    got, image.grad = image.grad.clone(), None
    (layer(torch.stack([image] * 4)) * weights).sum().backward()
    torch.testing.assert_close(got, image.grad)


def test_per_step_refuses() -> None:
    with pytest.raises(TypeError, match="contains a neuron, which has to see time"):
        rb.PerStep(nn.Sequential(nn.Linear(2, 2), rb.LIF()))
    with pytest.raises(ValueError, match=r"PerStep\(Linear\): input must be \[T, B, ...\]"):
        rb.PerStep(nn.Linear(2, 2))(torch.rand(2, 2))


def test_fire_runs_apart_for_hooks() -> None:
    fire, x, seen = rb.Fire(rb.CurrentNorm(3), rb.LIF()), torch.randn(4, 2, 3, 5, 5), []
    want = fire(x)
    handle = fire.neuron.register_forward_hook(lambda module, inputs, output: seen.append(output))
    assert torch.equal(fire(x), want)
    handle.remove()
    assert torch.equal(fire(x), want)
    assert len(seen) == 1


def test_junctions() -> None:
    a, s = torch.tensor([0.0, 0, 1, 1]), torch.tensor([0.0, 1, 0, 1])
    assert {name: g(a, s).tolist() for name, g in JUNCTIONS.items()} == {
        "add": [0, 1, 1, 2],
        "and": [0, 0, 0, 1],
        "iand": [0, 1, 0, 0],
    }


def test_readout() -> None:
    assert rb.readout(torch.tensor([[[1.0, 2.0]], [[3.0, 6.0]]])).tolist() == [[2, 4]]
    with pytest.raises(ValueError, match=r"\[T, B, classes\], got \[2, 3\]"):
        rb.readout(torch.zeros(2, 3))


def test_global_hooks_see_norm_and_neuron() -> None:
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(type(module).__name__))
    try:
        rb.Fire(rb.CurrentNorm(3), rb.LIF())(torch.randn(4, 2, 3, 5, 5))
    finally:
        handle.remove()
    assert seen == ["CurrentNorm", "LIF", "Fire"]


@pytest.mark.parametrize("wrong", [{"channels": 0}, {"momentum": None}, {"momentum": 1.5}, {"eps": 0}])
def test_norm_names_a_wrong_argument(wrong: dict) -> None:
    with pytest.raises(ValueError, match=f"CurrentNorm: {next(iter(wrong))} must be"):
        rb.CurrentNorm(**{"channels": 3} | wrong)


def test_compiled_training_moves_the_running_statistics_and_takes_a_residual() -> None:
    fire, x, residual = rb.Fire(rb.CurrentNorm(4), rb.LIF()), torch.randn(3, 2, 4, 5, 5), torch.randn(3, 2, 4, 5, 5)
    plain = copy.deepcopy(fire)
    found = []
    for module in (torch.compile(fire, fullgraph=True, backend="aot_eager"), plain):
        inputs = [v.clone().requires_grad_() for v in (x, residual)]
        spikes = module(*inputs)
        spikes.sum().backward()
        found.append([spikes.detach(), *(v.grad for v in inputs)])
    for got, want in zip([*found[0], *fire.buffers()], [*found[1], *plain.buffers()], strict=True):
        torch.testing.assert_close(got, want)

"""CurrentNorm is batch norm over time and batch; Fire and PerStep compose; what cannot be seen does not matter."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rheobase as rb
from rheobase.layers import JUNCTIONS, direct


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


# norms


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


@pytest.mark.parametrize("fused", [True, False])
def test_static_currents_count_at_every_step(fused: bool) -> None:
    """They are in the statistics as often as repeats are."""
    x, found = torch.randn(1, 2, 3, 2, 2), []
    for currents in (x.expand(6, -1, -1, -1, -1), x.repeat(6, 1, 1, 1, 1)):
        fire = rb.Fire(rb.CurrentNorm(3), rb.LIF())
        with rb.engine(fused=fused):
            found.append([fire(currents), fire.norm.running_mean, fire.norm.running_var])
    for expanded, repeated in zip(*found, strict=True):
        torch.testing.assert_close(expanded, repeated)
    want = 0.9 + 0.1 * x.repeat(6, 1, 1, 1, 1).transpose(0, 2).flatten(1).var(1)
    torch.testing.assert_close(found[0][2], want)
    assert found[0][0].any()


def test_current_norm_refuses() -> None:
    with pytest.raises(ValueError, match=r"CurrentNorm: currents must be \[T, B, 4, ...\], got \[2, 3, 5\]"):
        rb.CurrentNorm(4)(torch.rand(2, 3, 5))
    with pytest.raises(ValueError, match="more than one value a channel"):
        rb.CurrentNorm(4)(torch.rand(1, 1, 4))


@pytest.mark.parametrize("wrong", [{"channels": 0}, {"momentum": None}, {"momentum": 1.5}, {"eps": 0}])
def test_norm_names_a_wrong_argument(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"CurrentNorm: {next(iter(wrong))} must be .*, got"):
        rb.CurrentNorm(**{"channels": 3} | wrong)


# steps


def test_per_step() -> None:
    conv, x = nn.Conv2d(2, 3, 3), torch.randn(4, 2, 2, 6, 6)
    want = torch.stack([conv(step) for step in x])
    torch.testing.assert_close(rb.PerStep(conv)(x), want)
    linear = nn.Linear(5, 2)
    torch.testing.assert_close(rb.PerStep(linear)(torch.ones(3, 4, 5)), linear(torch.ones(3, 4, 5)))


def hooked(module: nn.Module, *, backward: bool) -> nn.Module:
    module.seen = []
    if backward:
        module.register_full_backward_hook(lambda m, _, grads: m.seen.append(grads[0].clone()))
    else:
        module.register_forward_hook(lambda m, inputs, _: m.seen.append(inputs[0].detach().clone()))
    return module


MODULES: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Conv2d(2, 3, 3),
    "linear": lambda: nn.Linear(6, 2),
    "sequence": lambda: nn.Sequential(nn.Conv2d(2, 3, 3, bias=False), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten()),
    "max pool": lambda: nn.MaxPool2d(2),
    "group norm": lambda: nn.GroupNorm(2, 2),
    "batch norm": lambda: nn.BatchNorm2d(2),
    "dropout": lambda: nn.Dropout(0.5),
    "forward hook": lambda: hooked(nn.Conv2d(2, 3, 3), backward=False),
    "backward hook": lambda: hooked(nn.Conv2d(2, 3, 3), backward=True),
}


@pytest.mark.filterwarnings("ignore:Full backward hook")
@pytest.mark.parametrize("leaf", ["currents", "image", "weights"])
@pytest.mark.parametrize("name", MODULES)
def test_nobody_sees_that_a_static_input_is_one_memory(name: str, leaf: str) -> None:
    image, found = torch.randn(5, 2, 6, 6), []
    for repeated in (False, True):
        torch.manual_seed(3)
        layer = rb.PerStep(MODULES[name]())
        one = image.clone().requires_grad_(leaf == "image")
        x = one.repeat(4, 1, 1, 1, 1) if repeated else direct(one, 4)
        if leaf == "currents":
            x = x.detach().requires_grad_()
        y = layer(x)
        if y.requires_grad:
            (y * torch.linspace(-1, 2, y.numel()).sin().view_as(y)).sum().backward()
        gradients = [g.grad for g in (x if x.is_leaf else one, *layer.parameters())]
        found.append([y.detach(), *gradients, *layer.buffers(), *getattr(layer.module, "seen", [])])
    assert len(found[0]) == len(found[1])
    for expanded, copied in zip(*found, strict=True):
        torch.testing.assert_close(expanded, copied, rtol=1e-4, atol=1e-5)


def test_a_static_input_is_paid_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, forward = [], nn.Conv2d.forward
    monkeypatch.setattr(nn.Conv2d, "forward", lambda self, x: (calls.append(len(x)), forward(self, x))[1])
    image = torch.randn(5, 2, 6, 6)
    rb.PerStep(nn.Conv2d(2, 3, 3))(direct(image, 4))
    assert calls == [5]


def test_per_step_refuses() -> None:
    with pytest.raises(TypeError, match="contains a neuron, which has to see time"):
        rb.PerStep(nn.Sequential(nn.Linear(2, 2), rb.LIF()))
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.Module, got function"):
        rb.PerStep(torch.nn.functional.relu)
    for shape in ((2, 2), (0, 3, 2)):
        with pytest.raises(ValueError, match=r"PerStep\(Linear\): input must be \[T, B, ...\] with T >= 1, got"):
            rb.PerStep(nn.Linear(2, 2))(torch.rand(shape))
    for module in (nn.Conv2d(2, 3, 3), nn.Sequential(nn.Sequential(nn.ConvTranspose2d(2, 3, 3)), nn.ReLU())):
        name = type(module).__name__
        with pytest.raises(
            ValueError, match=rf"PerStep\({name}\): input must be \[T, B, C, H, W\], got \[5, 2, 8, 8\]"
        ):
            rb.PerStep(module)(torch.rand(5, 2, 8, 8))
        assert rb.PerStep(module)(torch.rand(5, 4, 2, 8, 8)).shape[:3] == (5, 4, 3)
    for gives in (nn.Flatten(0), nn.Unflatten(0, (2, 10))):
        with pytest.raises(ValueError, match="it must keep the first axis, which is of T \\* B = 20 samples, got"):
            rb.PerStep(gives)(torch.rand(5, 4, 2, 8))
    with pytest.raises(TypeError, match=r"PerStep\(Linear\): input must be a tensor, got list"):
        rb.PerStep(nn.Linear(2, 2))([1.0])


def test_fire_refuses_norms_that_know_no_time_and_the_wrong_order() -> None:
    with pytest.raises(TypeError, match=r"Fire: BatchNorm2d knows no time: take CurrentNorm, or PerStep\(BatchNorm2d"):
        rb.Fire(nn.BatchNorm2d(3), rb.LIF())
    with pytest.raises(TypeError, match="Fire: the norm comes first"):
        rb.Fire(rb.LIF(), rb.CurrentNorm(3))
    with pytest.raises(TypeError, match=r"CurrentNorm: currents must be a dense floating point tensor, got torch.bool"):
        rb.Fire(rb.CurrentNorm(3), rb.LIF())(torch.ones(4, 2, 3, dtype=torch.bool))


# fire


def test_fire_runs_apart_for_hooks() -> None:
    fire, x, seen = rb.Fire(rb.CurrentNorm(3), rb.LIF()), torch.randn(4, 2, 3, 5, 5), []
    want = fire(x)
    assert want.any()
    handle = fire.neuron.register_forward_hook(lambda module, inputs, output: seen.append(output))
    assert torch.equal(fire(x), want)
    handle.remove()
    assert torch.equal(fire(x), want)
    assert len(seen) == 1


@pytest.mark.parametrize("child", ["norm", "neuron"])
def test_fire_runs_apart_for_a_replaced_method(child: str) -> None:
    fire, x = rb.Fire(rb.CurrentNorm(3), rb.LIF()), torch.randn(4, 2, 3, 5, 5)
    module = getattr(fire, child)
    module.forward = lambda currents: torch.full_like(currents, 7.0)
    assert fire(x).unique().tolist() == ([7] if child == "neuron" else [1])


def test_global_hooks_see_norm_and_neuron() -> None:
    seen = []
    handle = nn.modules.module.register_module_forward_hook(lambda module, *_: seen.append(type(module).__name__))
    try:
        rb.Fire(rb.CurrentNorm(3), rb.LIF())(torch.randn(4, 2, 3, 5, 5))
    finally:
        handle.remove()
    assert seen == ["CurrentNorm", "LIF", "Fire"]


def test_compiled_training_moves_the_running_statistics_and_takes_a_residual() -> None:
    torch._dynamo.reset()
    fire, x, residual = rb.Fire(rb.CurrentNorm(4), rb.LIF()), torch.randn(3, 2, 4, 5, 5), torch.randn(3, 2, 4, 5, 5)
    plain = copy.deepcopy(fire)
    found = []
    for module in (torch.compile(fire, fullgraph=True, backend="aot_eager"), plain):
        inputs = [v.clone().requires_grad_() for v in (x, residual)]
        spikes = module(*inputs)
        spikes.sum().backward()
        found.append([spikes.detach(), *(v.grad for v in inputs)])
    assert found[0][0].mean() > 0.1
    for got, want in zip([*found[0], *fire.buffers()], [*found[1], *plain.buffers()], strict=True):
        torch.testing.assert_close(got, want)


# the rest


def test_junctions() -> None:
    a, s = torch.tensor([0.0, 0, 1, 1]), torch.tensor([0.0, 1, 0, 1])
    assert {name: g(a, s).tolist() for name, g in JUNCTIONS.items()} == {
        "add": [0, 1, 1, 2],
        "and": [0, 0, 0, 1],
        "iand": [0, 1, 0, 0],
    }


def test_readout() -> None:
    assert rb.readout(torch.tensor([[[1.0, 2.0]], [[3.0, 6.0]]])).tolist() == [[2, 4]]
    with pytest.raises(ValueError, match=r"\[T, B, classes\] with T >= 1, got \[2, 3\]"):
        rb.readout(torch.zeros(2, 3))


def test_direct_coding_copies_nothing() -> None:
    image = torch.rand(5, 2, 6, 6).requires_grad_()
    x = direct(image, 4)
    assert x.stride(0) == 0
    weights = torch.randn(4, 5, 2, 6, 6)
    (x * weights).sum().backward()
    torch.testing.assert_close(image.grad, weights.sum(0))
    assert Tensor.data_ptr(x) == image.data_ptr()


def test_a_state_of_ones_own_at_the_start_sees_the_same_currents_fused_or_not() -> None:
    class Warm(rb.LIF):
        def initial_state(self, current: Tensor) -> Tensor:
            return 0.5 * current

    torch.manual_seed(0)
    fire, x = rb.Fire(rb.CurrentNorm(4), Warm()), 2 + torch.randn(5, 3, 4)
    with rb.engine(fused=False):
        want = fire(x)
    assert 0.05 < want.mean() < 0.5
    assert torch.equal(fire(x), want)
    assert not torch.equal(rb.Fire(fire.norm, rb.LIF())(x), want)


def test_another_default_device_does_not_matter() -> None:
    torch.manual_seed(0)
    fire = rb.Fire(rb.CurrentNorm(4), rb.LIF(torch.full((4, 3), 0.5), learn=("decay",)))
    x = torch.randn(5, 2, 4, 3, requires_grad=True)

    def gradients() -> list[Tensor]:
        spikes = fire(x)
        assert 0.05 < spikes.mean() < 0.5
        return [spikes, *torch.autograd.grad(spikes.sum(), [x, *fire.parameters()])]

    want = gradients()
    with torch.device("meta"):
        for got, wanted in zip(gradients(), want, strict=True):
            assert torch.equal(got, wanted)


@pytest.mark.parametrize("stride", [2, (2, 1), (3, 2)])
def test_a_strided_convolution_of_few_channels_is_the_same(stride: int | tuple[int, int]) -> None:
    """Of these torch itself, channels-last, spoils memory on some CPUs; as contiguous images it does not."""
    torch.manual_seed(0)
    module = torch.nn.Conv2d(4, 8, 1, stride)
    x = torch.randn(3, 24, 4, 9, 8).flatten(0, 1)
    own, given = x.clone().requires_grad_(), x.to(memory_format=torch.channels_last).requires_grad_()
    want, found = module(own), rb.PerStep(module)(given.unflatten(0, (3, 24))).flatten(0, 1)
    weights = torch.randn_like(want)
    of = (module.weight, module.bias)
    wanted, got = (torch.autograd.grad((y * weights).sum(), (z, *of)) for y, z in ((want, own), (found, given)))
    torch.testing.assert_close(found, want)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-4)
    image = given.detach()[:24].expand(3, 24, 4, 9, 8)  # one memory for all steps
    once = rb.PerStep(module)(image)
    torch.testing.assert_close(once, want[:24].expand_as(once))
    (weight,) = torch.autograd.grad((once * weights[:24]).sum(), (module.weight,))
    (same,) = torch.autograd.grad((module(x[:24]) * weights[:24]).sum(), (module.weight,))
    torch.testing.assert_close(weight, 3 * same, rtol=1e-4, atol=1e-4)

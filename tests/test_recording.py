"""rheobase.record: what neurons did, without changing it."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rheobase as rb

FAMILIES = ["plain_convnet", "spiking_resnet18", "sew_resnet18", "ms_resnet18"]
families = pytest.mark.parametrize("name", FAMILIES)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def frames(dtype: torch.dtype = torch.float32, batch: int = 5) -> Tensor:
    return torch.randn(4, batch, 1, 8, 8, generator=torch.Generator().manual_seed(1)).to(dtype)


def net(name: str, dtype: torch.dtype = torch.float32, **options: Any) -> rb.models.Net:
    """In evaluation mode, the norms with the statistics of the frames, so that every layer fires."""
    torch.manual_seed(0)
    model = rb.models.create(name, classes=3, in_channels=1, steps=4, width=8, **options)
    norms = [m for m in model.modules() if isinstance(m, rb.CurrentNorm)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
            norm.weight.uniform_(0.8, 1.2)
        model(frames())
    for norm in norms:
        norm.momentum = 0.1
    return model.to(dtype).eval()


def seen(model: nn.Module, x: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """What goes in and out of every neuron, as torch's hooks see it."""
    found: dict[str, tuple[Tensor, Tensor]] = {}
    handles = [
        module.register_forward_hook(lambda _, inputs, output, path=path: found.update({path: (inputs[0], output)}))
        for path, module in model.named_modules()
        if isinstance(module, rb.Neuron)
    ]
    model(x)
    for handle in handles:
        handle.remove()
    return found


def outcome(model: nn.Module, x: Tensor) -> list[Tensor]:
    """Logits, gradients and running statistics of a call."""
    model.zero_grad()
    logits = model(x)
    (logits.float() * torch.linspace(-1, 1, logits.numel()).view_as(logits)).sum().backward()
    return [logits.detach(), *(p.grad for p in model.parameters()), *(b.clone() for b in model.buffers())]


@families
@torch.no_grad()
def test_it_takes_down_what_goes_in_and_out_of_neurons(name: str) -> None:
    model, x = net(name), frames()
    want = seen(model, x)
    with rb.record(model) as tape:
        model(x)
    assert list(tape) == list(want), "in the order in which they ran"
    assert len(tape) == len(want) >= 6
    for path, (currents, spikes) in want.items():
        assert 0.02 < spikes.mean() < 0.9, path
        assert torch.equal(tape[path].spikes, spikes), path
        torch.testing.assert_close(tape[path].currents, currents, rtol=1e-5, atol=1e-5)
        assert tape[path].potentials is None


@families
@dtypes
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_results_stay_the_same_to_the_last_bit(name: str, dtype: torch.dtype, training: bool) -> None:
    model, x = net(name, dtype).train(training), frames(dtype)
    watched = copy.deepcopy(model)
    want = outcome(model, x)
    with rb.record(watched, potentials=True) as tape:
        got = outcome(watched, x)
    assert all(trace.spikes.any() for trace in tape.values())
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)


@families
@dtypes
def test_a_spike_is_a_potential_at_the_threshold(name: str, dtype: torch.dtype) -> None:
    model, x = net(name, dtype, neuron=rb.LIF(0.9, 0.8)), frames(dtype)
    with rb.record(model, potentials=True) as tape:
        model(x)
    for path, trace in tape.items():
        assert trace.potentials.shape == trace.currents.shape == trace.spikes.shape, path
        assert torch.equal(trace.potentials >= 0.8, trace.spikes > 0), path
        _, v = rb.LIF(0.9, 0.8).run(trace.currents)
        torch.testing.assert_close(trace.potentials[-1] - 0.8 * trace.spikes[-1].float(), v, rtol=1e-4, atol=1e-5)


@families
def test_a_loss_on_any_of_it_is_differentiable(name: str) -> None:
    model, x = net(name).train(), frames()
    path = [path for path, module in model.named_modules() if isinstance(module, rb.Neuron)][3]
    for what in ("potentials", "spikes", "currents"):
        found = []
        for fused, engine in ((True, "auto"), (False, "reference")):
            model.zero_grad()
            with rb.engine(engine, fused=fused), rb.record(model, potentials=True) as tape:
                model(x)
            getattr(tape[path], what).square().sum().backward()
            found.append([p.grad for p in model.parameters()])
        assert sum(g is not None for g in found[0]) >= 6
        largest = max(g.abs().max() for g in found[1] if g is not None).item()
        torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-5 * largest)
        assert found[0][0].any(), "it reaches the first weights"


@pytest.mark.parametrize("engine", ["numba", "reference"])
@pytest.mark.parametrize("name", FAMILIES[:3])  # (in an MS net what drives a neuron also goes on past it)
def test_unfused_a_loss_has_a_gradient_with_respect_to_currents(name: str, engine: str) -> None:
    model, x, want = net(name), frames(), {}
    with rb.engine(engine, fused=False), rb.record(model) as tape:
        loss = model(x).square().sum()
    found = torch.autograd.grad(loss, [trace.currents for trace in tape.values()])
    for path in tape:
        hook = lambda _, into, out, path=path: want.update({path: into[0]})  # noqa: E731
        model.get_submodule(path).register_full_backward_hook(hook)
    with rb.engine(engine, fused=False):
        model(x).square().sum().backward()
    for path, gradient in zip(tape, found, strict=True):
        assert gradient.any()
        torch.testing.assert_close(gradient, want[path])


@torch.no_grad()
def test_around_a_stream_it_has_all_steps() -> None:
    model, x = net("sew_resnet18", neuron=rb.LIF(0.9)), frames()
    want, state = rb.run(model, x)
    with rb.record(model, potentials=True) as tape:
        first, states = rb.run(model, x[:1])
        rest, states = rb.run(model, x[1:], states)
    assert torch.equal(torch.cat([first, rest]), want)
    assert all(torch.equal(states[path], state[path]) for path in state)
    with rb.record(model, potentials=True) as whole:
        model(x)
    assert list(tape) == list(whole)
    for path in whole:
        assert torch.equal(tape[path].spikes, whole[path].spikes), path
        torch.testing.assert_close(tape[path].currents, whole[path].currents, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(tape[path].potentials, whole[path].potentials, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_stream_from_rest_begins_anew() -> None:
    model, x = net("plain_convnet"), frames()
    with rb.record(model) as tape:
        model(x)
        rb.run(model, x)
        rb.run(model, x)
    assert {len(trace.spikes) for trace in tape.values()} == {4}, "it has the last call, not all of them"


def test_within_another_the_inner_one_looks() -> None:
    model, x = net("plain_convnet"), frames()
    with rb.record(model) as outer:
        with rb.record(model, potentials=True) as inner:
            model(x)
        assert len(inner) == 6
        model(x[:2])
    assert len(outer) == 6
    assert {len(trace.spikes) for trace in outer.values()} == {2}
    assert {len(trace.spikes) for trace in inner.values()} == {4}


def test_of_two_calls_it_has_the_last() -> None:
    model, x = net("plain_convnet"), frames()
    with rb.record(model) as tape:
        model(x)
        first = tape["features.1.neuron"]
        model(-x)
        last = tape["features.1.neuron"]
    assert not torch.equal(first.spikes, last.spikes)
    with rb.record(model) as tape:
        model(-x)
    assert torch.equal(tape["features.1.neuron"].spikes, last.spikes)
    model(x)
    assert torch.equal(tape["features.1.neuron"].spikes, last.spikes), "what ran after it is not on it"


def test_nothing_is_left_after_an_error() -> None:
    model, x = net("plain_convnet"), frames()
    want = model(x)
    with pytest.raises(ValueError, match="images must be"), rb.record(model, potentials=True) as tape:
        model(frames()[:, :, :, 0])
    assert torch.equal(model(x), want)
    assert len(tape) == 0


class Own(rb.Neuron):
    """With two states, of which the first is its potential."""

    def initial_state(self, current: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(current), torch.zeros_like(current)

    def step(self, current: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        v, last = state
        u = 0.9 * v + current * (1 - last)
        s = rb.spike(u - 1)
        return s, (u * (1 - s.detach()), s.detach())


def test_of_a_neuron_of_ones_own_it_has_the_first_state() -> None:
    model, x = net("sew_resnet18", neuron=Own()), frames()
    want = model(x)
    with rb.record(model, potentials=True) as tape:
        assert torch.equal(model(x), want)
    for path, trace in tape.items():
        v, _ = Own().run(trace.currents)[1]
        assert torch.equal(trace.potentials[-1], v), path
        assert trace.spikes.any()
        assert not trace.potentials[trace.spikes > 0].any(), "after the reset"


def test_a_neuron_within_another_is_a_part_of_it() -> None:
    model, x = nn.Sequential(rb.Recurrent(rb.LIF(), nn.Linear(3, 3)), rb.LIF()), 3 * torch.rand(4, 2, 3)
    with rb.record(model) as tape:
        model(x)
    assert list(tape) == ["0", "1"]
    assert torch.equal(tape["0"].currents, x)


def test_static_images_are_taken_down_at_every_step() -> None:
    model, images = net("plain_convnet"), frames()[0]
    with rb.record(model, potentials=True) as tape:
        logits = model(images)
    assert logits.shape[0] == 4
    assert {len(part) for trace in tape.values() for part in trace} == {4}
    torch.testing.assert_close(tape["features.1.neuron"].currents[0], tape["features.1.neuron"].currents[3])


@pytest.mark.parametrize("way", ["wrapped", "in place"])
def test_a_compiled_model_is_recorded(way: str) -> None:
    model, x = net("plain_convnet"), frames()
    torch._dynamo.reset()
    if way == "in place":
        model.compile(backend="eager", fullgraph=True)
    compiled = torch.compile(model, backend="eager", fullgraph=True) if way == "wrapped" else model
    want = compiled(x)
    with rb.record(compiled, potentials=True) as tape:
        got = compiled(x)
    assert len(tape) == 6
    torch.testing.assert_close(got, want)
    torch.testing.assert_close(compiled(x), want)


def test_what_is_not_there_is_named() -> None:
    model = net("plain_convnet")
    with rb.record(model) as tape:
        with pytest.raises(KeyError, match="nothing yet"):
            tape["features.1.neuron"]
        model(frames())
    with pytest.raises(KeyError, match=r"no trace of 'features\.1'; there is: features\.1\.neuron"):
        tape["features.1"]
    twin = rb.models.create("plain_convnet", classes=3, in_channels=1, spiking=False)
    with pytest.raises(ValueError, match="the model has no neurons"), rb.record(twin):
        pass


def test_plot(tmp_path: Path) -> None:
    model = net("plain_convnet")
    with rb.record(model) as tape:
        with pytest.raises(ValueError, match="nothing was recorded"):
            tape.plot(tmp_path / "empty.png")
        model(frames())
    pytest.importorskip("matplotlib", reason="plots are drawn with matplotlib, which is not installed")
    tape.plot(tmp_path / "raster.png", sample=1, neurons=50)
    assert (tmp_path / "raster.png").read_bytes().startswith(b"\x89PNG")


def test_sums_in_place_leave_the_spikes_as_they_were() -> None:
    """`out += identity` is how many residual nets are written."""

    class Added(nn.Module):
        def __init__(self, in_place: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer, self.lif, self.in_place = nn.Linear(8, 8), rb.LIF(threshold=0.4), in_place

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.lif(self.layer(x))
            if not self.in_place:
                return out + x
            out += x
            return out

    x = torch.randn(3, 5, 8)
    found = []
    for in_place in (True, False):
        model = Added(in_place)
        with rb.record(model) as tape:
            y = model(x)
        spikes = tape["lif"].spikes
        assert set(spikes.unique().tolist()) == {0.0, 1.0}
        found.append([y, spikes, *torch.autograd.grad(y.square().sum(), [spikes, model.layer.weight])])
        assert torch.equal(y, model(x))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)
    assert found[0][2].any()

"""rheobase.run: pieces equal the whole, memory stays flat in T, state lives in no module."""

import subprocess
import sys
import textwrap
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rheobase as rb


def sequence(steps: int = 7, batch: int = 5) -> Tensor:
    return torch.randn(steps, batch, 1, 8, 8, generator=torch.Generator().manual_seed(1))


def net(name: str = "sew_resnet18", **options: Any) -> rb.models.Net:
    """In evaluation mode, the norms with the statistics of the sequence, so that every layer fires."""
    torch.manual_seed(0)
    sizes = {"width": 4, "image_size": 8, "layers": "R9-8"}
    sizes = {key: value for key, value in sizes.items() if key in rb.models.options(name)}
    model = rb.models.create(name, **{"classes": 3, "in_channels": 1, "steps": 4, **sizes, **options})
    norms = [m for m in model.modules() if isinstance(m, rb.CurrentNorm)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
            norm.weight.uniform_(0.8, 1.2)
        model(sequence(3))
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


def streamed(model: nn.Module, pieces: list[Tensor]) -> tuple[Tensor, dict[str, Any]]:
    logits, state = [], None
    for piece in pieces:
        out, state = rb.run(model, piece, state)
        logits.append(out)
    return torch.cat(logits), state


def check(model: nn.Module, x: Tensor, whole: Tensor) -> None:
    """In pieces it is the whole; and where a state is forgotten, or only that of the last neuron, it is not."""
    split = len(x) // 3
    got, state = streamed(model, [x[:split], x[split:]])
    torch.testing.assert_close(got, whole, rtol=1e-4, atol=1e-5)
    _, state = rb.run(model, x[:split])
    last = list(state)[-1]
    for forgetful in (None, state | {last: torch.zeros_like(state[last])}):
        wrong, _ = rb.run(model, x[split:], forgetful)
        assert not torch.allclose(wrong, whole[split:], rtol=1e-2, atol=1e-3), "the state makes no difference here"


@pytest.mark.parametrize("name", rb.models.names())
@torch.no_grad()
def test_every_model_streams(name: str) -> None:
    deep = name.endswith(("50", "101", "152"))
    model, x = net(name, neuron=rb.LIF(0.9), **({"width": 1} if deep else {})), sequence(3 if deep else 6, 8)
    with rb.record(model) as tape:
        whole = model(x)
    rates = torch.stack([trace.spikes.mean() for trace in tape.values()])
    assert rates[-1] > 0.02, "a silent net would pass any test"
    assert (rates > 0).float().mean() > 0.9
    check(model, x, whole)


NEURONS = {
    "delayed": lambda: rb.LIF(reset="delayed"),
    "CubaLIF": rb.CubaLIF,
    "AdaptiveLIF": rb.AdaptiveLIF,
    "LateralLIF": lambda: rb.LateralLIF(-0.3, 2.5),
    "Recurrent": lambda: rb.Recurrent(rb.LIF(), nn.Identity()),
}


@pytest.mark.parametrize("neuron", NEURONS)
@torch.no_grad()
def test_pieces_of_any_length_equal_the_whole(neuron: str) -> None:
    model, x = net(neuron=NEURONS[neuron]()), sequence(7)
    whole = model(x)
    assert whole.std(0).mean() > 1e-3
    got, _ = streamed(model, list(x.split([2, 1, 4])))
    torch.testing.assert_close(got, whole)
    torch.testing.assert_close(model(x), whole)


@torch.no_grad()
def test_an_own_net_streams() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        *(rb.PerStep(nn.Linear(6, 8)), rb.CubaLIF(), rb.PerStep(nn.Linear(8, 8)), rb.LIF(0.9, 0.2)),
        *(rb.PerStep(nn.Linear(8, 2)), rb.Integrator(0.9)),
    ).eval()
    x = 6 * torch.randn(9, 4, 6)
    whole = model(x)
    assert 0.05 < model[:4](x).mean() < 0.9
    got, state = streamed(model, list(x.split([1, 5, 3])))
    torch.testing.assert_close(got, whole)
    assert list(state) == ["1", "3", "5"]
    assert not torch.allclose(rb.run(model, x[5:])[0], whole[5:], atol=1e-2)


# images, wrapped and compiled models


class Wrapper(nn.Module):
    """As DataParallel and others hold a net."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.module(*inputs)


@pytest.mark.parametrize("wrap", [lambda m: m, Wrapper, nn.DataParallel], ids=["plain", "wrapped", "DataParallel"])
@torch.no_grad()
def test_static_images_run_for_the_models_steps(wrap: Any) -> None:
    model, images = net(), sequence()[0]
    want = model(images)
    assert want.shape == (4, 5, 3)
    assert not torch.allclose(want[0], want[3], atol=1e-3)
    wrapped = wrap(model).eval()
    torch.testing.assert_close(rb.run(wrapped, images)[0], want)
    got, _ = streamed(wrapped, [images.expand(2, *images.shape)] * 2)
    torch.testing.assert_close(got, want)


@pytest.mark.parametrize("way", ["wrapped", "in place", "a part"])
@torch.no_grad()
def test_a_compiled_model_streams_as_if_it_were_not(way: str) -> None:
    calls = []

    def backend(graph: Any, inputs: list[Tensor]) -> Any:
        return lambda *inputs: (calls.append(1), graph(*inputs))[1]

    model, x = net("plain_convnet", depth=3), sequence()
    whole = model(x)
    torch._dynamo.reset()
    compiled = torch.compile(model, backend=backend, fullgraph=True) if way == "wrapped" else model
    first, state = rb.run(compiled, x[:2])
    if way == "in place":  # (in the middle of the stream)
        model.compile(backend=backend, fullgraph=True)
    if way == "a part":
        model.features[3].compile(backend=backend, fullgraph=True)
    torch.testing.assert_close(compiled(x), whole)
    second, state = rb.run(compiled, x[2:3], state)
    torch.testing.assert_close(compiled(x), whole)
    assert len(calls) == 2
    rest, _ = rb.run(compiled, x[3:], state)
    torch.testing.assert_close(torch.cat([first, second, rest]), whole)
    assert len(calls) == 2


def test_a_model_that_compiles_itself_when_it_is_called_streams() -> None:
    """In a process of its own, in which nothing has loaded the compiler before the stream begins."""
    code = """
        import sys, torch, rheobase as rb
        class Lazy(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.net, self.fast = torch.nn.Sequential(rb.PerStep(torch.nn.Linear(4, 4)), rb.LIF(0.9)), None
            def forward(self, x):
                if self.fast is None:
                    self.fast = torch.compile(self.net, backend="eager")
                return self.fast(x)
        torch.manual_seed(0)
        model, x = Lazy().eval(), 3 * torch.rand(6, 2, 4)
        assert "torch._dynamo" not in sys.modules
        first, state = rb.run(model, x[:3])
        rest, _ = rb.run(model, x[3:], state)
        whole = model.net(x)
        assert 0 < whole.mean() < 1
        assert torch.equal(torch.cat([first, rest]), whole)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=120)


# memory


@torch.no_grad()
def test_memory_is_flat_in_time() -> None:
    model, sizes = net("plain_convnet"), []
    for steps in (2, 40):
        peak = 0

        def count(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            nonlocal peak
            peak = max(peak, output.numel())

        handles = [m.register_forward_hook(count) for m in model.modules()]
        rb.run(model, sequence(steps))
        for handle in handles:
            handle.remove()
        sizes.append(peak)
    assert sizes[0] == sizes[1]


def test_no_graph_is_kept() -> None:
    logits, state = rb.run(net(), sequence())
    assert not logits.requires_grad
    assert not any(v.requires_grad for v in state.values())


def test_a_state_is_not_changed_by_those_who_go_on_from_it() -> None:
    model, x = net("plain_convnet"), sequence()
    _, state = rb.run(model, x[:2])
    kept = {path: v.clone() for path, v in state.items()}
    one, two = (rb.run(model, x[2:], state)[0] for _ in range(2))
    assert torch.equal(one, two)
    assert all(torch.equal(state[path], v) for path, v in kept.items())


# refusals


def test_refusals() -> None:
    model, x = net("plain_convnet"), sequence()
    _, state = rb.run(model, x)
    with pytest.raises(ValueError, match="ANN twin, which has no time"):
        rb.run(rb.models.create("plain_convnet", classes=2, in_channels=1, spiking=False).eval(), x)
    with pytest.raises(ValueError, match=r"training mode.*model\.eval\(\) first"):
        rb.run(net("plain_convnet").train(), x)
    half = net("plain_convnet")
    half.features[1].train()
    with pytest.raises(ValueError, match="training mode"):
        rb.run(half, x)
    with pytest.raises(ValueError, match="state is of another model: 'elsewhere'"):
        rb.run(model, x, {"elsewhere": torch.zeros(1)})
    with pytest.raises(ValueError, match=r"state is of another model: 'features\.11"):
        rb.run(net("plain_convnet", depth=5), x, state)
    with pytest.raises(ValueError, match=r"LIF: state must be \[3, 4, 8, 8\].* got \[5, 4, 8, 8\]"):
        rb.run(model, x[:, :3], state)
    with pytest.raises(ValueError, match=r"T >= 1, got shape \[0, 5, 1, 8, 8\]"):
        rb.run(model, x[:0])


class Static(nn.Module):
    """It takes a batch of images and shows them for steps of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.fire = rb.PerStep(nn.Linear(64, 9)), rb.Fire(rb.CurrentNorm(9), rb.LIF())

    def forward(self, images: Tensor) -> Tensor:
        return self.fire(self.hidden(images.flatten(1).expand(4, -1, -1)))


class Mean(nn.Sequential):
    """It gives the mean over time."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mean(0)


def test_a_batch_of_images_is_not_taken_for_time() -> None:
    images = 3 * torch.rand(4, 1, 8, 8)
    model = Static().eval()
    assert model(images).shape == (4, 4, 9)
    said = r"run: inputs \[4, 1, 8, 8\] are taken for 4 steps .*must give \[1, 1, ...\], got \[4, 1, 9\]"
    with pytest.raises(ValueError, match=said):
        rb.run(model, images)
    with pytest.raises(ValueError, match=r"one of them, \[1, 5, 6\], the model must give \[1, 5, ...\], got \[5, 6\]"):
        rb.run(Mean(rb.LIF()).eval(), torch.rand(3, 5, 6))
    with pytest.raises(ValueError, match=r"must give \[1, 5, ...\], got tuple"):
        rb.run(nn.Sequential(rb.Fire(nn.Identity(), rb.LIF(), drive=True)).eval(), torch.rand(3, 5, 6))


def test_one_neuron_at_two_places_cannot_be_streamed() -> None:
    lif = rb.LIF()
    twice = nn.Sequential(lif, lif).eval()
    with pytest.raises(RuntimeError, match="called twice in one pass"):
        rb.run(twice, torch.rand(2, 3))


class Skips(nn.Module):
    """It has a neuron that it does not call."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = rb.LIF(), rb.LIF()

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


class Bypassed(rb.LIF):
    """It does not tell what it does."""

    def forward(self, currents: Tensor) -> Tensor:
        return (currents > 1).float()


@pytest.mark.parametrize(("model", "path"), [(Skips(), "unused"), (nn.Sequential(rb.LIF(), Bypassed()), "1")])
def test_a_neuron_that_leaves_no_state_is_an_error(model: nn.Module, path: str) -> None:
    with pytest.raises(RuntimeError, match=f"the neuron '{path}' left no state"):
        rb.run(model.eval(), torch.rand(2, 3))


class Twofold(rb.LIF):
    """A neuron with another one before it."""

    def __init__(self) -> None:
        super().__init__(0.9)
        self.first = rb.LIF(0.9)

    def forward(self, currents: Tensor) -> Tensor:
        return super().forward(self.first(currents))


def shared() -> nn.Module:
    lif = rb.LIF(0.9)
    return nn.Sequential(rb.Recurrent(lif, nn.Linear(6, 6)), rb.PerStep(nn.Linear(6, 6)), lif)


@pytest.mark.parametrize("make", [lambda: nn.Sequential(Twofold()), shared], ids=["one within another", "shared"])
@torch.no_grad()
def test_a_neuron_whose_state_would_be_lost_is_refused(make: Any) -> None:
    torch.manual_seed(0)
    model, x = make().eval(), 2 * torch.randn(6, 20, 6) + 0.5
    assert 0.1 < model(x).mean() < 0.9
    with pytest.raises(RuntimeError, match=r"(state|twice)"):
        rb.run(model, x)


def test_an_error_within_leaves_no_stream_behind() -> None:
    model, x, lif = net(), sequence(), rb.LIF()
    want = model(x)
    with pytest.raises(ValueError, match="images must be"):
        rb.run(model, torch.rand(2, 2, 5, 8, 8))
    assert torch.equal(model(x), want)
    with pytest.raises(RuntimeError, match="called twice"):
        rb.run(nn.Sequential(lif, lif).eval(), torch.rand(2, 3))
    nn.Sequential(lif, lif)(torch.rand(2, 3))


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.spiking, self.gates = rb.LIF(), nn.GRU(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.gates(self.spiking(x))[0]
        return found


def test_recurrent_layers_of_torch_are_refused() -> None:
    with pytest.raises(ValueError, match=r"run: gates \(GRU\) has a state of its own"):
        rb.run(Gated().eval(), torch.rand(3, 2, 8))

"""What every neuron promises, built in or one's own: each test runs over all kinds."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import rheobase as rb

C = 6  # units of a layer, channels of an image, and its size: one neuron then fits everywhere


class Own(rb.Neuron):
    """Two states, and a number that is learned: it integrates, and rests a step after a spike."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(1.2))

    def initial_state(self, current: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(current), torch.zeros_like(current)

    def step(self, current: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        v, last = state
        u = 0.9 * v + self.gain * current * (1 - last)
        s = rb.spike(u - 1)
        return s, (u * (1 - s.detach()), s.detach())


class OwnStep(rb.LIF):
    """It forgets half as much again."""

    def step(self, current: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return super().step(current, 0.5 * state)


class OwnRest(rb.LIF):
    """It starts from a potential that is learned."""

    def __init__(self) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.tensor(0.6))

    def initial_state(self, current: Tensor) -> Tensor:
        return self.start.expand(current.shape)


class OwnDecay(rb.LIF):
    """Its decay is a function of a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.5))

    @property
    def decay(self) -> Tensor:
        return torch.sigmoid(self.w)

    @decay.setter
    def decay(self, value: Any) -> None:
        pass


class OwnForward(rb.LIF):
    """Its spikes are worth two."""

    def forward(self, currents: Tensor) -> Tensor:
        return 2 * super().forward(currents)


class OwnSurrogate(rb.LIF):
    """Its surrogate is always this one."""

    @property
    def surrogate(self) -> rb.surrogate.Surrogate:
        return rb.surrogate.ATan(5.0)

    @surrogate.setter
    def surrogate(self, value: rb.surrogate.Surrogate) -> None:
        pass


def bare(current: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    u = 0.4 * state + current
    s = rb.spike(u - 1)
    return s, u - s.detach()


def replaced() -> rb.LIF:
    neuron = rb.LIF()
    neuron.step = bare
    return neuron


def several(low: float, high: float) -> Tensor:
    return torch.linspace(low, high, C)


KINDS: dict[str, Callable[[], rb.Neuron]] = {
    "LIF": rb.LIF,
    "LIF hard": lambda: rb.LIF(reset="hard"),
    "LIF none": lambda: rb.LIF(reset="none"),
    "LIF delayed": lambda: rb.LIF(reset="delayed"),
    "LIF through the reset": lambda: rb.LIF(detach_reset=False),
    "LIF per channel": lambda: rb.LIF(several(0.2, 0.9), several(0.5, 1.5), input_scale=several(0.8, 1.2)),
    "LIF learned": lambda: rb.LIF(several(0.2, 0.9), learn=("decay", "threshold", "input_scale")),
    "IF": rb.IF,
    "CubaLIF": rb.CubaLIF,
    "CubaLIF learned": lambda: rb.CubaLIF(several(0.2, 0.5), learn=("current_decay", "decay")),
    "AdaptiveLIF": lambda: rb.AdaptiveLIF(adaptation=0.5),
    "AdaptiveLIF learned": lambda: rb.AdaptiveLIF(adaptation=several(0.1, 0.9), learn="adaptation"),
    "LateralLIF": lambda: rb.LateralLIF(-0.3, 2.5, 0.8, 0.7),
    "LateralLIF learned": lambda: rb.LateralLIF(-0.3, decay=several(0.2, 0.9), learn=("decay", "threshold")),
    "Integrator": lambda: rb.Integrator(0.9),
    "Integrator learned": lambda: rb.Integrator(several(0.2, 0.9), learn=("decay", "input_scale")),
    "Recurrent": lambda: rb.Recurrent(rb.LIF(), nn.Linear(C, C)),
    "Recurrent learned": lambda: rb.Recurrent(rb.LIF(learn=("decay",)), nn.Linear(C, C)),
    "own": Own,
    "own step": OwnStep,
    "own rest": OwnRest,
    "own decay": OwnDecay,
    "own forward": OwnForward,
    "own surrogate": OwnSurrogate,
    "step replaced": replaced,
}  # fmt: skip
LEARNED = [name for name in KINDS if "learned" in name] + ["Recurrent", "own", "own rest", "own decay"]
every = pytest.mark.parametrize("name", KINDS)


def make(name: str) -> Any:
    torch.manual_seed(1)
    return KINDS[name]()


def currents(*shape: int, seed: int = 0) -> Tensor:
    """`[T, B, C, ...]`, by default of 12 steps and 5 samples, at which all kinds fire now and then."""
    shape = shape or (12, 5, C)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 0.4


def leaves(state: Any) -> list[Tensor]:
    return [leaf for part in state for leaf in leaves(part)] if isinstance(state, tuple) else [state]


def assert_equal(got: Any, want: Any) -> None:
    """Of tensors, or states."""
    for a, b in zip(leaves(got), leaves(want), strict=True):
        assert torch.equal(a, b)


def gradients(neuron: Any, run: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, list[Tensor | None]]:
    """The outputs; the gradients of currents and parameters under an arbitrary, fixed loss."""
    x = x.clone().requires_grad_()
    neuron.zero_grad()
    y = run(x)
    (y * torch.randn(y.shape, generator=torch.Generator().manual_seed(7))).sum().backward()
    return y.detach(), [x.grad, *(p.grad for p in neuron.parameters())]


@every
def test_it_fires_now_and_then(name: str) -> None:
    y = make(name)(currents())
    assert 0.1 < float((y != 0).float().mean()) < 0.9 or name.startswith("Integrator")


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("whole", [False, True], ids=["currents", "net"])
def test_shape_and_dtype_are_those_of_the_currents(name: str, dtype: torch.dtype, whole: bool) -> None:
    neuron, x = make(name), currents().to(dtype)
    if whole:
        neuron.to(dtype)
    elif name.startswith("Recurrent") and dtype is torch.float64:
        pytest.skip("a Linear of float32 takes no float64")
    y = neuron(x)
    assert y.shape == x.shape
    assert y.dtype is dtype
    _, state = neuron.run(x)
    assert {leaf.dtype for leaf in leaves(state)} == {torch.promote_types(dtype, torch.float32)}


@every
def test_nothing_is_to_be_reset(name: str) -> None:
    neuron, x = make(name), currents()
    assert torch.equal(neuron(x), neuron(x))


@every
@torch.no_grad()
def test_pieces_equal_the_whole(name: str) -> None:
    neuron, x = make(name), currents()
    whole, end = neuron.run(x)
    pieces, state = [], None
    for piece in x.split([1, 5, 2, 4]):
        outputs, state = neuron.run(piece, state)
        pieces.append(outputs)
    assert torch.equal(torch.cat(pieces), whole)
    assert_equal(state, end)
    forgotten, _ = neuron.run(x[6:])
    assert not torch.equal(forgotten, whole[6:]), "without the state it is not the same"


@every
def test_gradients_pass_from_piece_to_piece(name: str) -> None:
    neuron, x = make(name), currents()

    def pieces(x: Tensor) -> Tensor:
        first, state = neuron.run(x[:5])
        return torch.cat([first, neuron.run(x[5:], state)[0]])

    got, found = gradients(neuron, pieces, x)
    want, wanted = gradients(neuron, lambda x: neuron.run(x)[0], x)
    assert torch.equal(got, want)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@every
@torch.no_grad()
def test_it_streams_within_a_net(name: str) -> None:
    net, x = nn.Sequential(rb.PerStep(nn.Linear(C, C)), make(name)).eval(), 3 * currents()
    first, state = rb.run(net, x[:5])
    rest, state = rb.run(net, x[5:], state)
    torch.testing.assert_close(torch.cat([first, rest]), net(x))
    assert list(state) == ["1"]
    for got, want in zip(leaves(state["1"]), leaves(net[1].run(net[0](x))[1]), strict=True):
        torch.testing.assert_close(got, want)
    with pytest.raises(ValueError, match="state must be"):
        rb.run(net, x[:, :3], state)


@every
def test_gradients_reach_currents_and_every_parameter(name: str) -> None:
    neuron = make(name)
    assert bool(list(neuron.parameters())) == (name in LEARNED)
    for gradient in gradients(neuron, neuron, currents())[1]:
        assert gradient.isfinite().all()
        assert gradient.count_nonzero() > gradient.numel() // 2


@every
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_fire_is_norm_and_neuron(name: str, training: bool) -> None:
    fire, x = rb.Fire(rb.CurrentNorm(C), make(name)).train(training), currents(4, 3, C, 5, C)
    got, found = gradients(fire, fire, x)
    want, wanted = gradients(fire, lambda x: fire.neuron(fire.norm(x)), x)
    assert want.count_nonzero() > want.numel() // 10
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def awake(model: nn.Module, inputs: Tensor) -> nn.Module:
    """The model in evaluation mode, its norms with the statistics of these inputs, so that every layer fires."""
    norms = [m for m in model.modules() if isinstance(m, rb.CurrentNorm)]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train()(inputs)
    for norm in norms:
        norm.momentum = 0.1
    return model.eval()


@every
@pytest.mark.parametrize("family", ["plain_mlp", "plain_convnet"])
@torch.no_grad()
def test_models_are_built_with_it(name: str, family: str) -> None:
    options = {"image_size": C} if family == "plain_mlp" else {"depth": 1}
    model = rb.models.create(family, classes=3, in_channels=2, width=C, neuron=make(name), **options)
    frames = currents(7, 20, 2, C, C)
    awake(model, frames)
    with rb.record(model) as tape:
        whole = model(frames)
    assert all(trace.spikes.count_nonzero() > trace.spikes.numel() // 20 for trace in tape.values())
    first, state = rb.run(model, frames[:3])
    rest, _ = rb.run(model, frames[3:], state)
    torch.testing.assert_close(torch.cat([first, rest]), whole)
    forgotten, _ = rb.run(model, frames[3:])
    assert not torch.allclose(forgotten, rest, atol=1e-3)


@every
def test_copies_are_the_same_neuron(name: str) -> None:
    neuron, x = make(name), currents()
    want = gradients(neuron, neuron, x)
    for copied in (copy.deepcopy(neuron), pickle.loads(pickle.dumps(neuron))):
        assert repr(copied) == repr(neuron)
        assert_equal(tuple(gradients(copied, copied, x)[1]), tuple(want[1]))
        assert torch.equal(copied(x), want[0])


@every
@torch.no_grad()
def test_the_state_dict_is_all_of_it(name: str) -> None:
    neuron, x = make(name), currents()
    for number in [*neuron.parameters(), *neuron.buffers()]:
        number *= 0.7
    fresh, want = make(name), neuron(x)
    assert not torch.equal(fresh(x), want) or name == "step replaced"
    fresh.load_state_dict(neuron.state_dict())
    assert torch.equal(fresh(x), want)
    assert repr(fresh) == repr(neuron)


@every
def test_a_state_of_another_batch_is_refused(name: str) -> None:
    neuron, x = make(name), currents()
    _, state = neuron.run(x)
    with pytest.raises(ValueError, match=r"state must be \[3, 6\].* got \[5, 6\]"):
        neuron.run(x[:, :3], state)
    with pytest.raises((ValueError, TypeError), match="state"):
        neuron.run(x, (*leaves(state), x[0]))


@every
def test_an_empty_batch_is_fine(name: str) -> None:
    neuron, x = make(name), currents()[:, :0].requires_grad_()
    y = neuron(x)
    assert y.shape == (12, 0, C)
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert all(p.grad is not None and not p.grad.any() for p in neuron.parameters())


@every
def test_on_meta_it_is_shown_and_runs(name: str) -> None:
    moved = make(name).to("meta")
    assert type(moved).__name__ in repr(moved)
    assert moved(currents().to("meta")).shape == currents().shape
    with torch.device("meta"):
        built = make(name)
    for neuron in (moved, built):
        assert {p.device.type for p in [*neuron.parameters(), *neuron.buffers()]} <= {"meta"}
        repr(neuron)
    built.to_empty(device="cpu").load_state_dict(make(name).state_dict())
    assert torch.equal(built(currents()), make(name)(currents()))


@every
def test_under_autocast_states_are_float32(name: str) -> None:
    neuron = make(name)
    with torch.autocast("cpu", torch.bfloat16):
        y, state = neuron.run(currents().bfloat16())
    assert y.dtype is torch.bfloat16
    assert {leaf.dtype for leaf in leaves(state)} == {torch.float32}


class OwnSum(rb.Neuron):
    """It adds up."""

    def step(self, current: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return state + current, state + current


@pytest.mark.parametrize("neuron", [OwnSum(), rb.Integrator()], ids=repr)
def test_under_autocast_sums_do_not_stand_still(neuron: rb.Neuron) -> None:
    net = nn.Sequential(rb.PerStep(nn.Linear(1, 1, bias=False)), neuron)
    nn.init.constant_(net[0].module.weight, 0.01)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y = net(torch.ones(1000, 1, 1))
    assert y[-1].item() == pytest.approx(10, rel=0.01)


@every
def test_compiled_it_is_the_same(name: str) -> None:
    neuron, x = make(name), currents(4, 3, C)
    want, wanted = gradients(neuron, neuron, x)
    assert want.any()
    torch._dynamo.reset()
    compiled = torch.compile(neuron, backend="aot_eager", fullgraph=True)
    got, found = gradients(neuron, compiled, x)
    assert torch.equal(got, want)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-6)


def stepwise(neuron: rb.Neuron, x: Tensor) -> Tensor:
    """The first state after each step."""
    found, state = [], None
    for step in x.split(1):
        _, state = neuron.run(step, state)
        found.append(leaves(state)[0])
    return torch.stack(found)


@every
def test_recorded_it_is_the_same(name: str) -> None:
    neuron, x = make(name), currents()
    net = nn.Sequential(neuron)
    want, wanted = gradients(net, net, x)
    with rb.record(net, potentials=True) as tape:
        got, found = gradients(net, net, x)
    assert torch.equal(got, want)
    torch.testing.assert_close(found, wanted)
    trace = tape["0"]
    assert torch.equal(trace.currents, x)
    assert torch.equal(trace.spikes, want / 2 if name == "own forward" else want)
    assert trace.potentials.shape == x.shape
    if name.startswith("Adaptive"):  # its bar rises with what it has fired
        a, bars = torch.zeros_like(x[0]), []
        for spikes in trace.spikes:
            bars.append(neuron.threshold + neuron.adaptation * a)
            a = neuron.adaptation_decay * a + spikes
        assert torch.equal(trace.potentials >= torch.stack(bars), trace.spikes > 0)
    elif isinstance(getattr(neuron, "neuron", neuron), rb.LIF) and not name.startswith(("own step", "step")):
        threshold = getattr(neuron, "neuron", neuron).threshold
        assert torch.equal(trace.potentials >= threshold, trace.spikes > 0)
    else:
        assert torch.equal(trace.potentials, stepwise(neuron, x))

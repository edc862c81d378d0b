"""The gradients of a neuron's numbers, by the definition in float64: against finite differences and against a loop."""

import pytest
import torch
from torch import Tensor

import rheobase as rb
from rheobase.kernels import reference
from rheobase.surrogate import Sigmoid

from .cases import CASES, Case, assert_fires, assert_same, grid, names, weighted

SHAPE = (6, 2, 3, 4)
CHANNEL, NEURON = SHAPE[2:3], SHAPE[2:]
EACH = {"one": (), "channel": CHANNEL, "neuron": NEURON}
HOWS = [(kind, reset) for kind in ("LIF", "CubaLIF", "AdaptiveLIF") for reset in ("soft", "hard", "none", "delayed")]
HOWS.remove(("AdaptiveLIF", "delayed"))
SLOPE = 4.0


def draw(*shape: int, low: float = 0.2, high: float = 0.9) -> Tensor:
    return torch.rand(shape, dtype=torch.float64) * (high - low) + low


def a_neuron(kind: str, reset: str, each: str, detach: bool = True, learn: bool = True) -> rb.LIF:
    """With numbers in float64, all of them learned."""
    every = names(kind)
    values = {name: draw(*EACH[each]) for name in every}
    how = {"reset": reset, "detach_reset": detach, "surrogate": Sigmoid(SLOPE)}
    return getattr(rb, kind)(**values, **how, learn=every if learn else ()).double()


def start(kind: str) -> tuple[Tensor, ...]:
    first = torch.randn(SHAPE[1:], dtype=torch.float64) / 2
    return (first,) if kind == "LIF" else (first, draw(*SHAPE[1:]))


def run(neuron: rb.LIF, x: Tensor, state: tuple[Tensor, ...], raw: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """Spikes and final states from the parameters given."""

    class Runs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.neuron = neuron

        def forward(self, x: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
            spikes, final = self.neuron.run(x, state if len(state) > 1 else state[0])
            return spikes, *(final if isinstance(final, tuple) else (final,))

    with rb.engine("reference"):
        given = {f"neuron.{name}": value for name, value in raw.items()}
        found: tuple[Tensor, ...] = torch.func.functional_call(Runs(), given, (x, *state))
    return found


def loop(
    kind: str, reset: str, detach: bool, numbers: dict[str, Tensor], x: Tensor, state: tuple[Tensor, ...], spike
) -> tuple[Tensor, ...]:
    """A neuron written by hand, from the equations of its docstring; `spike` maps u - threshold to spikes."""
    n = {name: value.reshape(-1, 1) if value.shape == CHANNEL else value for name, value in numbers.items()}
    v = state[-1] if kind == "CubaLIF" else state[0]
    i, a = state[0], state[-1]
    before = spike(v - n["threshold"]) if reset == "delayed" else None
    spikes = []
    for t in range(len(x)):
        drive = x[t]
        if kind == "CubaLIF":
            i = n["current_decay"] * i + x[t]
            drive = i
        u = n["decay"] * v + n["input_scale"] * drive
        if before is not None:
            u = u - n["threshold"] * (before.detach() if detach else before)
        bar = n["threshold"] + n["adaptation"] * a if kind == "AdaptiveLIF" else n["threshold"]
        s = spike(u - bar)
        gate = s.detach() if detach else s
        v = {"soft": u - gate * n["threshold"], "hard": u - gate * u}.get(reset, u)
        if kind == "AdaptiveLIF":
            a = n["adaptation_decay"] * a + s
        before = s if reset == "delayed" else None
        spikes.append(s)
    final = {"LIF": (v,), "CubaLIF": (i, v), "AdaptiveLIF": (v, a)}[kind]
    return torch.stack(spikes), *final


class Step(torch.autograd.Function):
    """A spike whose derivative is that of a sigmoid."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x >= 0).to(x.dtype)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        e = torch.exp(-SLOPE * ctx.saved_tensors[0].abs())
        return grad * SLOPE * e / (1 + e) ** 2


def smooth(x: Tensor, *_: object) -> Tensor:
    """What has that derivative everywhere."""
    return torch.sigmoid(SLOPE * x)


def value_of(name: str, raw: Tensor) -> Tensor:
    return torch.sigmoid(raw) if "decay" in name else torch.log1p(torch.exp(raw))


def leaves(*tensors: Tensor) -> list[Tensor]:
    return [t.detach().clone().requires_grad_() for t in tensors]


def parameters(neuron: rb.LIF) -> dict[str, Tensor]:
    return dict(zip(dict(neuron.named_parameters()), leaves(*neuron.parameters()), strict=True))


@pytest.mark.parametrize("detach", [True, False], ids=["detached", "through"])
@pytest.mark.parametrize("each", EACH)
@pytest.mark.parametrize(("kind", "reset"), HOWS)
def test_learned_numbers_get_the_gradients_of_a_loop(kind: str, reset: str, each: str, detach: bool) -> None:
    neuron = a_neuron(kind, reset, each, detach)
    x, state, raw = torch.randn(SHAPE, dtype=torch.float64) + 0.7, start(kind), parameters(neuron)
    outcomes = []
    for by_hand in (False, True):
        given, begin, own = *leaves(x), leaves(*state), dict(zip(raw, leaves(*raw.values()), strict=True))
        if by_hand:
            numbers = {name.removeprefix("raw_"): value_of(name, p) for name, p in own.items()}
            found = loop(kind, reset, detach, numbers, given, tuple(begin), Step.apply)
        else:
            found = run(neuron, given, tuple(begin), own)
        sum(map(weighted, found)).backward()
        outcome = {f"output.{k}": y.detach() for k, y in enumerate(found)} | {"currents.grad": given.grad}
        outcome |= {f"state.{k}.grad": s.grad for k, s in enumerate(begin)}
        outcomes.append(outcome | {f"{name}.grad": p.grad for name, p in own.items()})
    assert_fires(outcomes[0]["output.0"])
    assert all(p.abs().sum() > 0 for name, p in outcomes[1].items() if p is not None and "raw" in name)
    untouched = [name for name, value in outcomes[1].items() if value is None]
    assert untouched == []
    assert_same(*outcomes, 1e-12, exact=("output.0",))


@pytest.mark.parametrize("each", EACH)
@pytest.mark.parametrize(("kind", "reset"), HOWS)
def test_below_threshold_gradients_are_finite_differences(kind: str, reset: str, each: str) -> None:
    neuron = a_neuron(kind, reset, each)
    neuron.threshold = neuron.threshold.detach() + 100
    x, state, raw = *leaves(torch.randn(SHAPE, dtype=torch.float64)), leaves(*start(kind)), parameters(neuron)

    def final(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        states, numbers = rest[: len(state)], rest[len(state) :]
        spikes, *finals = run(neuron, x, states, dict(zip(raw, numbers, strict=True)))
        assert not spikes.any()
        return tuple(finals)

    assert torch.autograd.gradcheck(final, (x, *state, *raw.values()), fast_mode=True)


@pytest.mark.parametrize("each", EACH)
@pytest.mark.parametrize(("kind", "reset"), HOWS)
def test_with_smooth_spikes_gradients_are_finite_differences(
    monkeypatch: pytest.MonkeyPatch, kind: str, reset: str, each: str
) -> None:
    """The whole definition, and the loop, with a spike that is what its surrogate derivative says it is."""
    monkeypatch.setattr(reference, "fire", smooth)
    neuron = a_neuron(kind, reset, each, detach=False)
    x, state, raw = *leaves(torch.randn(SHAPE, dtype=torch.float64)), leaves(*start(kind)), parameters(neuron)

    def outputs(x: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
        states, numbers = rest[: len(state)], rest[len(state) :]
        return run(neuron, x, states, dict(zip(raw, numbers, strict=True)))

    inputs = (x, *state, *raw.values())
    assert torch.autograd.gradcheck(outputs, inputs, fast_mode=True)
    numbers = {name.removeprefix("raw_"): value_of(name, p) for name, p in raw.items()}
    for got, want in zip(outputs(*inputs), loop(kind, reset, False, numbers, x, tuple(state), smooth), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", [case for case in CASES if case.learn == "all"], ids=str)
def test_a_step_down_the_gradient_lowers_the_loss(case: Case) -> None:
    """On the Numba engine, too: numbers learn what another neuron does."""
    x = case.fits(grid(20, 2, 6, low=-32))
    neuron = case.neuron(tuple(x.shape))
    target = case._replace(learn="fixed").neuron(tuple(x.shape))
    with torch.no_grad():
        target.decay, target.threshold = target.decay * 1.5, target.threshold * 1.25
        want = target(x).mean((0, 1))
    assert_fires(want)
    optimizer, losses = torch.optim.Adam(neuron.parameters(), 0.02), []
    for _ in range(40):
        optimizer.zero_grad()
        with rb.engine("numba"):
            loss = (neuron(x).mean((0, 1)) - want).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-5:]) < 0.5 * losses[0]
    assert 0 <= neuron.decay.min() <= neuron.decay.max() <= 1
    assert neuron.threshold.min() > 0


def test_second_derivatives_of_the_definition() -> None:
    x = torch.randn(4, 1, 3, dtype=torch.float64, requires_grad=True)
    with rb.engine("reference"):
        lif = rb.LIF(0.9, surrogate=Sigmoid(SLOPE)).double()
        assert torch.autograd.gradcheck(lambda x: torch.autograd.grad(lif(x).sum(), x, create_graph=True)[0], (x,))


def test_a_number_between_its_ends_is_what_it_was_given() -> None:
    for each in EACH.values():
        given = draw(*each)
        neuron = rb.LIF(given, given * 3, learn=("decay", "threshold")).double()
        torch.testing.assert_close(neuron.decay.detach(), given, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(neuron.threshold.detach(), given * 3, rtol=1e-6, atol=1e-6)
        assert neuron.raw_decay.shape == each

"""The comparisons of the other tests can fail: an engine with one thing wrong in it is found out, by name."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch

import rheobase as rb
from rheobase.kernels import reference, registry
from rheobase.kernels.time import static

from .cases import CHANNELS, DEFAULT, NEURONS, Case, Found, assert_same, fired, grid, ran, states

SHAPE = (4, 3, 6, 5, 7)
ENGINE = registry.by_name("numba")


def neuron(case: Case = CHANNELS, repeated: bool = False) -> tuple[Found, Found]:
    """Engine and definition, for a static input and a state to begin with."""
    x = grid(1, *SHAPE[1:]).expand(SHAPE)
    made = case.neuron(SHAPE)
    state = states(made, SHAPE)
    if repeated:
        return ran(made, "numba", x, state), ran(made, "numba", x.contiguous(), state)
    return ran(made, "numba", x, state), ran(made, "reference", x, state)


def fire(case: Case = DEFAULT) -> tuple[Found, Found]:
    """One operator and several."""
    made = rb.Fire(rb.CurrentNorm(6), case.neuron(SHAPE), drive=True)
    x, residual, skip = (grid(*SHAPE, seed=seed) for seed in range(3))
    given = {"x": x * 1.7 + 0.3, "residual": residual, "skip": skip}
    return fired(made, **given), fired(made, **given, engine="reference", fused=False)


Change = Callable[..., Any]


def forward(change: Change) -> Change:
    """Change what goes into an engine's forward pass."""
    return lambda given, *rest: ENGINE.forward(change(given), *rest)


def after(function: Change, change: Change) -> Change:
    """Change what comes out of one of its functions."""
    return lambda first, *rest: change(first, function(first, *rest))


def silent(given: Any, found: Any) -> Any:
    found.spikes.zero_()
    return found


def averaged(given: Any, found: Any) -> Any:
    x = given.currents
    return found._replace(drive=found.drive.mean(0).expand(x.shape).clone()) if static(x) else found


def scaled(name: str, factor: float = 1.01) -> Change:
    return lambda given, found: found._replace(**{name: getattr(found, name) * factor})


def above(given: Any) -> Any:
    return given._replace(threshold=given.threshold.nextafter(torch.tensor(torch.inf)))


MUTATIONS: dict[str, tuple[Callable[[], tuple[Found, Found]], str, Change, str]] = {
    "the state is dropped": (neuron, "forward", forward(lambda g: g._replace(state=None, other=None)), "spikes"),
    "the second state is dropped": (neuron, "forward", forward(lambda g: g._replace(other=None)), "spikes"),
    "it is silent": (neuron, "forward", after(ENGINE.forward, silent), "spikes"),
    "it fires above the threshold": (lambda: neuron(DEFAULT), "forward", forward(above), "spikes"),
    "the last state is a bit off": (neuron, "forward", after(ENGINE.forward, scaled("final")), r"final.\d"),
    "decay learns faster": (neuron, "backward", after(ENGINE.backward, scaled("decay")), "raw_decay.grad"),
    "leak learns faster": (neuron, "backward", after(ENGINE.backward, scaled("leak")), "raw_current_decay.grad"),
    "adaptation does not learn": (
        lambda: neuron(NEURONS),
        "backward",
        after(ENGINE.backward, lambda given, found: found._replace(threshold=found.threshold * 0)),
        "raw_threshold.grad",
    ),
    "the state's gradient": (neuron, "backward", after(ENGINE.backward, scaled("state")), r"state.\d.grad"),
    "a mean over steps": (neuron, "backward", after(ENGINE.backward, averaged), "currents.grad"),
    "a mean over steps, seen without the definition": (
        lambda: neuron(repeated=True),
        "backward",
        after(ENGINE.backward, averaged),
        "currents.grad",
    ),
    "the norm's way back is forgotten": (fire, "norm_backward", lambda grad, *_: grad, "currents.grad"),
    "the norm's weight": (fire, "backward", after(ENGINE.backward, scaled("weight")), "norm.weight.grad"),
    "running statistics are slow": (
        fire,
        "moments",
        lambda x, running: ENGINE.moments(x, (*running[:2], running[2] * 0.99)),
        "running_(mean|var)",
    ),
    "the drive is off": (fire, "forward", after(ENGINE.forward, scaled("drive")), "drive"),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_what_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    compared, function, change, found = MUTATIONS[name]
    assert_same(*compared(), 2e-4)
    monkeypatch.setitem(registry._found, "numba", replace(ENGINE, queue=nullcontext, **{function: change}))
    with pytest.raises(AssertionError, match=f"^{found}: "):
        assert_same(*compared(), 2e-4)


def test_another_definition_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def lazy(spec: Any, current: Any, v: Any) -> Any:
        s, after, u = reference.lif(spec, current, v)
        return s, after * 0.999, u

    assert_same(*neuron(DEFAULT), 2e-5)
    monkeypatch.setitem(reference.STEPS, "LIF", lazy)
    with pytest.raises(AssertionError):
        assert_same(*neuron(DEFAULT), 2e-5)

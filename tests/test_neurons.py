"""Neurons against numbers worked out by hand from the equations; their numbers, kept in range; clear errors."""

import itertools
import math
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

import rheobase as rb
from rheobase.neurons.base import leaves
from rheobase.surrogate import ATan


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(-1, 1)


def listed(x: Tensor) -> list[float]:
    return [round(v, 6) for v in x.flatten().tolist()]


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)) + 0.4


on_both = pytest.mark.parametrize("engine", ["reference", "numba"])


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


# the equations


@on_both
@pytest.mark.parametrize(
    ("reset", "currents", "spikes", "state"),
    [
        # u: .8, .4+.8=1.2 -> v=.2, .1+.8=.9, .45+.8=1.25 -> v=.25, .125-1=-.875
        ("soft", [0.8, 0.8, 0.8, 0.8, -1], [0, 1, 0, 1, 0], -0.875),
        # u: 1.5 -> 0, .6, .3+.6=.9, .45+.6=1.05 -> 0
        ("hard", [1.5, 0.6, 0.6, 0.6], [1, 0, 0, 1], 0),
        # u: .8, .4+.8, .6+.8, .7+.8
        ("none", [0.8, 0.8, 0.8, 0.8], [0, 1, 1, 1], 1.5),
        # u: .7, .35+.7=1.05, .525+.7-1=.225, .1125+.7=.8125, .40625+.7=1.10625, .553125+.7-1
        ("delayed", [0.7] * 6, [0, 1, 0, 0, 1, 0], 0.253125),
    ],
)
def test_lif_by_hand(engine: str, reset: str, currents: list[float], spikes: list[float], state: float) -> None:
    with rb.engine(engine):
        got, v = rb.LIF(0.5, reset=reset).run(column(*currents))
    assert listed(got) == spikes
    assert listed(v) == [state]


@on_both
def test_threshold_scale_and_state_by_hand(engine: str) -> None:
    # u = .5*2 + .5*1 = 1.5 (fires at 1.5, v = 0), then .5*0 + .5*4 = 2 (fires, v = .5)
    with rb.engine(engine):
        spikes, v = rb.LIF(0.5, 1.5, input_scale=0.5).run(column(1, 4), torch.tensor([2.0]))
    assert listed(spikes) == [1, 1]
    assert listed(v) == [0.5]


@on_both
def test_a_delayed_reset_is_of_the_state_too(engine: str) -> None:
    # u[-1] = 1.5 has fired: u = .75 + .5 - 1
    with rb.engine(engine):
        spikes, u = rb.LIF(0.5, reset="delayed").run(column(0.5), torch.tensor([1.5]))
    assert (listed(spikes), listed(u)) == ([0], [0.25])


@on_both
def test_integrate_and_fire_counts_charge(engine: str) -> None:
    with rb.engine(engine):
        assert listed(rb.IF()(torch.full((8, 1), 0.25))) == [0, 0, 0, 1, 0, 0, 0, 1]
        assert listed(rb.IF(reset="hard")(column(0.75, 0.75, 0.75, 0.75))) == [0, 1, 0, 1]


@on_both
def test_cuba_lif_by_hand(engine: str) -> None:
    # i: 2, .5, 1.125; u = .5 i + .5 v: 1 (fires, v = 0), .25, .5625 + .125
    with rb.engine(engine):
        spikes, (i, v) = rb.CubaLIF(0.25, 0.5, input_scale=0.5).run(column(2, 0, 1))
        again, _ = rb.CubaLIF(0.25, 0.5, input_scale=0.5).run(column(0), (torch.tensor([2.0]), torch.tensor([1.5])))
    assert (listed(spikes), listed(i), listed(v)) == ([1, 0, 0], [1.125], [0.6875])
    assert listed(again) == [1], ".5 * .5 + .5 * 1.5 = 1"


@on_both
def test_adaptive_lif_by_hand(engine: str) -> None:
    # bar 1 + a/2: 1, 1.5, 1.25, 1.625, 1.3125; a: 1, .5, 1.25, .625, 1.3125; u: 1, 1, 1.5, 1.25, 1.625
    with rb.engine(engine):
        spikes, (v, a) = rb.AdaptiveLIF(0.5, 0.5, 0.5).run(torch.ones(5, 1))
        again, _ = rb.AdaptiveLIF(0.5, 0.5, 0.5).run(column(1.25), (torch.tensor([0.0]), torch.tensor([0.75])))
    assert (listed(spikes), listed(v), listed(a)) == ([1, 0, 1, 0, 1], [0.625], [1.3125])
    assert listed(again) == [0], "1.25 is below 1 + .5 * .75"


def test_lateral_by_hand() -> None:
    # neuron 0 fires at u = 1.5 and keeps .5; neuron 1 loses .25 of its threshold 2: .5 - .5 = 0; both are refractory
    neuron = rb.LateralLIF(-0.25, 2, 0.5, torch.tensor([1.0, 2.0]))
    spikes, (v, wait) = neuron.run(column(1.5)[..., None] * torch.tensor([1, 1 / 3]))
    assert (listed(spikes[0]), listed(v), listed(wait)) == ([1, 0], [0.5, 0], [1, 1])
    # the next step's current of 1 counts (1 / 2)^2: .25 + .25 and 0 + .25; the one after in full: .25 + 1 fires
    spikes, (v, wait) = neuron.run(torch.ones(1, 1, 2), (v, wait))
    assert (listed(spikes[0]), listed(v), listed(wait)) == ([0, 0], [0.5, 0.25], [0, 0])
    spikes, (v, wait) = neuron.run(torch.ones(1, 1, 2), (v, wait))
    assert (listed(spikes[0]), listed(v), listed(wait)) == ([1, 0], [0.25, 0.625], [1, 1])


def test_lateral_has_a_floor_and_groups_of_channels() -> None:
    v = rb.LateralLIF(0, 0, 0.5).run(column(-3)[None])[1][0]
    assert listed(v) == [-1], "not below minus the threshold"
    v = rb.LateralLIF(0, 0, 0.5).run(column(3)[None])[1][0]
    assert listed(v) == [1], "nor above it"
    x = torch.zeros(1, 1, 3, 2)
    x[0, 0, 0, 0] = 2  # channel 0 of place 0 fires: the other channels of that place alone are inhibited
    _, (v, wait) = rb.LateralLIF(-0.5, 3).run(x)
    assert v[0].tolist() == [[1, 0], [-0.5, 0], [-0.5, 0]]
    assert wait[0].tolist() == [[2, 0]] * 3
    alone = rb.LateralLIF(0, 3).run(x)[1][1]
    assert alone[0].tolist() == [[2, 0], [0, 0], [0, 0]], "without inhibition a spike is nobody else's business"


def test_lateral_without_a_group_and_a_floor_that_is_met_is_a_lif() -> None:
    x = torch.rand(9, 4, 5)
    want, found = rb.LIF(0.9)(x), rb.LateralLIF(decay=0.9)(x)
    assert 0.1 < want.mean() < 0.9
    assert torch.equal(want, found)


def test_lateral_numbers_of_its_group_are_not_learned() -> None:
    with pytest.raises(ValueError, match=r"LateralLIF: currents must be \[T, B, C, ...\], got shape \[3, 2\]"):
        rb.LateralLIF()(torch.rand(3, 2))
    for name in ("inhibition", "refractory"):
        with pytest.raises(ValueError, match=f"LateralLIF: {name} must be one number, and cannot be learned"):
            rb.LateralLIF(learn=(name,))


@on_both
def test_recurrent_by_hand(engine: str) -> None:
    # drive: 1, .5, 1, .5, 1; u: 1 (fires), .5, .25+1 (fires, v = .25), .125+.5, .3125+1 (fires)
    neuron = rb.Recurrent(rb.LIF(0.5), nn.Linear(1, 1, bias=False))
    nn.init.constant_(neuron.module.weight, -0.5)
    with rb.engine(engine):
        spikes, (v, s) = neuron.run(torch.ones(5, 1, 1))
    assert (listed(spikes), listed(v), listed(s)) == ([1, 0, 1, 0, 1], [0.3125], [1])


@pytest.mark.parametrize(
    "make",
    [
        rb.LIF,
        lambda: rb.LIF(torch.tensor([0.3, 0.5, 0.9]), learn=("decay", "threshold")),
        lambda: rb.LIF(reset="delayed", detach_reset=False),
        rb.CubaLIF,
        rb.AdaptiveLIF,
    ],
)
def test_recurrent_in_one_go_is_recurrent_step_by_step(make: Any) -> None:
    neuron, linear, found = make(), nn.Linear(3, 3), []
    for module in (linear, nn.Sequential(linear)):
        recurrent, x = rb.Recurrent(neuron, module), randn(6, 4, 3).requires_grad_()
        _, before = recurrent.run(randn(2, 4, 3))
        recurrent.zero_grad()
        spikes, (inner, s) = recurrent.run(x, before)
        v = inner[0] if isinstance(inner, tuple) else inner
        assert 0.1 < spikes.mean() < 0.9
        ((spikes * torch.linspace(-1, 1, 72).view_as(spikes)).sum() + (v * s).sum()).backward()
        found.append([spikes.detach(), v.detach(), x.grad, *(p.grad.clone() for p in recurrent.parameters())])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


def test_integrator_by_hand() -> None:
    assert listed(rb.Integrator(0.5)(column(1, 1, 1))) == [1, 1.5, 1.75]
    assert listed(rb.Integrator()(column(1, 2, 3))) == [1, 3, 6]
    outputs, v = rb.Integrator(0.5, 2.0).run(column(1, 1), torch.tensor([4.0]))
    assert (listed(outputs), listed(v)) == ([4, 4], [4])


H = 1 / (1 + (math.pi / 2) ** 2)
"""ATan(2) half a threshold away from it; where u is the threshold, it is 1."""


@on_both
@pytest.mark.parametrize(
    ("reset", "detach", "want"),
    [
        # I = .5, .75: u1 = .5, u2 = .25 + .75 = 1 (fires). dL/du2 = 1, dL/du1 = H + dL/du2 du2/du1, and du2/du1 is
        # .5 times 1 (detached), 1 - H (soft), 1 - u1 H (hard); with the delayed reset .5 - H
        ("soft", True, H + 0.5),
        ("soft", False, H + 0.5 * (1 - H)),
        ("hard", True, H + 0.5),
        ("hard", False, H + 0.5 * (1 - 0.5 * H)),
        ("none", True, H + 0.5),
        ("delayed", True, H + 0.5),
        ("delayed", False, H + 0.5 - H),
    ],
)
def test_gradients_by_hand(engine: str, reset: str, detach: bool, want: float) -> None:
    currents = column(0.5, 0.75).requires_grad_()
    with rb.engine(engine):
        rb.LIF(0.5, 1.0, reset, detach)(currents).sum().backward()
    assert listed(currents.grad) == [pytest.approx(want, abs=1e-6), 1]


@on_both
def test_gradients_of_learned_numbers_by_hand(engine: str) -> None:
    # as above, by decay, threshold and scale: u1 = .5, -H - 1, H I1 + I2 + .5 I1 = H / 2 + 1
    lif = rb.LIF(0.5, learn=("decay", "threshold", "input_scale"))
    with rb.engine(engine):
        lif(column(0.5, 0.75)).sum().backward()
    positive = 1 - math.exp(-1)  # slope of softplus where it is 1; that of the sigmoid where it is a half is a quarter
    assert lif.raw_decay.grad.item() == pytest.approx(0.5 / 4, abs=1e-6)
    assert lif.raw_threshold.grad.item() == pytest.approx((-H - 1) * positive, abs=1e-6)
    assert lif.raw_input_scale.grad.item() == pytest.approx((H / 2 + 1) * positive, abs=1e-6)


def test_a_hard_reset_cuts_the_gradient_through_time() -> None:
    currents = column(2.0, 0.5).requires_grad_()
    rb.LIF(0.5, reset="hard")(currents)[1].sum().backward()
    assert listed(currents.grad) == [0, round(H, 6)]


@pytest.mark.parametrize("expanded", [False, True])
@on_both
def test_each_step_of_a_static_sequence_has_its_gradient(engine: str, expanded: bool) -> None:
    frame = torch.full((1, 1, 1), 0.3)
    x = (frame.expand(4, 1, 1) if expanded else frame.repeat(4, 1, 1)).detach().requires_grad_()
    with rb.engine(engine):
        rb.LIF(0.5)(x)[0].sum().backward()
    h = 1 / (1 + (math.pi * (0.3 - 1)) ** 2)
    assert listed(x.grad) == [round(h, 6), 0, 0, 0], "later currents do not change the first spike"


def test_the_smooth_part_of_the_definition_passes_gradcheck() -> None:
    # below threshold nothing is discontinuous: the potential is a smooth function of currents and state
    lif = rb.LIF(0.7, threshold=100.0, detach_reset=False, surrogate=rb.surrogate.Rectangle(1e-3))
    x = torch.rand(4, 3, dtype=torch.float64, requires_grad=True)
    v = torch.rand(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, v: lif.run(x, v)[1], (x, v))


@on_both
@pytest.mark.parametrize("make", [rb.LIF, rb.CubaLIF, rb.AdaptiveLIF], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("reset", ["soft", "hard", "none", "delayed"])
def test_what_is_not_a_number_shows(engine: str, make: Any, reset: str) -> None:
    if make is rb.AdaptiveLIF and reset == "delayed":
        pytest.skip("there is none")
    with rb.engine(engine):
        spikes, _ = make(reset=reset).run(torch.tensor([[math.nan, math.inf, -math.inf], [0, 0, 0]]))
    assert spikes[:, 0].isnan().all(), "silence would hide it for ever"
    assert spikes[0, 1:].tolist() == [1, 0]


# subclasses


class Primed(rb.LIF):
    """Starts just below its threshold."""

    def initial_state(self, current: Tensor) -> Tensor:
        return torch.full_like(current, 1.8)


class Leakier(rb.LIF):
    """With a step of its own: the engines must not run theirs instead."""

    def step(self, current: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return super().step(current, 0 * state)


class Steep(rb.LIF):
    """With a surrogate of its own."""

    @property
    def surrogate(self) -> rb.surrogate.Surrogate:
        return rb.surrogate.ATan(1.0)

    @surrogate.setter
    def surrogate(self, value: rb.surrogate.Surrogate) -> None:
        pass


def test_a_subclass_is_taken_as_it_is() -> None:
    assert listed(Primed()(column(0.2, 0.2))) == [1, 0]
    assert listed(Leakier()(torch.full((4, 1), 0.9))) == [0, 0, 0, 0]
    currents = column(0.5).requires_grad_()
    Steep()(currents).sum().backward()
    assert listed(currents.grad) == [round(0.5 / (1 + (math.pi / 4) ** 2), 6)]


def test_a_subclass_cannot_hide_what_a_neuron_works_with() -> None:
    for name, value in {"decay": 0.9, "reset": "hard", "surrogate": rb.surrogate.ATan(5.0)}.items():
        with pytest.raises(TypeError, match=rf"Hiding\.{name} = .*give it to __init__, or make it a property"):
            type("Hiding", (rb.LIF,), {name: value})


class Deaf(rb.Neuron):
    """Its spikes come from a comparison, which has no gradient."""

    def step(self, current: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        u = 0.9 * state + current
        s = (u >= 1).to(u.dtype)
        return s, u - s


def test_a_neuron_that_cannot_learn_is_told_so() -> None:
    with pytest.warns(RuntimeWarning, match=r"Deaf: .* no gradient.*rheobase\.spike"):
        Deaf()(randn(4, 2, 3).requires_grad_())
    with torch.no_grad():
        Deaf()(randn(4, 2, 3).requires_grad_())
    Deaf()(randn(4, 2, 3))


# one number, one a channel, one a neuron


@on_both
@pytest.mark.parametrize("learn", [(), ("decay", "threshold", "input_scale")], ids=["fixed", "learned"])
@pytest.mark.parametrize("number", [(3,), (3, 2, 2)], ids=["channel", "neuron"])
def test_numbers_of_channels_and_of_neurons(engine: str, learn: tuple[str, ...], number: tuple[int, ...]) -> None:
    size = math.prod(number)
    values = {
        "decay": torch.linspace(0.1, 0.9, size).reshape(number),
        "threshold": torch.linspace(0.5, 1.5, size).reshape(number),
        "input_scale": torch.linspace(1.5, 0.5, size).reshape(number),
    }
    lif, x = rb.LIF(**values, learn=learn), randn(6, 4, 3, 2, 2).requires_grad_()
    with rb.engine(engine):
        spikes, v = lif.run(x)
    spikes.sum().backward()
    each = {name: value.reshape(3, *number[1:] or (1, 1)).expand(3, 2, 2) for name, value in values.items()}
    for c, i, j in ((0, 0, 0), (1, 1, 0), (2, 0, 1), (2, 1, 1)):
        alone = x.detach()[:, :, c, i, j].clone().requires_grad_()
        want, end = rb.LIF(**{name: value[c, i, j].item() for name, value in each.items()}).run(alone)
        want.sum().backward()
        assert torch.equal(spikes[:, :, c, i, j], want)
        torch.testing.assert_close(v[:, c, i, j], end, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(x.grad[:, :, c, i, j], alone.grad, rtol=1e-4, atol=1e-5)
    assert spikes.mean() > 0.1


@on_both
def test_a_surrogate_of_each_channel(engine: str) -> None:
    x = randn(4, 5, 3).requires_grad_()
    with rb.engine(engine):
        rb.LIF(surrogate=rb.surrogate.ATan(torch.tensor([1.0, 2.0, 5.0])))(x).sum().backward()
    for channel, alpha in enumerate((1.0, 2.0, 5.0)):
        alone = x.detach()[:, :, channel].clone().requires_grad_()
        rb.LIF(surrogate=rb.surrogate.ATan(alpha))(alone).sum().backward()
        torch.testing.assert_close(x.grad[:, :, channel], alone.grad, rtol=1e-4, atol=1e-6)


@on_both
@pytest.mark.parametrize(
    ("make", "name"),
    [
        (rb.LIF, "decay"),
        (rb.LIF, "threshold"),
        (rb.LIF, "surrogate_width"),
        (rb.CubaLIF, "current_decay"),
        (rb.AdaptiveLIF, "adaptation"),
        (rb.Integrator, "input_scale"),
    ],
)
def test_a_number_of_another_shape_is_named(engine: str, make: Any, name: str) -> None:
    neuron = make()
    setattr(neuron, name, torch.full((4,), 0.5))
    said = rf"{name} must be a number, .*one a channel \[3\].* or one a neuron \[3, 2\].* got \[4\]"
    with rb.engine(engine), pytest.raises(ValueError, match=said):
        neuron(randn(5, 2, 3, 2))


# what they may be


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (rb.LIF, {"decay": 1.5}),
        (rb.LIF, {"decay": -0.1}),
        (rb.LIF, {"decay": torch.tensor([0.5, 1.1])}),
        (rb.LIF, {"decay": True}),
        (rb.LIF, {"threshold": 0.0}),
        (rb.LIF, {"threshold": math.nan}),
        (rb.LIF, {"threshold": math.inf}),
        (rb.LIF, {"threshold": "1"}),
        (rb.LIF, {"threshold": torch.tensor([1, 2])}),
        (rb.LIF, {"reset": "medium"}),
        (rb.LIF, {"input_scale": -1.0}),
        (rb.LIF, {"surrogate": "atan"}),
        (rb.LIF, {"learn": ("beta",)}),
        (rb.LIF, {"learn": "surrogate_width"}),
        (rb.CubaLIF, {"current_decay": 2.0}),
        (rb.CubaLIF, {"learn": ("adaptation",)}),
        (rb.AdaptiveLIF, {"adaptation": -0.1}),
        (rb.AdaptiveLIF, {"adaptation_decay": 1.1}),
        (rb.AdaptiveLIF, {"reset": "delayed"}),
        (rb.LateralLIF, {"inhibition": 0.1}),
        (rb.LateralLIF, {"inhibition": torch.tensor([-0.1, -0.2])}),
        (rb.LateralLIF, {"refractory": -1.0}),
        (rb.LateralLIF, {"reset": "hard"}),
        (rb.Integrator, {"decay": 2.0}),
        (rb.Integrator, {"learn": ("threshold",)}),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_wrong_argument_is_named(make: Any, wrong: dict[str, Any]) -> None:
    (name,) = wrong
    with pytest.raises((ValueError, TypeError), match=rf"{make.__name__}: {name} .*got"):
        make(**wrong)


@pytest.mark.parametrize("name", ["surrogate_width", "surrogate_height", "adaptation", "bata"])
def test_an_argument_that_does_nothing_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=name):
        rb.LIF(**{name: 3.0})


def test_a_wrong_value_is_refused_when_assigned_and_changes_nothing() -> None:
    lif = rb.LIF()
    for name, value in {"decay": 1.1, "threshold": -1.0, "reset": "medium", "surrogate": None}.items():
        with pytest.raises((ValueError, TypeError), match=name):
            setattr(lif, name, value)
    assert repr(lif) == repr(rb.LIF())
    with pytest.raises(ValueError, match="reset must be one of soft, hard, none, got 'delayed'"):
        rb.AdaptiveLIF().reset = "delayed"


@pytest.mark.parametrize(
    ("make", "elsewhere", "hint"),
    [
        (rb.LIF, "beta", "decay"),
        (rb.LIF, "tau", "1 - 1/tau"),
        (rb.LIF, "v_threshold", "threshold"),
        (rb.LIF, "v_reset", "reset"),
        (rb.LIF, "reset_mechanism", "reset"),
        (rb.LIF, "surrogate_function", "surrogate"),
        (rb.LIF, "spike_grad", "surrogate"),
        (rb.LIF, "learn_beta", "learn=('decay',)"),
        (rb.LIF, "learn_threshold", "learn=('threshold',)"),
        (rb.LIF, "step_mode", "first axis"),
        (rb.LIF, "init_hidden", "no hidden state"),
        (rb.LIF, "alpha", "CubaLIF"),
        (rb.CubaLIF, "alpha", "current_decay"),
        (rb.IF, "beta", "decay"),
        (rb.AdaptiveLIF, "v_threshold", "threshold"),
    ],
)
def test_names_of_other_libraries_are_understood(make: Any, elsewhere: str, hint: str) -> None:
    with pytest.raises(TypeError) as told:
        make(**{elsewhere: 0.5})
    assert str(told.value).startswith(f"{make.__name__} takes no {elsewhere!r}: ")
    assert hint in str(told.value)


def test_a_neuron_of_ones_own_may_use_those_names() -> None:
    class Mine(rb.Neuron):
        def __init__(self, beta: float) -> None:
            super().__init__()
            self.beta = beta

    assert Mine(beta=0.3).beta == 0.3


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: rb.IF(learn=("decay",)), "use LIF"),
        (lambda: rb.LIF(1.0, learn=("decay",)), r"learned decay must begin inside \[0, 1\], not at its end"),
        (lambda: rb.LIF(torch.tensor([0.5, 0.0]), learn=("decay",)), "learned decay must begin inside"),
        (lambda: rb.AdaptiveLIF(adaptation=0.0, learn="adaptation"), "learned adaptation must begin inside"),
        (lambda: rb.LIF(nn.Parameter(torch.tensor(0.5))), r"to learn it: learn=\('decay',\)"),
    ],
)
def test_what_cannot_be_learned_is_refused(make: Any, said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        make()


def test_learned_numbers_stay_in_range() -> None:
    for way in (1, -1):
        lif = rb.LIF(torch.full((3,), 0.5), learn=("decay", "threshold", "input_scale"))
        optimizer = torch.optim.SGD(lif.parameters(), 1e6)
        (way * lif(randn(6, 4, 3))).sum().backward()
        optimizer.step()
        assert ((lif.decay >= 0) & (lif.decay <= 1)).all()
        assert ((lif.threshold > 0) & lif.threshold.isfinite()).all()
        assert ((lif.input_scale > 0) & lif.input_scale.isfinite()).all()
        assert lif(randn(6, 4, 3)).isfinite().all()


def test_learning_finds_a_decay() -> None:
    x = 0.4 * randn(20, 16, 1)
    target = rb.Integrator(0.9)(x)
    neuron = rb.Integrator(0.5, learn="decay")
    optimizer = torch.optim.Adam(neuron.parameters(), 0.1)
    for _ in range(60):
        optimizer.zero_grad()
        (neuron(x) - target).square().mean().backward()
        optimizer.step()
    assert neuron.decay.item() == pytest.approx(0.9, abs=0.01)


def test_a_potential_fits_a_line() -> None:
    x = torch.linspace(0, 0.1, 50).view(50, 1, 1)
    net = nn.Sequential(*(rb.PerStep(nn.Linear(1, 64)), rb.LIF(0.9), rb.PerStep(nn.Linear(64, 1)), rb.Integrator(0.9)))
    with torch.no_grad():
        net[0].module.weight.uniform_(0, 5)
        net[0].module.bias.uniform_(0, 0.2)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        loss = (net(x) - 10 * x).square().mean()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.01, "(the target has a mean square of 0.34)"


# assigned at any time


def test_numbers_are_assignable_at_any_time() -> None:
    lif, x = rb.LIF(0.9, 0.7, surrogate=rb.surrogate.ATan(2.3)), randn(6, 4, 3)
    lif(x)
    lif.decay, lif.threshold, lif.input_scale, lif.reset = torch.linspace(0.1, 0.5, 3), 0.5, 0.8, "hard"
    lif.surrogate, lif.detach_reset = rb.surrogate.Sigmoid(5.0).scaled(0.3), False
    want = rb.LIF(torch.linspace(0.1, 0.5, 3), 0.5, "hard", False, rb.surrogate.Sigmoid(5.0, 0.3), 0.8)
    found = []
    for neuron in (lif, want):
        given = x.clone().requires_grad_()
        with rb.engine("reference"):
            spikes = neuron(given)
        spikes.sum().backward()
        found.append((spikes, given.grad))
    assert torch.equal(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_a_learned_number_may_be_assigned_too() -> None:
    lif = rb.LIF(0.5, learn=("decay", "threshold"))
    optimizer = torch.optim.SGD(lif.parameters(), 0.1)
    lif.decay, lif.threshold = 0.9, 0.3
    assert lif.decay.item() == pytest.approx(0.9)
    assert lif.threshold.item() == pytest.approx(0.3)
    assert {id(p) for group in optimizer.param_groups for p in group["params"]} == {id(p) for p in lif.parameters()}
    with pytest.raises(ValueError, match=r"decay is learned, with shape \[\], got \[3\]"):
        lif.decay = torch.full((3,), 0.5)
    with pytest.raises(ValueError, match="must begin inside"):
        lif.decay = 1.0


def test_a_backward_pass_under_way_keeps_the_numbers_it_began_with() -> None:
    def gradient(change: bool) -> Tensor:
        lif, x = rb.LIF(0.5), randn(6, 4, 3).requires_grad_()
        y = lif(x)
        if change:
            lif.decay, lif.threshold, lif.surrogate, lif.reset = 0.1, 0.2, rb.surrogate.Rectangle(9.0), "hard"
        y.sum().backward()
        return x.grad

    assert torch.equal(gradient(True), gradient(False))


def test_a_compiled_neuron_takes_what_is_assigned() -> None:
    torch._dynamo.reset()
    lif, x = rb.LIF(), randn(4, 3, 6)
    compiled, seen = torch.compile(lif, backend="eager"), []
    for name, value in {
        "decay": 0.9,
        "threshold": 0.4,
        "reset": "hard",
        "input_scale": torch.linspace(0.5, 1, 6),
    }.items():
        setattr(lif, name, value)
        seen.append(compiled(x))
        assert torch.equal(seen[-1], lif(x))
    assert not any(torch.equal(a, b) for a, b in itertools.pairwise(seen))


def test_a_number_is_a_copy_of_what_is_assigned() -> None:
    decay = torch.tensor([0.5, 0.6])
    lif = rb.LIF(decay)
    decay.zero_()
    assert listed(lif.decay) == [0.5, 0.6]


def test_it_is_shown_with_its_arguments() -> None:
    assert repr(rb.LIF(0.9, 0.5, surrogate=rb.surrogate.Sigmoid(5.0).scaled(0.3))) == (
        "LIF(decay=0.9, threshold=0.5, reset='soft', detach_reset=True, "
        "surrogate=Sigmoid(slope=5.0, height=0.3), input_scale=1)"
    )
    assert "decay=[3] from 0.1 to 0.5" in repr(rb.LIF(torch.linspace(0.1, 0.5, 3)))
    assert "learn=('decay',)" in repr(rb.LIF(learn="decay"))
    assert rb.LIF(0.9, surrogate=rb.surrogate.ATan(2.3)).surrogate == rb.surrogate.ATan(2.3)


# precision

NUMBERS = {
    rb.LIF: {"decay": 0.9, "threshold": 0.7, "input_scale": 1.1},
    rb.CubaLIF: {"current_decay": 0.3, "decay": 0.9},
    rb.AdaptiveLIF: {"adaptation_decay": 0.9, "adaptation": 0.3},
    rb.LateralLIF: {"decay": 0.9, "threshold": 0.7},
    rb.Integrator: {"decay": 0.9, "input_scale": 1.1},
}
each_kind = pytest.mark.parametrize("make", NUMBERS, ids=lambda kind: kind.__name__)


@pytest.fixture
def default_dtype() -> Any:
    before = torch.get_default_dtype()
    yield torch.set_default_dtype
    torch.set_default_dtype(before)


@each_kind
@pytest.mark.parametrize("default", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("learned", [False, True], ids=["fixed", "learned"])
def test_numbers_are_float32(make: Any, default: torch.dtype, learned: bool, default_dtype: Any) -> None:
    default_dtype(default)
    neuron = make(**NUMBERS[make], learn=tuple(NUMBERS[make]) if learned else ())
    for change in (lambda n: n, nn.Module.bfloat16, nn.Module.half, nn.Module.float):
        change(neuron)
        for name, value in NUMBERS[make].items():
            got = getattr(neuron, name)
            assert got.dtype is torch.float32
            assert got.item() == pytest.approx(value, rel=2e-7)


@each_kind
@pytest.mark.parametrize("way", ["default", "double"])
def test_in_a_float64_net_they_are_exact(make: Any, way: str, default_dtype: Any) -> None:
    if way == "default":
        default_dtype(torch.float64)
    neuron = make(**NUMBERS[make])
    if way == "double":
        neuron.double()
    for name, value in NUMBERS[make].items():
        assert getattr(neuron, name).item() == value
        setattr(neuron, name, 0.123)
        assert getattr(neuron, name).item() == 0.123


def test_float64_arithmetic_is_that_of_python() -> None:
    v, want = 0.0, []
    for _ in range(50):
        u = 0.9 * v + 0.3
        want.append(float(u >= 1))
        v = u - want[-1]
    spikes, end = rb.LIF(0.9).double().run(torch.full((50, 1), 0.3, dtype=torch.float64))
    assert spikes.flatten().tolist() == want
    assert end.item() == pytest.approx(v, rel=1e-14)


# inputs


def test_inputs_are_checked() -> None:
    lif = rb.LIF()
    with pytest.raises(ValueError, match=r"LIF: currents must be \[T, B, \.\.\.\].* got shape \[4\]"):
        lif(torch.rand(4))
    with pytest.raises(ValueError, match="T >= 1"):
        lif(torch.rand(0, 4))
    with pytest.raises(TypeError, match="floating point tensor, got torch.int64"):
        lif(torch.ones(3, 4, dtype=torch.int64))
    with pytest.raises(TypeError, match="floating point tensor, got list"):
        lif([1.0])


def test_states_are_checked() -> None:
    with pytest.raises(ValueError, match=r"LIF: state must be \[4\], .* got \[5\]"):
        rb.LIF().run(torch.rand(3, 4), torch.zeros(5))
    with pytest.raises(ValueError, match="CubaLIF: state must be 2 tensors, got 1"):
        rb.CubaLIF().run(torch.rand(3, 4), torch.zeros(4))
    with pytest.raises(TypeError, match="LIF: a state must be a tensor, got int"):
        rb.LIF().run(torch.rand(3, 4), 0)
    for neuron in (rb.LIF(), rb.Integrator()):
        with pytest.raises(TypeError, match="a state must be a tensor, got list"):
            neuron.run(torch.rand(3, 4), [torch.zeros(4)])
    pair = [torch.zeros(4), torch.zeros(4)]
    assert torch.equal(rb.CubaLIF().run(torch.ones(3, 4), pair)[0], rb.CubaLIF()(torch.ones(3, 4)))


@on_both
@pytest.mark.parametrize("make", [rb.LIF, rb.CubaLIF, rb.AdaptiveLIF])
def test_a_state_may_be_changed_without_a_change_of_what_was_given(engine: str, make: Any) -> None:
    for neuron in (make(), rb.Recurrent(make(), nn.Linear(4, 4))):
        with rb.engine(engine), torch.no_grad():
            spikes, state = neuron.run(3 * torch.rand(3, 2, 4))
        before = spikes.clone()
        for leaf in leaves(state):
            leaf.fill_(7.0)
        assert before[-1].any()
        assert torch.equal(spikes, before)


def test_recurrent_is_checked() -> None:
    with pytest.raises(TypeError, match=r"neuron must be a rheobase\.Neuron, got ReLU"):
        rb.Recurrent(nn.ReLU(), nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"module must be a torch\.nn\.Module without neurons, got LIF"):
        rb.Recurrent(rb.LIF(), rb.LIF())
    with pytest.raises(ValueError, match=r"module must give currents \[3, 2\], got \[3, 5\]"):
        rb.Recurrent(rb.LIF(), nn.Linear(2, 5))(torch.rand(4, 3, 2))
    with pytest.raises(ValueError, match=r"module must take spikes \[3, 2\], got Linear\(in_features=5"):
        rb.Recurrent(rb.LIF(), nn.Linear(5, 2))(torch.rand(4, 3, 2))


class Steps(rb.Neuron):
    """Gives what it is told to."""

    def __init__(self, given: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.given = given

    def step(self, current: Tensor, state: Any) -> Any:
        return self.given(current)


@pytest.mark.parametrize(
    ("given", "got"),
    [
        (lambda x: x, "Tensor"),
        (lambda x: (x, x, x), "3 things"),
        (lambda x: (x.sum(0), x), r"an output \[3\]"),
        (lambda x: (0.0, x), "an output float"),
        (lambda x: (x, {"v": x}), "a state of dict"),
        (lambda x: (x, (x, None)), "a state of Tensor, NoneType"),
    ],
)
@pytest.mark.parametrize("potentials", [False, True])
def test_a_step_must_give_what_a_step_gives(given: Callable[[Tensor], Any], got: str, potentials: bool) -> None:
    neuron = Steps(given)  # (of two samples: a tensor would unpack into them)
    wanted = rf"Steps.step must give an output \[2, ...\] and the next state .* for a current \[2, 3\], got {got}$"
    with rb.record(neuron, potentials=potentials), pytest.raises(TypeError, match=wanted):
        neuron(torch.rand(5, 2, 3))


def test_a_neuron_may_have_no_state() -> None:
    x = torch.rand(5, 2, 3)
    neuron = Steps(lambda current: (rb.spike(current - 0.5, ATan(2.0)), ()))
    assert torch.equal(neuron(x), (x >= 0.5).float())
    with rb.record(neuron, potentials=True), pytest.raises(ValueError, match="Steps has no state that could be"):
        neuron(x)


@on_both
def test_a_learned_number_may_be_pruned_or_parametrized(engine: str) -> None:
    x, neuron = 2 * torch.rand(5, 2, 3), rb.LIF(0.9, learn=("decay", "threshold"))
    want = neuron(x)
    assert want.any()
    prune.identity(neuron, "raw_threshold")
    parametrize.register_parametrization(neuron, "raw_decay", nn.Identity())
    with rb.engine(engine):
        spikes = neuron(x)
        assert torch.equal(spikes, want)
        (spikes * torch.rand(5, 2, 3)).sum().backward()
        assert neuron.raw_threshold_orig.grad.abs() > 0
        assert neuron.parametrizations.raw_decay.original.grad.abs() > 0
    for name in ("decay", "threshold"):
        with pytest.raises(ValueError, match=f"{name} is learned, and raw_{name} is pruned or parametrized"):
            setattr(neuron, name, 0.5)
    prune.remove(neuron, "raw_threshold")
    neuron.threshold = 0.5
    assert neuron.threshold == 0.5


@on_both
def test_what_is_assigned_in_inference_mode_can_be_trained_with(engine: str) -> None:
    lif = rb.LIF()
    with torch.inference_mode():
        lif.surrogate, lif.decay, lif.threshold = ATan(3.0), torch.tensor(0.3), 0.5
    x = torch.rand(3, 2, 2, requires_grad=True)
    with rb.engine(engine):
        lif(x).sum().backward()
    assert x.grad is not None
    assert x.grad.any()


def test_samples_do_not_leak_into_each_other() -> None:
    x = randn(6, 5, 4, 3)
    for neuron in (rb.LIF(), rb.CubaLIF(), rb.AdaptiveLIF(), rb.Recurrent(rb.LIF(), nn.Linear(3, 3))):
        whole = neuron(x)
        assert whole.mean() > 0.05
        for b in range(5):
            assert torch.equal(neuron(x[:, b : b + 1])[:, 0], whole[:, b])


def test_engines_are_chosen_for_each_thread() -> None:
    x, inside, go_on = torch.rand(2, 2, dtype=torch.float64), threading.Event(), threading.Event()

    def other() -> None:
        with rb.engine("numba"):
            inside.set()
            go_on.wait(10)

    thread = threading.Thread(target=other)
    thread.start()
    inside.wait(10)
    rb.LIF()(x)  # the numba engine would refuse float64
    go_on.set()
    thread.join()
    chosen = rb.engine("reference")
    with chosen, chosen:
        pass
    with rb.engine("numba"), pytest.raises(RuntimeError, match="numba engine was asked for, but it takes float32"):
        rb.LIF()(x)


class Plain(rb.Neuron):
    def step(self, current: Tensor, state: Any) -> Any:
        u = 0.9 * state + current
        spikes = rb.spike(u - 1)
        return spikes, u - spikes.detach()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (Plain, "Plain takes no gradient rule: rules know LIF and what is derived from it"),
        (rb.Integrator, "Integrator takes no gradient rule"),
        (
            lambda: rb.Recurrent(rb.LIF(), nn.Linear(4, 4)),
            "Recurrent: the rule is that of the neuron in it: set .neuron.rule",
        ),
    ],
)
def test_a_rule_that_would_be_ignored_is_refused(make: Any, said: str) -> None:
    neuron = make()
    with pytest.raises(ValueError, match=said):
        neuron.rule = rb.rules.Membrane()
    neuron.rule = None
    assert neuron.rule is None


@pytest.mark.parametrize("rule", ["membrane", rb.rules.Membrane])
def test_a_rule_is_an_object(rule: Any) -> None:
    with pytest.raises(TypeError, match=r"LIF: rule must be an object, such as rheobase.rules.Membrane\(\), got"):
        rb.LIF().rule = rule


class Changing(rb.Neuron):
    """A LIF without a reset, which writes into its state; gives its spikes, or the state itself."""

    def __init__(self, itself: bool) -> None:
        super().__init__()
        self.itself = itself

    def step(self, current: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state.mul_(0.5).add_(current)
        return state if self.itself else (state >= 1).to(state.dtype), state


def test_a_step_may_change_its_state_in_place_but_not_what_it_has_given() -> None:
    x, start = torch.rand(6, 3, 4), torch.ones(3, 4)
    want = rb.LIF(reset="none")
    neuron = Changing(False)
    with rb.record(neuron, potentials=True) as tape:
        assert torch.equal(neuron(x), want(x))
    with rb.record(want, potentials=True) as wanted:
        want(x)
    assert want(x).any()
    assert torch.equal(tape[""].potentials, wanted[""].potentials)
    first = neuron.run(x, start)[0]
    assert torch.equal(first, want.run(x, start)[0])
    assert torch.equal(first, neuron.run(x, start)[0])
    with pytest.raises(ValueError, match="changed in place what it had given before as its output: give a new tensor"):
        Changing(True)(x)

"""Neurons against numbers worked out by hand from the equations, and their promises: no state, clear errors."""

import copy
import math
import threading

import pytest
import torch
from torch import Tensor

import rheobase as rb
from rheobase.neurons import LIF


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(-1, 1)


def listed(x: Tensor) -> list[float]:
    return [round(v, 6) for v in x.flatten().tolist()]


ENGINES = ["reference", "numba"]


@pytest.mark.parametrize("engine", ENGINES)
def test_soft_reset_by_hand(engine: str) -> None:
    # u: .8, .4+.8=1.2 -> v=.2, .1+.8=.9, .45+.8=1.25 -> v=.25, .125-1=-.875
    with rb.engine(engine):
        spikes, v = rb.LIF(0.5).run(column(0.8, 0.8, 0.8, 0.8, -1.0))
    assert listed(spikes) == [0, 1, 0, 1, 0]
    assert listed(v) == [-0.875]


@pytest.mark.parametrize("engine", ENGINES)
def test_hard_reset_by_hand(engine: str) -> None:
    # u: 1.5 -> 0, .6, .3+.6=.9, .45+.6=1.05 -> 0
    with rb.engine(engine):
        spikes, v = rb.LIF(0.5, reset="hard").run(column(1.5, 0.6, 0.6, 0.6))
    assert listed(spikes) == [1, 0, 0, 1]
    assert listed(v) == [0]


@pytest.mark.parametrize("engine", ENGINES)
def test_threshold_scale_and_state_by_hand(engine: str) -> None:
    # u = .5*2 + .5*1 = 1.5 (fires at 1.5, v = 0), then .5*0 + .5*4 = 2 (fires, v = .5)
    with rb.engine(engine):
        spikes, v = rb.LIF(0.5, 1.5, input_scale=0.5).run(column(1, 4), torch.tensor([2.0]))
    assert listed(spikes) == [1, 1]
    assert listed(v) == [0.5]


@pytest.mark.parametrize("engine", ENGINES)
def test_integrate_and_fire_counts_charge(engine: str) -> None:
    with rb.engine(engine):
        assert listed(rb.IF()(torch.full((8, 1), 0.25))) == [0, 0, 0, 1, 0, 0, 0, 1]
        assert listed(rb.IF(reset="hard")(column(0.75, 0.75, 0.75, 0.75))) == [0, 1, 0, 1]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("reset", "detach", "want"),
    [
        # Triangle(1): h = 1 - |u - 1|. I = .5, .75: u1 = .5, u2 = .25 + .75 = 1 (fires). h1 = h2 with .5 and 1.
        # dL/du2 = 1, dL/du1 = h1 + decay dL/du2 dv1/du1; dv1/du1 = 1 (detached), 1 - h1 (soft), 1 - u1 h1 (hard)
        ("soft", True, [0.5 + 0.5, 1]),
        ("soft", False, [0.5 + 0.5 * (1 - 0.5), 1]),
        ("hard", True, [0.5 + 0.5, 1]),
        ("hard", False, [0.5 + 0.5 * (1 - 0.25), 1]),
    ],
)
def test_gradients_by_hand(engine: str, reset: str, detach: bool, want: list[float]) -> None:
    currents = column(0.5, 0.75).requires_grad_()
    with rb.engine(engine):
        rb.LIF(0.5, 1.0, reset, detach, rb.surrogate.Triangle(1.0))(currents).sum().backward()
    assert listed(currents.grad) == want


def test_a_hard_reset_cuts_the_gradient_through_time() -> None:
    currents = column(2.0, 0.5).requires_grad_()
    rb.LIF(0.5, reset="hard", surrogate=rb.surrogate.Rectangle(2.5))(currents)[1].sum().backward()
    assert listed(currents.grad) == [0, 0.4]


def test_integrator() -> None:
    assert listed(rb.Integrator(0.5)(column(1, 1, 1))) == [1, 1.5, 1.75]
    assert listed(rb.Integrator()(column(1, 2, 3))) == [1, 3, 6]


def test_a_second_call_equals_the_first_and_pieces_equal_the_whole() -> None:
    lif, x = rb.LIF(0.9, reset="hard"), torch.randn(9, 4, 7)
    whole, end = lif.run(x)
    assert torch.equal(lif(x), whole)
    pieces, state = [], None
    for piece in x.split([1, 5, 3]):
        spikes, state = lif.run(piece, state)
        pieces.append(spikes)
    assert torch.equal(torch.cat(pieces), whole)
    assert torch.equal(state, end)


class Refractory(rb.Neuron):
    """A neuron of one's own, with two states: it integrates, and rests one step after a spike."""

    def initial_state(self, current: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(current), torch.zeros_like(current)

    def step(self, current: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        v, last = state
        v = v + current * (1 - last)
        s = (v >= 1).to(v.dtype)
        return s, (v * (1 - s), s)


class Leakier(LIF):
    """A LIF with a step of its own: the engines must not run theirs instead."""

    def step(self, current: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        return super().step(current, 0 * state)


def test_a_neuron_of_ones_own_works_everywhere() -> None:
    assert listed(Refractory()(torch.full((6, 1), 1.0))) == [1, 0, 1, 0, 1, 0]
    assert listed(Leakier()(torch.full((4, 1), 0.9))) == [0, 0, 0, 0]
    x = torch.randn(4, 2, 3)
    fire = rb.Fire(rb.CurrentNorm(3), Refractory()).eval()
    assert torch.equal(fire(x), fire.neuron(fire.norm(x)))
    model = rb.models.create("sew_resnet18", classes=2, in_channels=1, width=2, neuron=Refractory()).eval()
    frames = torch.rand(3, 2, 1, 8, 8)
    logits, _ = rb.run(model, frames)
    torch.testing.assert_close(logits, model(frames))


def test_arguments_are_checked() -> None:
    for wrong in (
        {"decay": 1.5},
        {"decay": -0.1},
        {"threshold": 0.0},
        {"threshold": math.nan},
        {"reset": "medium"},
        {"input_scale": -1.0},
        {"surrogate": "atan"},
    ):
        name = next(iter(wrong))
        with pytest.raises((ValueError, TypeError), match=name):
            rb.LIF(**wrong)
    lif = rb.LIF()
    with pytest.raises(ValueError, match="threshold"):
        lif.threshold = -1.0
    with pytest.raises(ValueError, match="decay"):
        rb.Integrator(2.0)


def test_inputs_are_checked() -> None:
    lif = rb.LIF()
    with pytest.raises(ValueError, match=r"LIF: currents must be \[T, B, \.\.\.\].* got shape \[4\]"):
        lif(torch.rand(4))
    with pytest.raises(ValueError, match="T >= 1"):
        lif(torch.rand(0, 4))
    with pytest.raises(TypeError, match="floating point tensor, got torch.int64"):
        lif(torch.ones(3, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"state must be \[4\], .* got \[5\]"):
        lif.run(torch.rand(3, 4), torch.zeros(5))


def test_numbers_are_assignable_and_travel_with_the_state_dict() -> None:
    lif = rb.LIF(0.9, 0.7, surrogate=rb.surrogate.ATan(2.3))
    assert (lif.decay, lif.threshold, lif.surrogate) == (0.9, 0.7, rb.surrogate.ATan(2.3))
    lif.surrogate, lif.threshold = rb.surrogate.Sigmoid(5.0).scaled(0.3), 0.5
    other = rb.LIF(surrogate=rb.surrogate.Sigmoid())
    other.load_state_dict(lif.state_dict())
    assert other.surrogate == rb.surrogate.Sigmoid(5.0, 0.3)
    assert (other.decay, other.threshold) == (0.9, 0.5)
    assert copy.deepcopy(lif).surrogate == lif.surrogate
    assert repr(lif) == (
        "LIF(decay=0.9, threshold=0.5, reset='soft', detach_reset=True, "
        "surrogate=Sigmoid(slope=5.0, height=0.3), input_scale=1)"
    )


def test_constants_keep_their_precision_when_the_dtype_changes() -> None:
    assert rb.LIF(0.9).bfloat16().decay == 0.9
    assert rb.LIF(0.9)(torch.rand(3, 4, dtype=torch.float64)).dtype == torch.float64


def test_the_smooth_part_of_the_definition_passes_gradcheck() -> None:
    # below threshold nothing is discontinuous: the potential is a smooth function of currents and state
    lif = rb.LIF(0.7, threshold=100.0, detach_reset=False, surrogate=rb.surrogate.Rectangle(1e-3))
    x = torch.rand(4, 3, dtype=torch.float64, requires_grad=True)
    v = torch.rand(3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, v: lif.run(x, v)[1], (x, v))


def test_an_empty_batch_is_fine() -> None:
    assert rb.LIF()(torch.rand(3, 0, 5)).shape == (3, 0, 5)


class Primed(LIF):
    """Starts just below its threshold."""

    def initial_state(self, current: Tensor) -> Tensor:
        return torch.full_like(current, 1.8)


class Doubled(LIF):
    """With a forward of its own."""

    def forward(self, currents: Tensor) -> Tensor:
        return 2 * super().forward(currents)


def test_a_subclass_with_other_methods_is_taken_as_it_is() -> None:
    assert listed(Primed()(column(0.2, 0.2))) == [1, 0]
    x = torch.randn(4, 2, 3, 5, 5)
    fire = rb.Fire(rb.CurrentNorm(3), Doubled())
    assert set(fire(x).unique().tolist()) == {0, 2}


def test_the_shape_of_the_surrogate_travels_with_the_state_dict() -> None:
    lif = rb.LIF()
    lif.load_state_dict(rb.LIF(surrogate=rb.surrogate.Sigmoid(5.0)).state_dict())
    assert lif.surrogate == rb.surrogate.Sigmoid(5.0)


def test_reset_is_checked_when_assigned() -> None:
    lif = rb.LIF()
    lif.reset = "hard"
    with pytest.raises(ValueError, match="reset must be 'soft' or 'hard', got 'none'"):
        lif.reset = "none"
    assert lif.reset == "hard"


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
    with rb.engine("numba"), pytest.raises(RuntimeError):
        rb.LIF()(x)

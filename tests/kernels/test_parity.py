"""The Numba engine is the definition: values, states and every gradient, over neurons, numbers, shapes and layouts."""

import numba
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import rheobase as rb
from rheobase import kernels
from rheobase.kernels import layout, ops, reference
from rheobase.kernels.numba import engine, rows
from rheobase.kernels.numba.engine import KINDS
from rheobase.kernels.numba.walk import walk

from .cases import (
    CASES,
    CHANNELS,
    DEFAULT,
    NEURONS,
    SURROGATES,
    Case,
    Found,
    assert_fires,
    assert_identical,
    assert_same,
    channels_last,
    fired,
    from_fixed_statistics,
    gradients,
    grid,
    leaf,
    on_threads,
    ran,
    states,
    walked,
    weighted,
)

CURRENTS = {
    "one step": lambda: grid(1, 4, 9),
    "odd": lambda: grid(5, 2, 3, 3, 5),
    "channels-last": lambda: channels_last(grid(4, 3, 6, 5, 7)),
    "many steps": lambda: grid(63, 1, 17),
    "blocks that cut channels": lambda: grid(2, 3, 70, 11, 2),
    "more channels than blocks": lambda: grid(30, 1, 450),
    "more channels than blocks, forward": lambda: grid(2, 2, 1100),
    "large planes": lambda: grid(2, 2, 70, 41, 2),
    "planes larger than blocks": lambda: grid(2, 1, 5, 30, 29),
    "transposed": lambda: grid(3, 4, 6, 5).transpose(0, 1),
    "channels transposed": lambda: grid(4, 6, 3, 5).transpose(1, 2),
    "every second": lambda: grid(4, 3, 6, 5, 14)[..., ::2],
    "static": lambda: grid(1, 3, 6, 5, 7).expand(4, -1, -1, -1, -1),
    "static, sliced": lambda: grid(3, 6, 5, 14)[..., ::2].expand(4, -1, -1, -1, -1),
    "static, one image": lambda: grid(1, 1, 6, 5, 7).expand(4, 3, -1, -1, -1),
    "batch of one": lambda: channels_last(grid(4, 1, 6, 5, 7)),
    "one channel": lambda: grid(4, 3, 1, 5, 7),
}


# (one number a channel is one for all where there is one channel, which another case has)
PAIRS = [(case, name) for case in CASES for name in CURRENTS if case.each != "channel" or name != "one channel"]


@pytest.mark.parametrize(("case", "currents"), PAIRS, ids=str)
def test_neuron(case: Case, currents: str) -> None:
    x = case.fits(CURRENTS[currents]())
    neuron = case.neuron(tuple(x.shape))
    for state in (None, states(neuron, tuple(x.shape))):
        got, want = (ran(neuron, name, x, state) for name in ("numba", "reference"))
        assert_fires(want["spikes"])
        assert_same(got, want, 2e-5)


@pytest.mark.parametrize("shape", [(1, 1), (63, 1, 1), (6, 3)], ids=str)
@pytest.mark.parametrize("case", [case for case in CASES if case.each == "one"], ids=str)
def test_neurons_without_channels(case: Case, shape: tuple[int, ...]) -> None:
    x = grid(*shape, seed=3) + 1
    neuron = case.neuron(shape)
    for state in (None, states(neuron, shape)):
        assert_same(*(ran(neuron, name, x, state) for name in ("numba", "reference")), 2e-5)


@pytest.mark.parametrize("case", [DEFAULT, CHANNELS, NEURONS], ids=str)
def test_states_and_gradients_may_lie_otherwise(case: Case) -> None:
    x = channels_last(grid(4, 3, 6, 5, 7))
    neuron = case.neuron(tuple(x.shape))
    begin = states(neuron, tuple(x.shape))
    pair = begin if isinstance(begin, tuple) else (begin,)
    found = []
    for name in ("numba", "reference"):
        neuron.zero_grad()
        y = leaf(x)
        given = [leaf(s.transpose(0, 2).contiguous().double()) for s in pair]
        begin = tuple(s.transpose(0, 2) if name == "numba" else s.transpose(0, 2).float() for s in given)
        with rb.engine(name):
            spikes, final = neuron.run(y, begin if len(begin) > 1 else begin[0])
        torch.autograd.backward(
            [spikes, flat(final)[0]], [torch.ones(1).expand_as(spikes), flat(final)[0].detach().mT.mT]
        )
        found.append({"spikes": spikes.detach(), "currents.grad": y.grad} | gradients(neuron))
        found[-1] |= {f"state.{k}.grad": s.grad for k, s in enumerate(given)}
    assert found[0]["state.0.grad"].dtype is torch.float64
    assert_fires(spikes)
    assert_same(*found, 2e-5)


FIXED = next(case for case in CASES if case.kind != "LIF" and case.learn == "fixed")


@pytest.mark.parametrize(
    ("case", "wanted"), [(FIXED, "currents"), (FIXED, "states"), (CHANNELS, "numbers"), (NEURONS, "numbers")], ids=str
)
def test_not_everything_has_to_want_a_gradient(case: Case, wanted: str) -> None:
    x = grid(4, 3, 6, 5)
    neuron = case.neuron(tuple(x.shape))
    begin = states(neuron, tuple(x.shape))
    whole = ran(neuron, "reference", x, begin)
    neuron.zero_grad()
    neuron.requires_grad_(wanted == "numbers")
    y = x.clone().requires_grad_(wanted == "currents")
    given = [s.clone().requires_grad_(wanted == "states") for s in begin]
    with rb.engine("numba"):
        spikes, final = neuron.run(y, tuple(given))
    sum(map(weighted, (spikes, *final))).backward()
    found = {"currents.grad": y.grad} | {f"state.{k}.grad": s.grad for k, s in enumerate(given)} | gradients(neuron)
    found = {name: grad for name, grad in found.items() if grad is not None}
    assert len(found) == {"currents": 1, "states": 2, "numbers": len(case.learned())}[wanted]
    assert_same(found, {name: whole[name] for name in found}, 2e-5)


@pytest.mark.parametrize("taken", [0, 1, 2])
@pytest.mark.parametrize("case", [CHANNELS, NEURONS], ids=str)
def test_one_of_several_outputs_is_enough(case: Case, taken: int) -> None:
    x = grid(4, 3, 6, 5)
    neuron, found = case.neuron(tuple(x.shape)), []
    for name in ("numba", "reference"):
        neuron.zero_grad()
        y = leaf(x)
        with rb.engine(name):
            spikes, final = neuron.run(y)
        weighted((spikes, *final)[taken]).backward()
        found.append({"currents.grad": y.grad} | gradients(neuron))
    want = {name: found[0][name] * 0 if value is None else value for name, value in found[1].items()}
    got = {name: value for name, value in found[0].items() if name in want or value.any()}
    assert_same(got, want, 2e-5)


def test_if() -> None:
    neuron = rb.IF(1.0, surrogate=DEFAULT.surrogate)
    got, want = (ran(neuron, name, grid(6, 3, 11)) for name in ("numba", "reference"))
    assert_fires(want["spikes"])
    assert_same(got, want, 2e-5)


@pytest.mark.parametrize("shape", [(7, 3, 11), (5, 3, 11, 11), (1, 2, 11)], ids=str)
@pytest.mark.parametrize("case", [case for case in CASES if case.each in ("one", "channel")], ids=str)
def test_recurrent_neuron(case: Case, shape: tuple[int, ...]) -> None:
    """One job that moves from step to step, cut into pieces."""
    with walked(LEAST=50):
        recurrent_neuron(case, grid(*shape))


def recurrent_neuron(case: Case, x: Tensor) -> None:
    neuron = rb.Recurrent(case.neuron(tuple(x.shape)), torch.nn.Linear(11, 11))
    with torch.no_grad():
        for p in neuron.module.parameters():
            p.copy_((p * 16).round() / 16)  # a sum of few such numbers does not round
    inner = states(neuron.neuron, tuple(x.shape))
    for state in (None, (inner, (x[0] > 0).float())):
        found = []
        for name in ("numba", "reference"):
            neuron.zero_grad()
            y = leaf(x)
            with rb.engine(name):
                spikes, final = neuron.run(y, state)
            weighted(spikes).add(weighted(torch.cat([s.flatten() for s in flat(final)]))).backward()
            found.append({"spikes": spikes.detach(), "currents.grad": y.grad} | gradients(neuron))
            found[-1] |= {f"final.{k}": s.detach() for k, s in enumerate(flat(final))}
        assert_fires(spikes)
        assert_same(*found, 2e-5)


def flat(state: Tensor | tuple) -> list[Tensor]:
    return [leaf for part in state for leaf in flat(part)] if isinstance(state, tuple) else [state]


def test_shapes_are_walked_in_every_way() -> None:
    """What the currents above are named for."""
    found = {name: walk(layout.dense(make()), channels=True, arrays=1) for name, make in CURRENTS.items()}
    forward = walk(CURRENTS["more channels than blocks, forward"](), channels=True, arrays=0)
    assert found["more channels than blocks"].anew
    assert found["more channels than blocks"].width * 2 < found["more channels than blocks"].C
    assert forward.anew
    assert forward.inner == 1
    assert found["large planes"].anew
    assert found["large planes"].inner == 82 == found["large planes"].width
    assert found["planes larger than blocks"].width < found["planes larger than blocks"].inner
    assert found["channels-last"].inner == 1 != found["odd"].inner
    assert not found["channels-last"].anew
    assert [name for name, how in found.items() if not how.moving and how.T > 1] == [n for n in found if "static" in n]


@pytest.mark.parametrize("decay", [0.9, 0.123])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_spikes_are_equal_bit_for_bit_where_arithmetic_rounds(case: Case, decay: float) -> None:
    currents = case.fits(torch.randn(50, 4, 150))
    neuron = case.neuron(tuple(currents.shape))
    neuron.decay = torch.full_like(neuron.decay.detach(), decay)
    with torch.no_grad():
        found = []
        for name in ("numba", "reference"):
            with rb.engine(name):
                spikes, final = neuron.run(currents)
            found.append({"spikes": spikes} | dict(enumerate(final if isinstance(final, tuple) else (final,))))
    assert_fires(spikes)
    assert_identical(*found)


MANY = [case for case in CASES if case.each != "one"]


@pytest.mark.parametrize("each", [(6,), (6, 5)], ids=["channel", "neuron"])
@pytest.mark.parametrize("case", MANY, ids=str)
def test_numbers_of_a_surrogate_may_differ_too(case: Case, each: tuple[int, ...]) -> None:
    x = grid(4, 3, 6, 5)
    neuron = case.neuron(tuple(x.shape))
    neuron.surrogate = type(case.surrogate)(torch.rand(each) + 0.5, height=torch.rand(each[:1]) + 0.5)
    got, want = (ran(neuron, name, x) for name in ("numba", "reference"))
    neuron.surrogate = case.surrogate
    assert not torch.allclose(got["currents.grad"], ran(neuron, "numba", x)["currents.grad"])
    assert_same(got, want, 2e-5)


@pytest.mark.parametrize("change", [Tensor.double, Tensor.bfloat16, lambda n: torch.stack([n, n], -1)[..., 0]])
def test_numbers_of_another_dtype_or_layout(change) -> None:
    x = grid(4, 3, 6, 5)
    neuron = next(case for case in MANY if case.learn == "fixed").neuron(tuple(x.shape))
    for name, value in neuron._buffers.items():
        neuron._buffers[name] = value.bfloat16().float()
    want = ran(neuron, "numba", x)
    for name, value in neuron._buffers.items():
        neuron._buffers[name] = change(value)
    assert_identical(ran(neuron, "numba", x), want)
    assert_fires(want["spikes"])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_nan_shows_and_stays_where_it_is(case: Case) -> None:
    x = grid(5, 2, 3, 7)
    x[1, 0, 2, 3] = x[4, 1, 0, 0] = float("nan")
    x[2, 1, 1, 1], x[3, 1, 1, 2] = float("inf"), -float("inf")
    neuron = case.neuron(tuple(x.shape))
    got, want = (ran(neuron, name, x) for name in ("numba", "reference"))
    for name in want:
        if name in ("spikes", "final.0", "final.1"):
            torch.testing.assert_close(got[name], want[name], rtol=0, atol=0, equal_nan=True)
        number = ~want[name].isnan()  # (a reset that is not detached may multiply a NaN with 0, in the definition)
        torch.testing.assert_close(got[name][number], want[name][number], rtol=2e-5, atol=2e-5)
    assert got["spikes"][1:, 0, 2, 3].isnan().all()
    assert got["currents.grad"][1, 0, 2, 3].isnan() or case.surrogate.name == "Rectangle"  # (which is 0 or 1)
    assert not got["spikes"][:, 0, 2, 4].isnan().any()


def a_fire(neuron: rb.LIF, channels: int, drive: bool = False) -> rb.Fire:
    fire = rb.Fire(rb.CurrentNorm(channels), neuron, drive)
    with torch.no_grad():
        fire.norm.weight.copy_(torch.linspace(0.5, 1.5, channels))
        fire.norm.bias.copy_(torch.linspace(-0.3, 0.3, channels))
    return fire


def inputs(
    shape: tuple[int, ...],
    layout: str,
    others: tuple[str, ...] = (),
    dtype: torch.dtype = torch.float32,
    seed: int = 5,
) -> tuple[Tensor, Found]:
    """Currents, and the others named: "residual", "static residual", "skip", "static skip"."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).bfloat16() * 2 + 0.5
    found = {"x": x} | {name.split()[-1]: grid(*shape, seed=len(name) + seed) for name in others}
    found = {name: value.to(dtype) for name, value in found.items()}
    if layout == "channels-last" and len(shape) == 5:
        found = {name: channels_last(value) for name, value in found.items()}
    for name in found:
        if (name == "x" and layout == "static") or f"static {name}" in others:
            found[name] = found[name][:1].expand(*shape)
    return found.pop("x"), found


def steady(fire: rb.Fire, shape: tuple[int, ...], layout: str, others: tuple[str, ...] = ()) -> tuple[Tensor, Found]:
    """Inputs with which no potential is so near to the threshold that the rounding of a norm decides about a spike."""
    for seed in range(100):
        x, given = inputs(shape, layout, others, seed=seed)
        from_fixed_statistics(fire.norm)
        with torch.no_grad(), rb.engine("reference"):
            drive = fire.norm(x) + given.get("residual", 0)
            if torch.equal(fire.neuron(drive - 1e-5), fire.neuron(drive + 1e-5)):
                return x, given
    raise AssertionError("none found")


BESIDE = [(), ("residual",), ("static residual", "static skip"), ("skip",), ("residual", "skip")]
FIRES = [
    (DEFAULT, (3, 4, 5)),
    (DEFAULT, (4, 3, 6, 5, 7)),
    (DEFAULT, (2, 2, 3, 33, 67)),
    (DEFAULT, (2, 1, 130, 6, 6)),
    (DEFAULT, (2, 2, 1100)),
    (CHANNELS, (4, 3, 6, 5, 7)),
    (NEURONS, (4, 3, 6, 5, 7)),
]


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("drive", [False, True], ids=["", "drive"])
@pytest.mark.parametrize("others", BESIDE, ids=str)
@pytest.mark.parametrize("layout", ["channels-last", "contiguous", "static"])
@pytest.mark.parametrize(("case", "shape"), FIRES, ids=str)
def test_fire_is_norm_sum_neuron_and_sum(
    case: Case, shape: tuple[int, ...], layout: str, others: tuple[str, ...], drive: bool, training: bool
) -> None:
    fire = a_fire(case.neuron(shape), shape[2], drive).train(training)
    x, given = steady(fire, shape, layout, others)
    fused, apart = fired(fire, x, **given), fired(fire, x, "reference", fused=False, **given)
    assert_fires(apart["spikes"] - given.get("skip", 0))
    assert_same(fused, apart, 2e-4)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("options", [{"fused": True}, {"fused": False}, {"engine": "reference"}], ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 6, 5, 7), (4, 3, 6, 5, 1)], ids=str)
def test_the_layout_of_what_is_small_does_not_show(shape: tuple[int, ...], options: dict, training: bool) -> None:
    """Where an axis is 1 long, strides tell little of the layout (and mislead the backward of torch.batch_norm)."""
    fire = a_fire(DEFAULT.neuron(shape), 6).train(training)
    x, _ = steady(fire, shape, "contiguous")
    flat = x.flatten(0, 1)
    turned = flat.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2).unflatten(0, shape[:2])
    assert x.stride(2) != turned.stride(2) == 1
    assert_same(fired(fire, turned, **options), fired(fire, x), 2e-4)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("case", [DEFAULT, NEURONS], ids=str)
def test_what_joins_currents_may_lie_otherwise(case: Case, training: bool) -> None:
    """And currents, the first of a net, need not want a gradient."""
    shape = (4, 3, 6, 5, 7)
    fire = a_fire(case.neuron(shape), 6, drive=True).train(training)
    x, given = steady(fire, shape, "channels-last", ("residual", "skip"))
    want = fired(fire, x, "reference", fused=False, **given)
    turned = {name: value.transpose(0, 3).contiguous().transpose(0, 3) for name, value in given.items()}
    assert_same(fired(fire, x, **turned), want, 2e-4)
    from_fixed_statistics(fire.norm)
    fire.zero_grad()
    with rb.engine("numba"):
        spikes, drive = fire(x, **given)
    (weighted(spikes) + weighted(drive)).backward()
    found = gradients(fire)
    assert_same(found, {name: want[name] for name in found}, 2e-4)


@pytest.mark.parametrize("taken", ["spikes", "drive"])
def test_one_of_two_outputs_may_go_unused(taken: str) -> None:
    fire = a_fire(rb.LIF(), 6, drive=True)
    x, grads = leaf(steady(fire, (4, 3, 6, 5, 7), "channels-last")[0]), []
    for fused in (True, False):
        x.grad = None
        with rb.engine("numba", fused=fused):
            spikes, drive = fire(x)
        assert_fires(spikes)
        weighted(spikes if taken == "spikes" else drive).backward()
        grads.append(x.grad)
    torch.testing.assert_close(*grads, rtol=2e-4, atol=2e-4)


def test_neuron_in_bfloat16() -> None:
    case = DEFAULT
    for x in (grid(4, 3, 6, 5, 7), channels_last(grid(4, 3, 6, 5, 7)), grid(1, 3, 6, 5, 7).expand(4, -1, -1, -1, -1)):
        neuron = case.neuron(tuple(x.shape))
        got, want = (ran(neuron, name, x.bfloat16(), states(neuron, x.shape)) for name in ("numba", "reference"))
        assert_fires(want["spikes"])
        assert got["spikes"].dtype is got["currents.grad"].dtype is torch.bfloat16
        assert got["final.0"].dtype is torch.float32
        rounded = {name: got.pop("currents.grad").float() for got, name in ((got, "got"), (want, "want"))}
        assert_same(got, want, 2e-5)
        torch.testing.assert_close(rounded["got"], rounded["want"], rtol=2**-7, atol=1e-4)  # of 8 bits, the last


@pytest.mark.parametrize("others", BESIDE, ids=str)
@pytest.mark.parametrize("case", [DEFAULT, NEURONS], ids=str)
def test_fire_in_bfloat16(case: Case, others: tuple[str, ...]) -> None:
    shape = (3, 4, 6, 5, 5)
    fire = a_fire(case.neuron(shape), 6)
    x, given = inputs(shape, "contiguous", others, torch.bfloat16)
    got = fired(fire, x, **given)
    want = fired(fire, *inputs(shape, "contiguous", others)[:1], **inputs(shape, "contiguous", others)[1])
    same = (got["spikes"].float() == want["spikes"]).all(0)
    assert_fires(want["spikes"] - given.get("skip", 0))
    assert same.float().mean() > 0.97  # a few lie on the other side of the threshold
    for name, value in got.items():
        alone = value.shape[-4:] == same.shape  # one for each neuron, and no sum into which those few go too
        here, there = (v.float() * same if alone else v.float() for v in (value, want[name]))
        atol = (0.04 if alone else 0.1) * max(1.0, float(there.abs().max()))
        torch.testing.assert_close(here, there, rtol=0.02, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("others", BESIDE, ids=str)
@pytest.mark.parametrize("case", [DEFAULT, NEURONS], ids=str)
def test_in_bfloat16_it_does_not_show_whether_the_drive_is_kept(case: Case, others: tuple[str, ...]) -> None:
    shape = (3, 4, 6, 5, 5)
    x, given = inputs(shape, "contiguous", others, torch.bfloat16)
    fire = a_fire(case.neuron(shape), 6)
    without = fired(fire, x, **given)
    fire.drive = True
    outputs = fire(x, given.get("residual"), given.get("skip"))
    assert torch.equal(outputs[0], without["spikes"])
    assert torch.equal(outputs[0], fire.neuron(outputs[1]) + given.get("skip", 0))
    leaves = {name: leaf(value) for name, value in {"currents": x, **given}.items()}
    fire.zero_grad()
    weighted(fire(*[leaves.get(name) for name in ("currents", "residual", "skip")])[0]).backward()
    for name, value in leaves.items():
        assert torch.equal(value.grad, without[f"{name}.grad"]), name
    for name, parameter in fire.named_parameters():
        assert torch.equal(parameter.grad, without[f"{name}.grad"]), name


LARGE = [(DEFAULT, ("residual", "skip")), (NEURONS, ("static residual", "skip"))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(3, 2, 5, 7, 3), (4, 1, 70, 9, 5), (2, 3, 16, 1)], ids=str)
@pytest.mark.parametrize(("case", "others"), LARGE, ids=str)
def test_writing_past_the_caches_changes_nothing(
    case: Case, others: tuple[str, ...], shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    fire, (x, given) = a_fire(case.neuron(shape), shape[2], drive=True), inputs(shape, "contiguous", others, dtype)
    found = []
    for large in (1, 1 << 40):
        with walked(LARGE=large):
            found.append(fired(fire, x, **given))
    assert_identical(*found)


def test_large_results_are_written_past_the_caches() -> None:
    shape = (2, 4, 40, 32, 32)
    assert walk(torch.empty(shape), channels=True).large
    fire = a_fire(rb.LIF(), 40, drive=True)
    x, given = steady(fire, shape, "channels-last", ("residual", "skip"))
    fused, apart = fired(fire, x, **given), fired(fire, x, "reference", fused=False, **given)
    assert_same(fused, apart, 1e-3)


@pytest.mark.parametrize("shape", [(4, 8, 16, 15, 15), (30, 2, 450, 1), (2, 3, 70, 41, 2)], ids=str)
@pytest.mark.parametrize(("case", "others"), LARGE, ids=str)
def test_results_do_not_depend_on_the_number_of_threads(
    case: Case, others: tuple[str, ...], shape: tuple[int, ...]
) -> None:
    fire = a_fire(case.neuron(shape), shape[2], drive=True)
    x, given = steady(fire, shape, "channels-last", others)
    with walked(LEAST=700):
        assert walk(x, channels=True).pieces > 20
        found = []
        for count in (1, 3):
            with on_threads(count):
                found.append(fired(fire, x, **given))
        assert_identical(*found)
        assert_same(found[0], fired(fire, x, "reference", fused=False, **given), 3e-4)


@pytest.mark.parametrize("least", [200, 100])  # with more pieces, a sum for each neuron takes less memory
@pytest.mark.parametrize("case", [case for case in CASES if case.learn == "all"], ids=str)
def test_learned_numbers_do_not_depend_on_the_number_of_threads(case: Case, least: int) -> None:
    x = grid(5, 6, 33, 7)
    neuron = case.neuron(tuple(x.shape))
    with walked(LEAST=least):
        found = []
        for count in (1, 3):
            with on_threads(count):
                found.append(ran(neuron, "numba", x))
        assert_identical(*found)
        assert_same(found[0], ran(neuron, "reference", x), 2e-5)


MOMENTS = ["odd", "channels-last", "blocks that cut channels", "large planes", "planes larger than blocks"]
MOMENTS += ["more channels than blocks, forward", "channels transposed", "every second", "static, sliced", "static"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("currents", MOMENTS)
def test_moments_are_those_of_numpy(currents: str, dtype: torch.dtype) -> None:
    x = CURRENTS[currents]().to(dtype)
    with walked(LEAST=1000):
        mean, m2 = ops.moments(x, "numba")
    values = x.double().transpose(0, 2).flatten(1).numpy()
    assert mean.dtype is m2.dtype is torch.float64
    np.testing.assert_allclose(mean, values.mean(1), rtol=0, atol=1e-12)
    np.testing.assert_allclose(m2, values.var(1) * values.shape[1], rtol=1e-12)


def test_variance_of_currents_with_a_large_mean() -> None:
    x = torch.randn(4, 8, 3, 6, 6, dtype=torch.float64) + 3000
    mean, m2 = ops.moments(x.float(), "numba")
    want = x.float().double().transpose(0, 2).flatten(1)
    torch.testing.assert_close(mean, want.mean(1), rtol=1e-12, atol=0)
    torch.testing.assert_close(m2 / want.shape[1], want.var(1, correction=0), rtol=1e-6, atol=0)


@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("currents", ["channels-last", "static", "blocks that cut channels"])
def test_running_statistics_follow_as_those_of_torch(currents: str, momentum: float) -> None:
    x, by = CURRENTS[currents]() + 0.25, engine.ENGINE
    channels = x.shape[2]
    start = torch.linspace(-1, 1, channels), torch.linspace(0.5, 2, channels)
    in_kernel, by_lerp, by_torch = ([s.clone() for s in start] for _ in range(3))
    by.moments(layout.dense(x), (*in_kernel, momentum))
    count, *_ = kernels.moments(x, by, (*by_lerp, momentum))
    F.batch_norm(x.flatten(0, 1), *by_torch, training=True, momentum=momentum)
    assert count == x.numel() / channels
    for a, b, c in zip(in_kernel, by_lerp, by_torch, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-7, atol=1e-7)
        torch.testing.assert_close(a, c, rtol=1e-6, atol=1e-6)
    fire = rb.Fire(rb.CurrentNorm(channels, momentum=momentum), rb.LIF())
    for dtype in (torch.float32, torch.float64):  # the kernel does not take the second
        fire.norm.running_mean, fire.norm.running_var = (s.clone().to(dtype) for s in start)
        assert_fires(fire(x))
        for a, b in zip(fire.norm.buffers(), in_kernel, strict=True):
            assert a.dtype is dtype
            torch.testing.assert_close(a.float(), b, rtol=2e-7, atol=1e-7)


def test_exponential_of_the_kernels() -> None:
    @numba.njit
    def exponentials(x: np.ndarray) -> np.ndarray:
        y = np.empty_like(x)
        for i in range(x.size):
            y[i] = rows._exp(x[i])
        return y

    x = np.linspace(-88, 0, 10001, dtype=np.float32)
    got = exponentials(x)
    np.testing.assert_allclose(got[x >= -87], np.exp(x[x >= -87].astype(np.float64)), rtol=3e-7)
    assert np.isnan(exponentials(np.array([np.nan], np.float32)))


def test_a_dense_tensor_is_walked_without_a_copy() -> None:
    for x in (torch.rand(3, 4, 5, 6, 7), channels_last(torch.rand(3, 4, 5, 6, 7)), torch.rand(1, 4, 5).expand(3, 4, 5)):
        assert layout.dense(x) is x
    assert layout.dense(torch.rand(3, 4, 10)[..., ::2]).is_contiguous()


def test_spikes_lie_in_memory_as_currents_do() -> None:
    x = channels_last(grid(4, 3, 6, 5, 7))
    with rb.engine("numba"):
        assert rb.LIF()(x).stride() == x.stride()


def test_an_engine_and_the_definition_have_the_same_kinds() -> None:
    assert {case.kind for case in CASES} == set(KINDS) == set(reference.STEPS) - {"LateralLIF"}  # (by definition alone)
    assert {case.reset for case in CASES} == set(rows.RESETS)
    assert {s.name for s in SURROGATES} == set(rows.SURROGATES)

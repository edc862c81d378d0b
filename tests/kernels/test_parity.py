"""The Numba engine is the definition: values, states and every gradient, over neurons, surrogates and shapes."""

import itertools

import numba
import numpy as np
import pytest
import torch
from torch import Tensor

import rheobase as rb
from rheobase import surrogate
from rheobase.kernels import layout, ops, rows

SURROGATES = [
    surrogate.SuperSpike(2.0),
    surrogate.ATan(2.0, height=1.5),
    surrogate.Sigmoid(4.0),
    surrogate.Triangle(0.8),
    surrogate.Rectangle(1.2),
    surrogate.Gaussian(0.5),
]
SHAPES = [(1, 1), (3, 2, 1), (7, 3, 5), (5, 2, 3, 3, 5), (4, 2, 65, 7, 9), (63, 1, 17), (2, 3, 70, 41, 2)]


def grid(*shape: int, seed: int = 0) -> Tensor:
    """Multiples of 1/32 in [-2, 2]: with decays that are dyadic too, no engine rounds and spikes can be compared."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-64, 65, shape, generator=generator) / 32


def channels_last(x: Tensor) -> Tensor:
    flat = x.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    return flat.unflatten(0, x.shape[:2])


def results(module: torch.nn.Module, engine: str, currents: Tensor, state: Tensor | None) -> dict[str, Tensor]:
    """Values and gradients under an arbitrary, fixed loss of spikes and final state."""
    currents = currents.detach().requires_grad_()
    state = None if state is None else state.clone().requires_grad_()
    with rb.engine(engine):
        spikes, final = module.run(currents, state)
    weights = torch.linspace(-1, 1, spikes.numel()).to(spikes.dtype)
    (
        (spikes.reshape(-1) * weights).sum() + (final.reshape(-1) * weights[: final.numel()].to(final.dtype)).sum()
    ).backward()
    found = {"spikes": spikes, "final": final, "currents.grad": currents.grad}
    return found if state is None else {**found, "state.grad": state.grad}


def assert_same(got: dict[str, Tensor], want: dict[str, Tensor], tolerance: float) -> None:
    assert got.keys() == want.keys()
    for name in want:
        torch.testing.assert_close(
            got[name], want[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("reset", "detach"), list(itertools.product(["soft", "hard"], [True, False])))
@pytest.mark.parametrize("kind", SURROGATES, ids=lambda s: type(s).__name__)
def test_lif(kind: surrogate.Surrogate, reset: str, detach: bool, shape: tuple[int, ...]) -> None:
    lif = rb.LIF(0.5, 0.75, reset, detach, kind, input_scale=0.5)
    for state in (None, grid(*shape[1:], seed=1)):
        numba, definition = (results(lif, engine, grid(*shape), state) for engine in ("numba", "reference"))
        assert torch.equal(numba["spikes"], definition["spikes"])
        assert_same(numba, definition, 2e-5)


@pytest.mark.parametrize("decay", [0.9, 0.123])
def test_spikes_are_equal_bit_for_bit_where_arithmetic_rounds(decay: float) -> None:
    lif = rb.LIF(decay)
    currents = torch.randn(50, 4, 1000, generator=torch.Generator().manual_seed(3))
    with rb.engine("numba"):
        spikes, final = lif.run(currents)
    with rb.engine("reference"):
        spikes_, final_ = lif.run(currents)
    assert torch.equal(spikes, spikes_)
    assert torch.equal(final, final_)


@pytest.mark.parametrize("reset", ["soft", "hard"])
def test_if(reset: str) -> None:
    neuron = rb.IF(1.0, reset, detach_reset=False)
    assert_same(*(results(neuron, engine, grid(6, 3, 11), None) for engine in ("numba", "reference")), 2e-5)


@pytest.mark.parametrize(
    "view",
    ["channels_last", "transposed", "every second", "static", "static, sliced", "static, one image", "batch of one"],
)
def test_layouts(view: str) -> None:
    x = grid(4, 3, 6, 5, 7)
    x = {
        "channels_last": lambda: channels_last(x),
        "transposed": lambda: x.transpose(0, 1).contiguous().transpose(0, 1),
        "every second": lambda: grid(4, 3, 6, 5, 14)[..., ::2],
        "static": lambda: x[:1].expand(4, -1, -1, -1, -1),
        "static, sliced": lambda: grid(3, 6, 5, 14)[..., ::2].expand(4, -1, -1, -1, -1),
        "static, one image": lambda: x[:1, :1].expand(4, 3, -1, -1, -1),
        "batch of one": lambda: channels_last(x[:, :1]),
    }[view]()
    numba, definition = (results(rb.LIF(), engine, x, grid(*x.shape[1:], seed=1)) for engine in ("numba", "reference"))
    if view.startswith("static"):  # only the sum over time is defined
        for found in (numba, definition):
            found["currents.grad"] = found["currents.grad"].sum(0)
    assert_same(numba, definition, 2e-5)
    if view == "channels_last":
        with rb.engine("numba"):
            assert rb.LIF()(x).stride() == x.stride()


def test_bfloat16() -> None:
    lif = rb.LIF(0.5, surrogate=surrogate.ATan(2.0))
    x = grid(8, 3, 50).bfloat16()
    with rb.engine("numba"):
        got = results(lif, "numba", x, None)
    want = results(lif, "numba", x.float(), None)
    assert got["spikes"].dtype == torch.bfloat16
    assert got["final"].dtype == torch.float32
    assert torch.equal(got["spikes"].float(), want["spikes"])
    torch.testing.assert_close(got["currents.grad"].float(), want["currents.grad"], rtol=1 / 128, atol=1e-2)
    definition = results(lif, "reference", x, None)
    assert definition["final"].dtype == torch.float32
    assert torch.equal(got["spikes"], definition["spikes"])
    torch.testing.assert_close(got["currents.grad"], definition["currents.grad"], rtol=1 / 128, atol=1e-2)


def weighted(x: Tensor) -> Tensor:
    """An arbitrary, fixed loss."""
    return (x.reshape(-1) * torch.linspace(-1, 1, x.numel(), dtype=torch.float64).sin().to(x.dtype)).sum()


def fire_results(
    fire: rb.Fire, x: Tensor, fused: bool, engine: str = "numba", evaluate: bool = False, **others: Tensor | None
) -> dict[str, Tensor]:
    fire.norm.running_mean.copy_(torch.linspace(-0.2, 0.2, fire.norm.channels))
    fire.norm.running_var.fill_(1.5)
    fire.train(not evaluate)
    fire.zero_grad()
    given = {name: value.detach().requires_grad_() for name, value in {"x": x, **others}.items() if value is not None}
    with rb.engine(engine, fused=fused):
        outputs = fire(*[given.get(name) for name in ("x", "residual", "skip")])
    found = dict(zip(("spikes", "drive"), outputs, strict=True)) if fire.drive else {"spikes": outputs}
    sum(map(weighted, found.values())).backward()
    found |= {f"{name}.grad": value.grad for name, value in given.items()}
    for name in given:
        if others.get(name, x).stride(0) == 0:  # only the sum over time is defined
            found[f"{name}.grad"] = given[name].grad.sum(0)
    found |= {f"{name}.grad": parameter.grad for name, parameter in fire.norm.named_parameters()}
    return found | {name: buffer.clone() for name, buffer in fire.norm.named_buffers()}


def fire_inputs(
    shape: tuple[int, ...], layout: str, *others: str, dtype: torch.dtype = torch.float32
) -> dict[str, Tensor]:
    """Currents and the others named: "residual", "static residual", "skip"."""
    found = {"x": torch.randn(*shape, generator=torch.Generator().manual_seed(5)).bfloat16() * 2 + 0.5}
    found |= {name.split()[-1]: grid(*shape, seed=len(name)) for name in others}
    found = {name: value.to(dtype) for name, value in found.items()}
    if layout == "channels_last" and len(shape) == 5:
        found = {name: channels_last(value) for name, value in found.items()}
    for name in found:
        if (name == "x" and layout == "static") or f"static {name}" in others:
            found[name] = found[name][:1].expand(*shape)
    return found


def a_fire(channels: int, drive: bool) -> rb.Fire:
    fire = rb.Fire(rb.CurrentNorm(channels), rb.LIF(input_scale=1.5, surrogate=surrogate.ATan(2.0)), drive)
    with torch.no_grad():
        fire.norm.weight.copy_(torch.linspace(0.5, 1.5, channels))
        fire.norm.bias.copy_(torch.linspace(-0.3, 0.3, channels))
    return fire


FUSED = [(), ("residual",), ("static residual",), ("skip",), ("residual", "skip")]


@pytest.mark.parametrize("evaluate", [False, True])
@pytest.mark.parametrize("drive", [False, True])
@pytest.mark.parametrize("others", FUSED, ids=str)
@pytest.mark.parametrize("layout", ["channels_last", "contiguous", "static"])
@pytest.mark.parametrize("shape", [(3, 4, 5), (4, 3, 6, 5, 7), (2, 2, 3, 33, 67), (5, 2, 130, 3, 3)], ids=str)
def test_fire_is_norm_sum_neuron_and_sum(
    shape: tuple[int, ...], layout: str, others: tuple[str, ...], drive: bool, evaluate: bool
) -> None:
    fire, given = a_fire(shape[2], drive), fire_inputs(shape, layout, *others)
    fused, apart = (fire_results(fire, fused=fused, evaluate=evaluate, **given) for fused in (True, False))
    assert_same(fused, apart, 2e-4)


@pytest.mark.parametrize("others", [("residual", "skip"), ("skip",)], ids=str)
def test_fire_writes_large_results_past_the_caches(others: tuple[str, ...]) -> None:
    shape = (2, 4, 40, 32, 32)
    assert layout.walk(torch.empty(shape), True).large
    fire, given = a_fire(40, drive=True), fire_inputs(shape, "channels_last", *others)
    fused, apart = (fire_results(fire, fused=fused, **given) for fused in (True, False))
    assert_same(fused, apart, 1e-3)


@pytest.mark.parametrize("drive", [False, True])
@pytest.mark.parametrize("others", FUSED, ids=str)
def test_fire_in_bfloat16(others: tuple[str, ...], drive: bool) -> None:
    shape = (3, 4, 6, 5, 5)
    fire = rb.Fire(rb.CurrentNorm(6), rb.LIF(), drive)
    given = fire_inputs(shape, "contiguous", *others, dtype=torch.bfloat16)
    got = fire_results(fire, fused=True, **given)
    want = fire_results(fire, fused=True, **fire_inputs(shape, "contiguous", *others))
    if drive:  # the neuron sees the drive as it is kept, rounded: a few lie on the other side of the threshold
        assert torch.equal(got["spikes"], fire.neuron(got["drive"]) + given.get("skip", 0))
    same = (got["spikes"].float() == want["spikes"]).all(0)
    assert same.float().mean() > (0.98 if drive else 0.999)
    for name, value in got.items():
        here, there = (v.float() * same if v.shape[-4:] == same.shape else v.float() for v in (value, want[name]))
        torch.testing.assert_close(here, there, rtol=0.02, atol=0.04, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.parametrize("taken", ["spikes", "drive"])
def test_one_of_two_outputs_may_go_unused(taken: str) -> None:
    fire, x = a_fire(6, drive=True), channels_last(torch.randn(4, 3, 6, 5, 7)).requires_grad_()
    grads = []
    for fused in (True, False):
        x.grad = None
        with rb.engine(fused=fused):
            spikes, drive = fire(x)
        weighted(spikes if taken == "spikes" else drive).backward()
        grads.append(x.grad)
    torch.testing.assert_close(*grads, rtol=2e-4, atol=2e-4)


def test_fused_norm_keeps_the_variance_of_currents_with_a_large_mean() -> None:
    x = torch.randn(4, 8, 3, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 3000
    row, options = torch.ones(3), (1e-5, 1, True, True, False, False)
    inputs = (x.float(), None, None, None, rb.LIF().constants, row, row, row.clone(), row.clone(), *options, 0.1)
    *_, mean, var = ops.norm_fire(*inputs)
    want = x.float().double().transpose(0, 2).flatten(1)
    torch.testing.assert_close(mean, want.mean(1), rtol=1e-12, atol=0)
    torch.testing.assert_close(var, want.var(1, correction=0), rtol=1e-6, atol=0)


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    fire = rb.Fire(rb.CurrentNorm(16), rb.LIF())
    x = channels_last(torch.randn(4, 8, 16, 15, 15, generator=torch.Generator().manual_seed(2)))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, before):
            torch.set_num_threads(threads)
            found.append(fire_results(fire, x, fused=True))
    finally:
        torch.set_num_threads(before)
    for name in found[0]:
        assert torch.equal(found[0][name], found[1][name]), name


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


def test_a_dense_tensor_is_walked_without_a_copy() -> None:
    for x in (torch.rand(3, 4, 5, 6, 7), channels_last(torch.rand(3, 4, 5, 6, 7)), torch.rand(1, 4, 5).expand(3, 4, 5)):
        assert layout.dense(x) is x
    assert layout.dense(torch.rand(3, 4, 10)[..., ::2]).is_contiguous()

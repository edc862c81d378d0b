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


def fire_results(
    fire: rb.Fire,
    x: Tensor,
    fused: bool,
    engine: str = "numba",
    evaluate: bool = False,
    residual: Tensor | None = None,
) -> dict[str, Tensor]:
    fire.norm.running_mean.copy_(torch.linspace(-0.2, 0.2, fire.norm.channels))
    fire.norm.running_var.fill_(1.5)
    fire.train(not evaluate)
    fire.zero_grad()
    x = x.detach().requires_grad_()
    residual = None if residual is None else residual.detach().requires_grad_()
    with rb.engine(engine, fused=fused):
        spikes = fire(x, residual)
    weights = torch.linspace(-1, 1, spikes.numel(), dtype=torch.float64).sin().to(spikes.dtype)
    (spikes.reshape(-1) * weights).sum().backward()
    return {
        "spikes": spikes,
        "x.grad": x.grad,
        **({} if residual is None else {"residual.grad": residual.grad}),
        "weight.grad": fire.norm.weight.grad,
        "bias.grad": fire.norm.bias.grad,
        "running_mean": fire.norm.running_mean.clone(),
        "running_var": fire.norm.running_var.clone(),
    }


@pytest.mark.parametrize("evaluate", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("layout", ["channels_last", "contiguous", "static"])
@pytest.mark.parametrize(
    "shape", [(3, 4, 5), (4, 3, 6, 5, 7), (2, 2, 3, 33, 67), (5, 2, 130, 3, 3), (2, 4, 40, 12, 12)], ids=str
)
def test_fused_norm_is_norm_then_neuron(shape: tuple[int, ...], layout: str, residual: bool, evaluate: bool) -> None:
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(5)) * 2 + 0.5
    if layout == "channels_last" and len(shape) == 5:
        x = channels_last(x)
    if layout == "static":
        x = x[:1].expand(*shape)
    fire = rb.Fire(rb.CurrentNorm(shape[2]), rb.LIF(input_scale=1.5, surrogate=surrogate.ATan(2.0)))
    with torch.no_grad():
        fire.norm.weight.copy_(torch.linspace(0.5, 1.5, shape[2]))
        fire.norm.bias.copy_(torch.linspace(-0.3, 0.3, shape[2]))
    more = grid(*shape, seed=3) if residual else None
    fused, apart = (fire_results(fire, x, fused, evaluate=evaluate, residual=more) for fused in (True, False))
    if layout == "static":
        for found in (fused, apart):
            found["x.grad"] = found["x.grad"].sum(0)
    assert_same(fused, apart, 2e-4)


@pytest.mark.parametrize("residual", [False, True])
def test_fused_norm_in_bfloat16(residual: bool) -> None:
    shape = (3, 4, 6, 5, 5)
    fire, x = rb.Fire(rb.CurrentNorm(6), rb.LIF()), grid(*shape)
    more = grid(*shape, seed=1).bfloat16() if residual else None
    got = fire_results(fire, x.bfloat16(), fused=True, residual=more)
    want = fire_results(fire, x, fused=True, residual=None if more is None else more.float())
    for name, value in got.items():
        torch.testing.assert_close(value.float(), want[name].float(), rtol=0.02, atol=0.02)


def test_fused_norm_keeps_the_variance_of_currents_with_a_large_mean() -> None:
    x = torch.randn(4, 8, 3, 6, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 3000
    row, options = torch.ones(3), (1, True, True, False)
    inputs = (x.float(), None, None, rb.LIF().constants, row, row, row.clone(), row.clone(), 1e-5, *options, 0.1)
    _, _, mean, var = ops.norm_fire(*inputs)
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

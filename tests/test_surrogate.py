"""Surrogate shapes: area, height, stretching, and the derivative that reaches a gradient; rheobase.spike."""

import copy
import dataclasses
import io
import math
import pickle
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

import rheobase as rb
from rheobase.surrogate import SHAPES, ATan, Gaussian, Rectangle, Sigmoid, SuperSpike, Surrogate, Triangle

ALL = [SuperSpike(3.0), ATan(3.0), Sigmoid(3.0), Triangle(0.7), Rectangle(0.7), Gaussian(0.7)]
x = torch.linspace(-400, 400, 8_000_001, dtype=torch.float64)
every = pytest.mark.parametrize("shape", ALL, ids=lambda s: type(s).__name__)


@every
def test_unit_area_or_unit_peak(shape: Surrogate) -> None:
    if shape.unit_area:
        assert shape.derivative(x).sum().item() * 1e-4 == pytest.approx(1, abs=1e-3)
    else:
        assert shape.derivative(torch.zeros(1)).item() == 1


@every
def test_scaled_changes_the_height_and_stretched_the_width(shape: Surrogate) -> None:
    z = x[::1000]
    torch.testing.assert_close(shape.scaled(2.5).derivative(z), 2.5 * shape.derivative(z))
    torch.testing.assert_close(shape.stretched(1.6).derivative(z), shape.derivative(z / 1.6))
    assert shape.stretched(1.6).stretched(1 / 1.6).parameter == pytest.approx(shape.parameter)


def test_values_worked_out_by_hand() -> None:
    at = torch.tensor([0.0, -0.5])
    assert SuperSpike(2.0).derivative(at).tolist() == [1, 0.25]
    assert ATan(2.0).derivative(torch.tensor([0.0, -1.0])).tolist() == pytest.approx([1, 0.0920], abs=1e-4)
    assert Sigmoid(4.0).derivative(at).tolist() == pytest.approx([1, 0.41997], abs=1e-5)
    assert Triangle(1.0).derivative(at).tolist() == [1, 0.5]
    assert Rectangle(0.5).derivative(at).tolist() == [2, 0]
    assert Gaussian(0.5).derivative(at).tolist() == pytest.approx([0.79788, 0.48394], abs=1e-5)


@every
def test_fields_may_be_one_a_channel(shape: Surrogate) -> None:
    kind, parameters, heights = type(shape), torch.tensor([0.5, 1.0, 2.0]), torch.tensor([1.0, 3.0, 0.5])
    several, z = kind(parameters, heights), torch.randn(7, 3)
    for channel in range(3):
        one = kind(parameters[channel].item(), heights[channel].item())
        torch.testing.assert_close(several.derivative(z)[:, channel], one.derivative(z[:, channel]))
        torch.testing.assert_close(
            several.scaled(2).stretched(3).derivative(z)[:, channel],
            one.scaled(2).stretched(3).derivative(z[:, channel]),
        )


def test_equal_are_those_of_equal_numbers() -> None:
    several = torch.tensor([1.0, 2.0])
    assert ATan(2.0) == ATan(2.0) != ATan(2.0, 3.0)
    assert ATan(2.0) != Triangle(2.0)
    assert ATan(several) == ATan(several.clone())
    assert ATan(several) != ATan(several + 1)
    assert ATan(several) != ATan(2.0)


def test_frozen_and_checked() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ATan(2.0).alpha = 3.0  # type: ignore[misc]
    for shape in (type(s) for s in ALL):
        for wrong in (-1.0, 0.0, math.nan, math.inf, "1", torch.tensor([1.0, -1.0]), torch.tensor([1, 2])):
            with pytest.raises(ValueError, match=f"{shape.__name__}: .* must be positive, got"):
                shape(wrong)
        with pytest.raises(ValueError, match=f"{shape.__name__}: height must be positive, got -1"):
            shape(1.0, -1.0)


def test_shapes_are_known_by_name() -> None:
    assert {s.name for s in ALL} == {"SuperSpike", "ATan", "Sigmoid", "Triangle", "Rectangle", "Gaussian"}
    assert all(SHAPES[s.name] is type(s) for s in ALL)
    assert all(pickle.loads(pickle.dumps(s)) == s == copy.deepcopy(s) for s in ALL)


@dataclass(frozen=True)
class Cauchy(Surrogate):
    """One of one's own."""

    scale: float = 1.0
    height: float = 1.0
    grows = 1
    unit_area = False

    @staticmethod
    def formula(x: Tensor, parameter: Tensor | float) -> Tensor:
        return 1 / (1 + (x / parameter).square())


def test_a_shape_of_ones_own_works_everywhere() -> None:
    assert SHAPES[f"{__name__}.Cauchy"] is Cauchy
    lif, current = rb.LIF(surrogate=Cauchy(0.5)), torch.tensor([[0.5]], requires_grad=True)
    lif(current).sum().backward()
    assert current.grad.item() == pytest.approx(0.5)
    for again in (copy.deepcopy(lif), pickle.loads(pickle.dumps(lif))):
        assert again.surrogate == Cauchy(0.5)
    with rb.engine("numba"), pytest.raises(RuntimeError, match="knows only the surrogates of rheobase.surrogate"):
        lif(current)


@every
def test_a_net_with_it_is_saved_whole(shape: Surrogate) -> None:
    torch.manual_seed(0)
    net = rb.models.create("plain_mlp", classes=3, width=8, image_size=4, neuron=rb.LIF(surrogate=shape.scaled(2)))
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    again, found = torch.load(file, weights_only=False), []
    for model in (net, again):
        with rb.engine("reference"):
            model(torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))).square().sum().backward()
        found.append([p.grad for p in model.parameters()])
        assert model.features[2].neuron.surrogate == shape.scaled(2)
    assert all(torch.equal(a, b) and a.any() for a, b in zip(*found, strict=True))


# rheobase.spike


def gradient(z: Tensor, **options: Any) -> Tensor:
    z = z.clone().requires_grad_()
    rb.spike(z, **options).sum().backward()
    return z.grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_a_spike_is_a_step_with_the_surrogates_derivative(dtype: torch.dtype) -> None:
    z = torch.linspace(-1, 1, 9, dtype=dtype)
    assert rb.spike(z).tolist() == [0] * 4 + [1] * 5
    assert rb.spike(z).dtype is gradient(z).dtype is dtype
    torch.testing.assert_close(gradient(z), ATan(2.0).derivative(z))
    for shape in ALL:
        torch.testing.assert_close(gradient(z, surrogate=shape.scaled(2)), 2 * shape.derivative(z))


def test_a_spike_of_what_is_not_a_number() -> None:
    z = torch.tensor([math.nan, math.inf, -math.inf, -0.0])
    assert rb.spike(z)[0].isnan()
    assert rb.spike(z)[1:].tolist() == [1, 0, 1]
    assert gradient(z)[1:].tolist() == pytest.approx([0, 0, 1])


@pytest.mark.parametrize("way", ["plain", "compiled"])
@every
def test_compiled_a_spike_is_the_same(shape: Surrogate, way: str) -> None:
    def loss(z: Tensor) -> Tensor:
        return (rb.spike(z, shape) * torch.arange(9.0)).sum()

    torch._dynamo.reset()
    run = torch.compile(loss, backend="aot_eager", fullgraph=True) if way == "compiled" else loss
    z = torch.linspace(-1, 1, 9).requires_grad_()
    value = run(z)
    value.backward()
    assert value.item() == sum(range(4, 9))
    torch.testing.assert_close(z.grad, torch.arange(9.0) * shape.derivative(z.detach()))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # which torch calls for forward-mode differentiation
def test_other_derivatives() -> None:
    z, shape = torch.linspace(-1, 1, 9, dtype=torch.float64), ATan(2.0)
    want = shape.derivative(z)

    def spike(z: Tensor) -> Tensor:
        return rb.spike(z, shape)

    torch.testing.assert_close(torch.func.vmap(torch.func.grad(spike))(z), want)
    torch.testing.assert_close(torch.func.jvp(spike, (z,), (torch.ones_like(z),))[1], want)
    z.requires_grad_()
    (first,) = torch.autograd.grad(spike(z).sum(), z, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), z)
    (want,) = torch.autograd.grad(shape.derivative(z).sum(), z)
    torch.testing.assert_close(second, want)


def test_spike_refuses() -> None:
    with pytest.raises(TypeError, match=r"spike: x must be a floating point tensor, got torch\.int64"):
        rb.spike(torch.ones(2, dtype=torch.int64))
    with pytest.raises(TypeError, match="spike: x must be a floating point tensor, got float"):
        rb.spike(1.0)
    with pytest.raises(TypeError, match=r"spike: surrogate must be one of rheobase\.surrogate, got 'atan'"):
        rb.spike(torch.ones(2), "atan")


def constant(value: float) -> type[rb.surrogate.Surrogate]:
    @dataclass(frozen=True)
    class Constant(rb.surrogate.Surrogate):
        width: float = 1.0
        height: float = 1.0
        grows = 1
        unit_area = False

        @staticmethod
        def formula(x: Tensor, parameter: Tensor | float) -> Tensor:
            return torch.full_like(x, value)

    return Constant


def test_a_definition_that_runs_again_leaves_older_neurons_alone() -> None:
    torch.manual_seed(0)
    older = rb.LIF(surrogate=constant(1.0)())
    newer = rb.LIF(surrogate=constant(7.0)())
    x = torch.randn(3, 2, 4, requires_grad=True)

    def gradient(neuron: rb.LIF) -> Tensor:
        return torch.autograd.grad(neuron(x).sum(), x)[0]

    assert older.surrogate != newer.surrogate
    torch.testing.assert_close(7 * gradient(older), gradient(newer))
    torch.testing.assert_close(gradient(older)[-1], torch.ones(2, 4))


def test_a_surrogate_without_a_height_is_refused() -> None:
    @dataclass(frozen=True)
    class Low(rb.surrogate.Surrogate):
        alpha: float = 2.0
        grows = -1
        unit_area = False

    with pytest.raises(TypeError, match="two fields, a width parameter and `height`, got alpha"):
        Low()

"""Surrogate shapes: area, height, stretching, and the derivative that reaches a gradient."""

import dataclasses

import pytest
import torch

import rheobase as rb
from rheobase.surrogate import KINDS, ATan, Gaussian, Rectangle, Sigmoid, SuperSpike, Surrogate, Triangle

ALL = [SuperSpike(3.0), ATan(3.0), Sigmoid(3.0), Triangle(0.7), Rectangle(0.7), Gaussian(0.7)]
x = torch.linspace(-400, 400, 8_000_001, dtype=torch.float64)


@pytest.mark.parametrize("shape", ALL, ids=lambda s: type(s).__name__)
def test_unit_area_or_unit_peak(shape: Surrogate) -> None:
    if shape.unit_area:
        assert shape.derivative(x).sum().item() * 1e-4 == pytest.approx(1, abs=1e-3)
    else:
        assert shape.derivative(torch.zeros(1)).item() == 1


@pytest.mark.parametrize("shape", ALL, ids=lambda s: type(s).__name__)
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


def test_frozen_and_checked() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ATan(2.0).alpha = 3.0  # type: ignore[misc]
    for shape in (type(s) for s in ALL):
        with pytest.raises(ValueError, match=f"{shape.__name__}: .* must be positive, got -1"):
            shape(-1.0)


def test_a_shape_of_your_own_works_on_the_reference_engine() -> None:
    @dataclasses.dataclass(frozen=True)
    class Cauchy(Surrogate):
        scale: float = 1.0
        height: float = 1.0
        grows = 1
        unit_area = False

        @staticmethod
        def formula(x: torch.Tensor, parameter: torch.Tensor | float) -> torch.Tensor:
            return 1 / (1 + (x / parameter).square())

    try:
        current = torch.tensor([[0.5]], requires_grad=True)
        rb.LIF(surrogate=Cauchy(0.5))(current).sum().backward()
        assert current.grad.item() == pytest.approx(0.5)
    finally:
        del KINDS[Cauchy.kind]

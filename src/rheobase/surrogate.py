"""Surrogate derivatives: what stands in for the derivative of a spike in the backward pass.

A spike is s = 1 if x >= 0 else 0, with x = u - threshold. Its derivative is replaced by h(x). A surrogate is a
name, a formula and a width; `height` multiplies it. All but `SuperSpike` and `Triangle` (peak 1) have unit area,
as in the literature, so their peak grows as they narrow.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from rheobase.compat import transformed

SHAPES: dict[str, type[Surrogate]] = {}
"""Shapes by name: those of this module by their class's, others by `module.class`."""


@dataclass(frozen=True)
class Surrogate:
    """Base class: a subclass has two fields, its width parameter and `height`, and a `formula`.

    Both are positive numbers, or tensors of them: one a channel, or one a neuron.

    Attributes of the class (not of the instance):
        grows: +1 if a larger parameter means a wider shape, -1 if it means a narrower one.
        unit_area: whether the formula integrates to 1 for every parameter.
        name: what it is known by, here and in files.
    """

    name: ClassVar[str]
    grows: ClassVar[int]
    unit_area: ClassVar[bool]

    def __init_subclass__(cls) -> None:
        name = cls.__qualname__ if cls.__module__ == __name__ else f"{cls.__module__}.{cls.__qualname__}"
        if name in SHAPES:  # its definition ran again, perhaps otherwise: neurons that have the older one keep it
            older = SHAPES[name]
            older.name = f"{name} (older, {len(SHAPES)})"
            SHAPES[older.name] = older
        cls.name = name
        SHAPES[name] = cls
        cls.__eq__ = Surrogate._equals  # type: ignore[method-assign, assignment]  # (a dataclass would compare tensors as numbers)

    def _equals(self, other: object) -> bool:
        if type(other) is not type(self):
            return False
        pairs = [(getattr(self, field.name), getattr(other, field.name)) for field in dataclasses.fields(self)]
        return all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in pairs)

    def __post_init__(self) -> None:
        names = [field.name for field in dataclasses.fields(self)]
        if len(names) != 2 or names[1] != "height":
            raise TypeError(
                f"{type(self).__name__} must be a dataclass of two fields, a width parameter and `height`, got "
                f"{', '.join(names) or 'none'}"
            )
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                good = value.is_floating_point() and bool((value > 0).all() & value.isfinite().all())
            else:
                good = isinstance(value, int | float) and 0 < value < math.inf
            if not good:
                raise ValueError(f"{type(self).__name__}: {field.name} must be positive, got {value!r}")

    @staticmethod
    def formula(x: Tensor, parameter: Tensor | float) -> Tensor:
        """h(x) at height 1."""
        raise NotImplementedError

    @property
    def parameter(self) -> Any:
        """The value of the width parameter."""
        return getattr(self, dataclasses.fields(self)[0].name)

    @property
    def height(self) -> Any:
        """Factor on the formula."""
        return getattr(self, dataclasses.fields(self)[-1].name)

    def derivative(self, x: Tensor) -> Tensor:
        """h(x), with x = u - threshold of any shape."""
        h: Tensor = self.height * self.formula(x, self.parameter)
        return h

    def scaled(self, gain: float) -> Self:
        """The same shape, `gain` times as high: gain * h(x)."""
        return self._with(self.parameter, self.height * gain)

    def stretched(self, factor: float) -> Self:
        """The same height, `factor` times as wide: h(x / factor)."""
        height = self.height * (factor if self.unit_area else 1.0)
        return self._with(self.parameter * factor**self.grows, height)

    def _with(self, parameter: float, height: float) -> Self:
        width, top = dataclasses.fields(self)
        return dataclasses.replace(self, **{width.name: parameter, top.name: height})


@dataclass(frozen=True)
class SuperSpike(Surrogate):
    """h(x) = 1 / (1 + alpha |x|)^2, peak 1 (Zenke and Ganguli 2018)."""

    alpha: float = 1.5
    height: float = 1.0
    grows = -1
    unit_area = False

    @staticmethod
    def formula(x: Tensor, parameter: Tensor | float) -> Tensor:
        """1 / (1 + alpha |x|)^2."""
        return (1 + parameter * x.abs()).square().reciprocal()


@dataclass(frozen=True)
class ATan(Surrogate):
    """h(x) = alpha/2 / (1 + (pi/2 alpha x)^2), peak alpha/2 (Fang et al. 2021)."""

    alpha: float = 2.0
    height: float = 1.0
    grows = -1
    unit_area = True

    @staticmethod
    def formula(x: Tensor, parameter: Tensor | float) -> Tensor:
        """alpha/2 / (1 + (pi/2 alpha x)^2)."""
        return 0.5 * parameter / (1 + (0.5 * math.pi * parameter * x).square())


@dataclass(frozen=True)
class Sigmoid(Surrogate):
    """h(x) = slope sigma(slope x) (1 - sigma(slope x)), peak slope/4."""

    slope: float = 4.0
    height: float = 1.0
    grows = -1
    unit_area = True

    @staticmethod
    def formula(x: Tensor, parameter: Tensor | float) -> Tensor:
        """Slope sigma(slope x) (1 - sigma(slope x))."""
        s = torch.sigmoid(parameter * x)
        return parameter * s * (1 - s)


@dataclass(frozen=True)
class Triangle(Surrogate):
    """h(x) = max(0, 1 - |x| / width), peak 1, zero from |x| = width on (Esser et al. 2016)."""

    width: float = 1.0
    height: float = 1.0
    grows = 1
    unit_area = False

    @staticmethod
    def formula(x: Tensor, parameter: Tensor | float) -> Tensor:
        """max(0, 1 - |x| / width)."""
        return (1 - x.abs() / parameter).clamp(min=0)


@dataclass(frozen=True)
class Rectangle(Surrogate):
    """h(x) = 1/width where |x| < width/2, else 0 (Wu et al. 2018)."""

    width: float = 1.0
    height: float = 1.0
    grows = 1
    unit_area = True

    @staticmethod
    def formula(x: Tensor, parameter: Tensor | float) -> Tensor:
        """1/width where |x| < width/2."""
        return (2 * x.abs() < parameter).to(x.dtype) / parameter


@dataclass(frozen=True)
class Gaussian(Surrogate):
    """h(x) = exp(-x^2 / (2 sigma^2)) / (sigma sqrt(2 pi)), peak 0.4/sigma."""

    sigma: float = 0.4
    height: float = 1.0
    grows = 1
    unit_area = True

    @staticmethod
    def formula(x: Tensor, parameter: Tensor | float) -> Tensor:
        """exp(-x^2 / (2 sigma^2)) / (sigma sqrt(2 pi))."""
        return torch.exp(-0.5 * (x / parameter).square()) / (parameter * math.sqrt(2 * math.pi))


class _Spike(torch.autograd.Function):
    """The step function, with the surrogate derivative for its own; differentiable as often as the formula is."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, shape: str, parameter: Tensor | float, height: Tensor | float) -> Tensor:
        return torch.where(x != x, x, (x >= 0).to(x.dtype))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.shape, *ctx.numbers = inputs
        tensors = [n if isinstance(n, Tensor) else None for n in ctx.numbers]  # whose changes autograd sees
        ctx.numbers = [None if isinstance(n, Tensor) else n for n in ctx.numbers]
        ctx.save_for_backward(x, *tensors)
        ctx.save_for_forward(x, *tensors)

    @staticmethod
    def _times(ctx: Any, tangent: Tensor) -> Tensor:
        x, *tensors = ctx.saved_tensors
        parameter, height = (n if t is None else t for n, t in zip(ctx.numbers, tensors, strict=True))
        h: Tensor = height * SHAPES[ctx.shape].formula(x, parameter)
        return tangent * h

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        return _Spike._times(ctx, grads[0]), None, None, None

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> Tensor:
        return _Spike._times(ctx, tangents[0])


def fire(x: Tensor, shape: str, parameter: Tensor | float, height: Tensor | float) -> Tensor:
    """`spike`, with the name of a shape and its two numbers."""
    if torch.compiler.is_compiling():  # which does not take a function that knows its forward-mode derivative
        h = (height * SHAPES[shape].formula(x, parameter)).detach()
        zero = torch.where(x.abs() == math.inf, 0, x - x.detach())  # (isinf is slow when compiled)
        return (x >= 0).to(x.dtype) + zero * h
    if not torch.is_grad_enabled() and transformed() is None:  # (an autograd function costs as much as it all)
        return _Spike.forward(x, shape, parameter, height)
    s: Tensor = _Spike.apply(x, shape, parameter, height)
    return s


def spike(x: Tensor, surrogate: Surrogate | None = None) -> Tensor:
    """Spikes: 1 where x >= 0, else 0, in the dtype of x; where x is not a number, neither is the spike.

    In the backward pass ds/dx = surrogate.derivative(x). It is what a neuron of your own is written with.

    Args:
        x: potential less threshold, any shape.
        surrogate: default `ATan(2.0)`.

    Raises:
        TypeError: x is not a floating point tensor, or surrogate not a `Surrogate`.
    """
    surrogate = ATan(2.0) if surrogate is None else surrogate
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(f"spike: x must be a floating point tensor, got {getattr(x, 'dtype', type(x).__name__)}")
    if not isinstance(surrogate, Surrogate):
        raise TypeError(f"spike: surrogate must be one of rheobase.surrogate, got {surrogate!r}")
    return fire(x, surrogate.name, surrogate.parameter, surrogate.height)

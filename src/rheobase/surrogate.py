"""Surrogate derivatives: what stands in for the derivative of a spike in the backward pass.

A spike is s = 1 if x >= 0 else 0, with x = u - threshold. Its derivative is replaced by h(x). A surrogate is a
name, a formula and a width; `height` multiplies it. All but `SuperSpike` and `Triangle` (peak 1) have unit area,
as in the literature, so their peak grows as they narrow.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import ClassVar, Self

import torch
from torch import Tensor

KINDS: dict[int, type[Surrogate]] = {}
"""The number by which kernels know a shape."""


@dataclass(frozen=True)
class Surrogate:
    """Base class: a subclass has two float fields, its width parameter and `height`, and a `formula`.

    Attributes of the class (not of the instance):
        grows: +1 if a larger parameter means a wider shape, -1 if it means a narrower one.
        unit_area: whether the formula integrates to 1 for every parameter.
        kind: number of the shape, given at definition.
    """

    kind: ClassVar[int]
    grows: ClassVar[int]
    unit_area: ClassVar[bool]

    def __init_subclass__(cls) -> None:
        cls.kind = len(KINDS)
        KINDS[cls.kind] = cls

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not (isinstance(value, int | float) and 0 < value < math.inf):
                raise ValueError(f"{type(self).__name__}: {field.name} must be positive, got {value!r}")

    @staticmethod
    def formula(x: Tensor, parameter: Tensor | float) -> Tensor:
        """h(x) at height 1."""
        raise NotImplementedError

    @property
    def parameter(self) -> float:
        """The value of the width parameter."""
        return float(getattr(self, dataclasses.fields(self)[0].name))

    @property
    def height(self) -> float:
        """Factor on the formula."""
        return float(getattr(self, dataclasses.fields(self)[-1].name))

    def derivative(self, x: Tensor) -> Tensor:
        """h(x), with x = u - threshold of any shape."""
        return self.height * self.formula(x, self.parameter)

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


BUILT_IN = len(KINDS)
"""Shapes with smaller numbers than this are the ones above, which engines know; others are users' own."""

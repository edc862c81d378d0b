"""docs/from-spikingjelly.md: its tables against SpikingJelly's equations and defaults, written here anew."""

import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import rheobase as rb
from tests.guides.tables import Heaviside, check, names, rows

PAGE = "from-spikingjelly.md"
Derivative = Callable[[Tensor], Tensor]


def sigmoid(alpha: float = 4.0) -> Derivative:
    return lambda x: alpha * torch.sigmoid(alpha * x) * (1 - torch.sigmoid(alpha * x))


def atan(alpha: float = 2.0) -> Derivative:
    return lambda x: alpha / (2 * (1 + (math.pi / 2 * alpha * x) ** 2))


def rect(alpha: float = 1.0) -> Derivative:
    return lambda x: torch.where(x.abs() < 0.5 / alpha, alpha, 0.0).to(x.dtype)


def piecewise_quadratic(alpha: float = 1.0) -> Derivative:
    return lambda x: torch.where(x.abs() <= 1 / alpha, alpha - alpha**2 * x.abs(), 0.0)


def soft_sign(alpha: float = 2.0) -> Derivative:
    return lambda x: 1 / (2 * alpha * (1 / alpha + x.abs()) ** 2)


def erf(alpha: float = 2.0) -> Derivative:
    return lambda x: alpha / math.sqrt(math.pi) * torch.exp(-(alpha**2) * x**2)


SURROGATES = SimpleNamespace(
    Sigmoid=sigmoid, ATan=atan, Rect=rect, PiecewiseQuadratic=piecewise_quadratic, SoftSign=soft_sign, Erf=erf
)


class BaseNode:
    """Charge, fire, reset."""

    def __init__(
        self,
        v_threshold: float = 1.0,
        v_reset: float | None = 0.0,
        surrogate_function: Derivative | None = None,
        detach_reset: bool = False,
    ) -> None:
        self.v_threshold = v_threshold
        self.v_reset = v_reset
        self.surrogate_function = surrogate_function or sigmoid()
        self.detach_reset = detach_reset
        self.learned: dict[str, tuple[Tensor, Tensor]] = {}

    def __call__(self, currents: Tensor) -> Tensor:
        self.v = torch.full_like(currents[0], self.v_reset or 0.0)
        spikes = []
        for x in currents:
            self.charge(x)
            spike = Heaviside.apply(self.v - self.v_threshold, self.surrogate_function, True)
            reset = spike.detach() if self.detach_reset else spike
            if self.v_reset is None:
                self.v = self.v - self.v_threshold * reset
            else:
                self.v = (1 - reset) * self.v + reset * self.v_reset
            spikes.append(spike)
        return torch.stack(spikes)

    def charge(self, x: Tensor) -> None:
        raise NotImplementedError


class IFNode(BaseNode):
    def charge(self, x: Tensor) -> None:
        self.v = self.v + x


class LIFNode(BaseNode):
    def __init__(self, tau: float = 2.0, decay_input: bool = True, **options) -> None:
        super().__init__(**options)
        self.tau = tau
        self.decay_input = decay_input

    def reciprocal(self) -> Tensor | float:
        return 1 / self.tau

    def charge(self, x: Tensor) -> None:
        leak = (self.v - (self.v_reset or 0.0)) * self.reciprocal()
        self.v = self.v - leak + (x * self.reciprocal() if self.decay_input else x)


class ParametricLIFNode(LIFNode):
    def __init__(self, init_tau: float = 2.0, decay_input: bool = True, **options) -> None:
        super().__init__(init_tau, decay_input, **options)
        w = torch.tensor(-math.log(init_tau - 1), dtype=torch.float64, requires_grad=True)
        self.w = w
        self.learned = {"decay": (w, 1 - w.sigmoid())}

    def reciprocal(self) -> Tensor:
        return self.w.sigmoid()


class CUBALIFNode(BaseNode):
    def __init__(self, c_decay: float = 0.5, v_decay: float = 0.75, v_threshold: float = 0.5) -> None:
        super().__init__(v_threshold, 0.0, rect())
        self.c_decay = c_decay
        self.v_decay = v_decay

    def __call__(self, currents: Tensor) -> Tensor:
        self.c = torch.zeros_like(currents[0])
        return super().__call__(currents)

    def charge(self, x: Tensor) -> None:
        self.c = self.c_decay * self.c + x
        self.v = self.v_decay * self.v + self.c


class NonSpikingLIFNode:
    learned: dict[str, tuple[Tensor, Tensor]] = {}  # noqa: RUF012

    def __init__(self, tau: float = 2.0) -> None:
        self.tau = tau

    def __call__(self, currents: Tensor) -> Tensor:
        v, found = torch.zeros_like(currents[0]), []
        for x in currents:
            v = v + (x - v) / self.tau
            found.append(v)
        return torch.stack(found)


THEIRS = {kind.__name__: kind for kind in
          (IFNode, LIFNode, ParametricLIFNode, CUBALIFNode, NonSpikingLIFNode)}  # fmt: skip


@pytest.fixture(scope="module")
def known() -> dict[str, object]:
    return names(PAGE)


@pytest.mark.parametrize(("theirs", "ours"), rows(PAGE, "neurons"))
def test_neurons(theirs: str, ours: str, known: dict[str, object]) -> None:
    currents = 2 * torch.randn(12, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) + 0.8
    check(eval(theirs, {**THEIRS, "surrogate": SURROGATES}), ours, known, currents)


@pytest.mark.parametrize(("theirs", "ours"), rows(PAGE, "surrogates"))
def test_surrogates(theirs: str, ours: str, known: dict[str, object]) -> None:
    x = torch.linspace(-1.51, 1.5, 101, dtype=torch.float64)
    shape = eval(ours, dict(known))
    torch.testing.assert_close(eval(theirs, {"surrogate": SURROGATES})(x), shape.derivative(x), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("gain", [1.0, 0.7])
def test_norms(gain: float) -> None:
    """BatchNorm2d with step_mode="m" is torch's, time and batch in one axis; tdBN the same, with an initial weight."""
    x = torch.randn(4, 3, 2, 5, 5, dtype=torch.float64)
    theirs, ours = nn.BatchNorm2d(2).double(), rb.CurrentNorm(2, gain=gain).double()
    nn.init.constant_(theirs.weight, gain)
    torch.testing.assert_close(theirs(x.flatten(0, 1)).unflatten(0, (4, 3)), ours(x))
    torch.testing.assert_close(theirs.running_var, ours.running_var)

"""docs/from-snntorch.md: its tables against snnTorch's equations and defaults, written here anew."""

import math
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from tests.guides.tables import Heaviside, check, names, rows

PAGE = "from-snntorch.md"
Derivative = Callable[[Tensor], Tensor]


def atan(alpha: float = 2.0) -> Derivative:
    return lambda x: alpha / 2 / (1 + (math.pi / 2 * alpha * x) ** 2)


def fast_sigmoid(slope: float = 25) -> Derivative:
    return lambda x: 1 / (slope * x.abs() + 1) ** 2


def sigmoid(slope: float = 25) -> Derivative:
    return lambda x: slope * torch.exp(-slope * x) / (torch.exp(-slope * x) + 1) ** 2


SURROGATES = SimpleNamespace(atan=atan, fast_sigmoid=fast_sigmoid, sigmoid=sigmoid)


class Leaky:
    """Reset by the potential of the step before, charge, fire; without delay, reset once more by this step's spike."""

    def __init__(
        self,
        beta: float,
        threshold: float = 1.0,
        spike_grad: Derivative | None = None,
        learn_beta: bool = False,
        learn_threshold: bool = False,
        reset_mechanism: str = "subtract",
        reset_delay: bool = True,
    ) -> None:
        self.beta = torch.tensor(beta, dtype=torch.float64, requires_grad=learn_beta)
        self.threshold = torch.tensor(threshold, dtype=torch.float64, requires_grad=learn_threshold)
        self.spike_grad = spike_grad or atan()
        self.mechanism = reset_mechanism
        self.delay = reset_delay
        numbers = {"decay": self.beta, "threshold": self.threshold}
        self.learned = {name: (one, one.clone()) for name, one in numbers.items() if one.requires_grad}

    def spike(self, mem: Tensor) -> Tensor:
        return Heaviside.apply(mem - self.threshold, self.spike_grad, False)

    def begin(self, x: Tensor) -> None:
        pass

    def charge(self, mem: Tensor, x: Tensor) -> Tensor:
        return self.beta.clamp(0, 1) * mem + x

    def __call__(self, currents: Tensor) -> Tensor:
        mem, spikes = torch.zeros_like(currents[0]), []
        self.begin(currents[0])
        for x in currents:
            reset = self.spike(mem).detach()
            if self.mechanism == "zero":
                mem = (1 - reset) * mem
            mem = self.charge(mem, x)
            if self.mechanism == "subtract":
                mem = mem - reset * self.threshold
            self.spk = self.spike(mem)
            if not self.delay:
                mem = mem - (self.spk - reset) * (self.threshold if self.mechanism == "subtract" else mem)
            spikes.append(self.spk)
        return torch.stack(spikes)


class Synaptic(Leaky):
    def __init__(self, alpha: float, beta: float) -> None:
        super().__init__(beta)
        self.alpha = alpha

    def begin(self, x: Tensor) -> None:
        self.syn = torch.zeros_like(x)

    def charge(self, mem: Tensor, x: Tensor) -> Tensor:
        self.syn = self.alpha * self.syn + x
        return super().charge(mem, self.syn)


class RLeaky(Leaky):
    def __init__(self, beta: float, linear_features: int) -> None:
        super().__init__(beta)
        self.recurrent = nn.Linear(linear_features, linear_features, dtype=torch.float64)

    def begin(self, x: Tensor) -> None:
        self.spk = torch.zeros_like(x)

    def charge(self, mem: Tensor, x: Tensor) -> Tensor:
        return super().charge(mem, x + self.recurrent(self.spk))


@pytest.fixture(scope="module")
def known() -> dict[str, object]:
    return names(PAGE)


@pytest.mark.parametrize(("theirs", "ours"), rows(PAGE, "neurons"))
def test_neurons(theirs: str, ours: str, known: dict[str, object]) -> None:
    torch.manual_seed(0)  # of RLeaky's weights
    currents = 1.3 * torch.rand(12, 5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 0.3
    kinds = {"Leaky": Leaky, "Synaptic": Synaptic, "RLeaky": RLeaky, "surrogate": SURROGATES}
    check(eval(theirs, kinds), ours, known, currents)


@pytest.mark.parametrize(("theirs", "ours"), rows(PAGE, "surrogates"))
def test_surrogates(theirs: str, ours: str, known: dict[str, object]) -> None:
    x = torch.linspace(-1.51, 1.5, 101, dtype=torch.float64)
    shape = eval(ours, dict(known))
    torch.testing.assert_close(eval(theirs, {"surrogate": SURROGATES})(x), shape.derivative(x), rtol=1e-9, atol=1e-12)


def test_at_the_threshold_they_are_silent_and_ours_fires(known: dict[str, object]) -> None:
    one = torch.ones(1, 1, 1, dtype=torch.float64)
    assert Leaky(0.9)(one) == 0
    assert eval("rb.LIF(decay=0.9)", dict(known))(one) == 1

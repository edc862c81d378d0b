"""Where every step is the same memory, nobody can see it: f(x.expand(...)) is f(x.repeat(...))."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import rheobase as rb
from rheobase.kernels.time import static

from .cases import (
    DEFAULT,
    NEURONS,
    Case,
    Found,
    assert_fires,
    assert_same,
    channels_last,
    gradients,
    grid,
    leaf,
    weighted,
)

STEPS = 4


class Beside(nn.Module):
    """A Fire with a residual and a skip that are the same at every step too, of which leaves are made."""

    def __init__(self, fire: rb.Fire, *names: str) -> None:
        super().__init__()
        self.fire = fire
        self.names = names

    def forward(self, x: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        found = self.fire(x, **dict(zip(self.names, others, strict=False)))
        return found if isinstance(found, tuple) else (found,)


def _norm() -> rb.CurrentNorm:
    norm = rb.CurrentNorm(4, gain=1.5)
    with torch.no_grad():
        norm.bias.fill_(0.25)
    return norm


def fire(*names: str, case: Case = DEFAULT, drive: bool = False) -> Beside:
    return Beside(rb.Fire(_norm(), case.neuron((STEPS, 3, 4, 6, 5)), drive), *names)


def steady(layer: nn.Module | None = None) -> nn.Module:
    """A layer that rounds nothing, whatever the order of its sums: its weights are multiples of 1/8."""
    layer = nn.Conv2d(4, 4, 3, padding=1) if layer is None else layer
    with torch.no_grad():
        for p in layer.parameters():
            p.copy_((p * 8).round() / 8 + 0.125)
    return layer


def twice() -> nn.Module:
    """A layer at two places; and a weight of two layers."""
    conv, other = steady(), nn.Conv2d(4, 4, 3, padding=1)
    other.weight = conv.weight
    return nn.Sequential(conv, nn.ReLU(), conv, other)


MODULES: dict[str, Callable[[], nn.Module]] = {
    "convolution": lambda: rb.PerStep(steady()),
    "convolution, relu, pooling": lambda: rb.PerStep(nn.Sequential(steady(), nn.ReLU(), nn.MaxPool2d(2))),
    "shared layers": lambda: rb.PerStep(twice()),
    "linear": lambda: rb.PerStep(nn.Sequential(nn.Flatten(), steady(nn.Linear(120, 7)))),
    "dropout": lambda: rb.PerStep(nn.Dropout(0.5)),
    "dropout inside": lambda: rb.PerStep(nn.Sequential(steady(), nn.Dropout2d(0.5))),
    "batch norm": lambda: rb.PerStep(nn.BatchNorm2d(4)),
    "norm": _norm,
    "norm in evaluation": lambda: _norm().eval(),
    "LIF": lambda: DEFAULT.neuron((STEPS, 3, 4, 6, 5)),
    "AdaptiveLIF, learned": lambda: NEURONS.neuron((STEPS, 3, 4, 6, 5)),
    "fire": fire,
    "fire in evaluation": lambda: fire("residual", "skip").eval(),
    "fire with drive": lambda: fire("residual", drive=True),
    "fire with residual and skip": lambda: fire("residual", "skip", case=NEURONS),
    "convolution and fire": lambda: nn.Sequential(rb.PerStep(steady()), fire().fire, rb.PerStep(steady()), fire().fire),
}
ENGINES = [
    {"name": "numba"},
    {"name": "numba", "fused": False},
    {"name": "reference"},
    {"name": "numba", "packed": True},
]


def outcome(module: nn.Module, given: list[Tensor], **options: object) -> Found:
    """Values, gradients of leaves and parameters, and buffers."""
    module = copy.deepcopy(module)
    leaves = [leaf(x) for x in given]
    torch.manual_seed(1)
    with rb.engine(**options):
        outputs = module(*leaves)
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    sum(map(weighted, outputs)).backward()
    found = {f"output.{i}": y.detach() for i, y in enumerate(outputs)}
    found |= {f"input.{i}.grad": x.grad for i, x in enumerate(leaves) if x.grad is not None}
    return found | gradients(module) | {name: buffer.clone().float() for name, buffer in module.named_buffers()}


@pytest.mark.parametrize("options", ENGINES, ids=lambda o: "-".join(map(str, o.values())))
@pytest.mark.parametrize("name", MODULES)
def test_a_static_input_is_like_any_other(name: str, options: dict[str, object]) -> None:
    module = MODULES[name]()
    count = 1 + len(getattr(module, "names", ()))
    for image in (grid(3, 4, 6, 5), channels_last(grid(1, 3, 4, 6, 5))[0]):
        images = [image.roll(i, 0) + 0.25 * i for i in range(count)]
        expanded = [x.expand(STEPS, *x.shape) for x in images]
        repeated = [x.repeat(STEPS, *[1] * x.dim()) for x in images]
        assert all(static(x) for x in expanded)
        assert not any(static(x) for x in repeated)
        got, want = outcome(module, expanded, **options), outcome(module, repeated, **options)
        assert got["input.0.grad"].shape == expanded[0].shape
        assert not torch.equal(got["input.0.grad"][0], got["input.0.grad"][-1])  # not a mean
        assert_same(got, want, 2e-5, exact=("output.0",) if "norm" not in name else ())
        if any(isinstance(m, rb.LIF) for m in module.modules()):
            assert_fires(want["output.0"] - (repeated[2] if "skip" in getattr(module, "names", ()) else 0))


@pytest.mark.parametrize("options", ENGINES, ids=lambda o: "-".join(map(str, o.values())))
def test_an_input_may_be_static_and_what_joins_it_not(options: dict[str, object]) -> None:
    module, image = fire("residual", "skip"), grid(3, 4, 6, 5)
    others = [grid(STEPS, 3, 4, 6, 5, seed=3), grid(STEPS, 3, 4, 6, 5, seed=4)]
    moving, still = grid(STEPS, 3, 4, 6, 5, seed=5), [x[0].expand(STEPS, -1, -1, -1, -1) for x in others]
    for x, beside in ((image.expand(STEPS, -1, -1, -1, -1), others), (moving, still), (moving, [still[0], others[1]])):
        got = outcome(module, [x, *beside], **options)
        assert_same(got, outcome(module, [v.contiguous() for v in (x, *beside)], **options), 2e-5, exact=("output.0",))


@pytest.mark.parametrize("name", ["convolution", "dropout", "fire", "convolution and fire"])
def test_an_image_gets_the_sum_over_steps(name: str) -> None:
    """Of the expanded input itself, as a model does it."""
    module, image = MODULES[name](), grid(3, 4, 6, 5)
    grads = []
    for show in (lambda x: x.expand(STEPS, *x.shape), lambda x: x.repeat(STEPS, 1, 1, 1, 1)):
        x = leaf(image)
        torch.manual_seed(1)
        outputs = module(show(x))
        weighted(outputs[0] if isinstance(outputs, tuple) else outputs).backward()
        grads.append(x.grad)
    torch.testing.assert_close(*grads, rtol=2e-5, atol=2e-4)


def test_second_derivatives_are_refused_where_they_would_be_others() -> None:
    module = MODULES["convolution, relu, pooling"]()
    x = leaf(grid(3, 4, 6, 5).expand(STEPS, -1, -1, -1, -1))
    with pytest.raises(RuntimeError, match="no second derivatives"):
        torch.autograd.grad(module(x).pow(3).sum(), x, create_graph=True)


def test_second_derivatives() -> None:
    """As of a penalty on gradients."""
    module, found = MODULES["shared layers"]().double(), []
    for show in (lambda x: x.expand(STEPS, *x.shape), lambda x: x.repeat(STEPS, 1, 1, 1, 1)):
        module.zero_grad()
        x = leaf(show(grid(3, 4, 6, 5).double()))
        (slope,) = torch.autograd.grad(module(x).pow(3).sum(), x, create_graph=True)
        slope.pow(2).sum().backward()
        found.append({"slope": slope.detach(), "input.grad": x.grad} | gradients(module))
    assert_same(*found, 1e-10)


def test_a_forward_pass_leaves_the_module_as_it_is() -> None:
    for name, make in MODULES.items():
        module = make()
        before = list(module.parameters())
        module(leaf(grid(3, 4, 6, 5).expand(STEPS, -1, -1, -1, -1)))
        for old, new in zip(before, module.parameters(), strict=True):
            assert old is new, name


def test_hooks_see_every_step() -> None:
    shapes, module = [], rb.PerStep(steady())
    module.module.register_forward_hook(lambda m, given, output: shapes.append(tuple(output.shape)))
    y = module(grid(3, 4, 6, 5).expand(STEPS, -1, -1, -1, -1))
    assert shapes == [(STEPS * 3, 4, 6, 5)]
    x = leaf(grid(3, 4, 6, 5)).expand(STEPS, -1, -1, -1, -1)
    seen = []
    x.register_hook(lambda g: seen.append(g.clone()))
    y = MODULES["convolution"]()(x)
    weighted(y).backward()
    assert not torch.equal(seen[0][0], seen[0][1])


def test_one_step_is_computed_where_nobody_can_see_it() -> None:
    calls = []

    class Count(nn.Conv2d):
        def forward(self, x: Tensor) -> Tensor:
            calls.append(len(x))
            return super().forward(x)

    x, conv = grid(3, 4, 6, 5).expand(STEPS, -1, -1, -1, -1), steady()
    assert rb.PerStep(conv)(x).stride(0) == 0
    own = Count(4, 4, 3)  # may do anything
    rb.PerStep(own)(x)
    assert calls == [STEPS * 3]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_dtypes(dtype: torch.dtype) -> None:
    module = nn.Sequential(rb.PerStep(steady()), rb.LIF(surrogate=DEFAULT.surrogate)).to(dtype)
    image = grid(3, 4, 6, 5).to(dtype)
    got = outcome(module, [image.expand(STEPS, -1, -1, -1, -1)])
    want = outcome(module, [image.repeat(STEPS, 1, 1, 1, 1)])
    assert_fires(want["output.0"])
    assert_same(got, want, 2e-5 if dtype is torch.float64 else 2e-2, exact=("output.0",))


def test_inputs_that_are_no_numbers() -> None:
    module, image = rb.PerStep(steady()), grid(3, 4, 6, 5)
    image[0, 0, 2, 2], image[1, 1, 1, 1], image[2, 0, 0, 0] = float("nan"), float("inf"), -float("inf")
    got = outcome(module, [image.expand(STEPS, -1, -1, -1, -1)])
    want = outcome(module, [image.repeat(STEPS, 1, 1, 1, 1)])
    for name in want:
        a, b = got[name], want[name]
        if "weight" in name:  # inf - inf, or inf times the sum of the steps: not finite in either case
            assert torch.equal(a.isfinite(), b.isfinite()), name
            a, b = (value.where(value.isfinite(), 0) for value in (a, b))
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5, equal_nan=True, msg=lambda m, n=name: f"{n}: {m}")

"""The operators keep PyTorch's contracts: opcheck, torch.compile, torch.export, torch.func; the choice of engine."""

import copy
import logging
import subprocess
import sys
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.testing._internal.two_tensor import TwoTensor

import rheobase as rb
from rheobase import kernels
from rheobase.kernels import ops, registry
from rheobase.kernels.rules import named
from rheobase.surrogate import Surrogate

from .cases import CASES, CHANNELS, DEFAULT, NEURONS, Case, assert_fires, channels_last, grid, leaf, states, weighted

SHAPE = (4, 2, 3, 5, 5)
THREE = [DEFAULT, CHANNELS, NEURONS]
STATES = {"LIF": 1, "CubaLIF": 2, "AdaptiveLIF": 2}


def _fire(channels: int = 3, case: Case = DEFAULT, shape: tuple[int, ...] = SHAPE) -> rb.Fire:
    return rb.Fire(rb.CurrentNorm(channels), case.neuron(shape))


def numbers(case: Case, leak: bool = True) -> dict[str, Tensor]:
    """A neuron's numbers by the names that operators have for them; those that are learned as leaves."""
    neuron = case.neuron(SHAPE)
    learned = case.learned()
    given = {name: getattr(neuron, name).detach().requires_grad_(name in learned) for name in neuron.dynamics}
    own = {
        "current_decay": "leak",
        "adaptation_decay": "leak",
        "surrogate_width": "width",
        "surrogate_height": "height",
    }
    return {own.get(name, name): value for name, value in given.items()}


def arguments(case: Case, samples: int = 0, normed: bool = True, state: bool = True) -> tuple[ops.Inputs, tuple]:
    """Inputs of `fire`, all of which want a gradient that can have one, and how a neuron and a norm work."""
    x, residual, skip = (leaf(grid(*SHAPE, seed=seed)) for seed in range(3))
    first, other = (leaf(grid(*SHAPE[1:], seed=seed, low=0)) for seed in (4, 5))
    inputs = dict.fromkeys(ops.Inputs._fields) | {"currents": x} | numbers(case)
    if state:
        inputs |= {"state": first, "other": other if STATES[case.kind] == 2 else None}
    if normed:
        mean, m2 = ops.moments(x.detach(), "numba") if samples else (torch.zeros(3).double(), torch.ones(3).double())
        inputs |= {"residual": residual, "skip": skip, "mean": mean, "m2": m2}
        inputs |= {"weight": leaf(torch.rand(3) + 0.5), "bias": leaf(torch.rand(3))}
    return ops.Inputs(**inputs), (case.kind, case.reset, case.detach, case.surrogate.name, 1e-5, samples)


@pytest.mark.parametrize("case", THREE, ids=str)
@pytest.mark.parametrize("samples", [0, 200])
def test_opcheck(case: Case, samples: int) -> None:
    bare, how = arguments(case, normed=False, state=False)
    torch.library.opcheck(ops.fire, (*bare, *how, False, False, "numba"))
    whole, how = arguments(case, samples)
    torch.library.opcheck(ops.fire, (*whole, *how, True, True, "numba"))
    torch.library.opcheck(
        ops.fire, (*whole._replace(residual=None, state=None, other=None), *how, False, True, "numba")
    )
    learned = tuple(name in (("leak" if n.endswith("_decay") else n) for n in case.learned()) for name in ops.LEARNABLE)
    for given, kept in ((bare, False), (whole, True)):
        given = ops.Inputs(*(None if value is None else value.detach() for value in given))
        spikes, drive, *final = ops.fire(*given, *how, kept, kept, "numba")
        beside = (drive, *(s if s.numel() else None for s in final), drive) if kept else (None,) * 4
        backward = (*given, *how, spikes, *beside, learned, "numba")
        torch.library.opcheck(ops.fire_backward, backward)
        found = ops.Gradients(*ops.fire_backward(*backward))
        assert [part.numel() > 0 for part in found[-5:]] == list(learned)
        if kept:
            norm = (given.weight, given.mean, given.m2, found.sums)
            torch.library.opcheck(ops.norm_backward, (found.drive, given.currents, *norm, 1e-5, samples, "numba"))
    torch.library.opcheck(ops.moments, (whole.currents.detach(), "numba"))


def refused(message: str, samples: int = 200, how: tuple | None = None, **wrong: Any) -> None:
    inputs, right = arguments(DEFAULT, samples)
    given = ops.Inputs(*(None if value is None else value.detach() for value in inputs))._replace(**wrong)
    with pytest.raises(ValueError, match=message):
        ops.fire(*given, *(how or right), False, False, "numba")
    with pytest.raises(ValueError, match=message):
        ops.fire_backward(*given, *right, given.currents, None, None, None, None, (False,) * 5, "numba")


@pytest.mark.parametrize(
    ("name", "wrong", "wanted"),
    [
        ("residual", torch.rand(4, 1, 3, 5, 5), r"\[4, 2, 3, 5, 5\]"),
        ("residual", torch.rand(SHAPE).bfloat16(), "torch.float32"),
        ("skip", torch.rand(2, 2, 3, 5, 5), r"\[4, 2, 3, 5, 5\]"),
        ("skip", torch.rand(SHAPE, device="meta"), "on cpu"),
        ("state", torch.rand(2, 2, 5, 5), r"\[2, 3, 5, 5\]"),
        ("other", torch.rand(2, 3, 5), r"\[2, 3, 5, 5\]"),
        ("decay", torch.rand(5), r"one a channel \[3\]"),
        ("threshold", torch.rand(3, 5), r"one a neuron \[3, 5, 5\]"),
        ("input_scale", torch.rand(1), "a number"),
        ("leak", torch.rand(2, 3, 5, 5), r"one a neuron \[3, 5, 5\]"),
        ("adaptation", torch.rand(3, 1, 1), "a number"),
        ("width", torch.rand(4), "a number"),
        ("height", torch.tensor(1.0, device="meta"), "on cpu"),
        ("weight", torch.rand(1), r"\[3\]"),
        ("bias", torch.rand(3, device="meta"), "on cpu"),
        ("mean", torch.rand(3), "torch.float64"),
        ("m2", torch.rand(4).double(), r"\[3\]"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_operators_refuse_what_they_would_read_past(name: str, wrong: Tensor, wanted: str) -> None:
    refused(f"{name} must be .*{wanted}", **{name: wrong})


def test_operators_refuse_half_a_norm() -> None:
    for name in ("weight", "bias", "mean", "m2"):
        refused("a norm is weight, bias, mean and m2", **{name: None})
    no_norm = dict.fromkeys(("weight", "bias", "mean", "m2"))
    for other in ("residual", "skip"):
        refused(
            "a residual or skip needs a norm", **no_norm | {"residual": None, "skip": None, other: torch.rand(SHAPE)}
        )


@pytest.mark.parametrize("engine", ["numba", "reference"])
def test_numbers_of_another_shape_are_refused_by_every_engine(engine: str) -> None:
    for name, wrong in (
        ("decay", (5,)),
        ("threshold", (3, 5)),
        ("input_scale", (1,)),
        ("surrogate_width", (4, 3, 5, 5)),
    ):
        lif = rb.LIF()
        setattr(lif, name, torch.full(wrong, 0.5))
        message = rf"{name.removeprefix('surrogate_')} must be a number, .*one a channel \[3\]"
        with rb.engine(engine), pytest.raises(ValueError, match=message):
            lif(grid(*SHAPE))


def test_backward_operators_refuse_gradients_of_another_shape() -> None:
    inputs, how = arguments(DEFAULT)
    given = ops.Inputs(*(None if value is None else value.detach() for value in inputs))
    right = {"grad": given.currents, **dict.fromkeys(("grad_drive", "grad_final", "grad_final_other", "drive"))}
    for name in right:
        wrong = right | {name: torch.rand(4, 2, 3, 5)}
        with pytest.raises(ValueError, match=rf"{name} must be .* got \[4, 2, 3, 5\]"):
            ops.fire_backward(*given, *how, *wrong.values(), (False,) * 5, "numba")


def test_a_module_left_on_meta_is_refused() -> None:
    x = torch.rand(4, 2, 3)
    with pytest.raises(ValueError, match=r"decay must be on cpu, .* on meta"):
        rb.LIF().to("meta")(x)
    with pytest.raises(ValueError, match=r"weight must be \[3\], .* on cpu, .* on meta"):
        rb.Fire(rb.CurrentNorm(3).to("meta"), rb.LIF()).eval()(x)


@pytest.mark.parametrize("case", THREE, ids=str)
def test_a_subclass_is_left_to_the_dispatcher(case: Case) -> None:
    fire, x = _fire(3, case), grid(*SHAPE)
    want = fire(x)
    weighted(want).backward()
    grads = [p.grad.clone() for p in fire.parameters()]
    for name in ("weight", "bias"):
        data = getattr(fire.norm, name).detach()
        setattr(fire.norm, name, nn.Parameter(TwoTensor(data, data.clone())))
    got = fire(x)
    assert isinstance(got, TwoTensor)
    assert torch.equal(got.a, want)
    weighted(got).sum().backward()
    for p, grad in zip(fire.norm.parameters(), grads, strict=False):
        torch.testing.assert_close(p.grad.a, grad)


@pytest.mark.parametrize("case", THREE, ids=str)
@pytest.mark.parametrize("fused", [False, True])
def test_gradients_may_come_in_batches(case: Case, fused: bool) -> None:
    module, x = _fire(3, case) if fused else case.neuron(SHAPE), leaf(grid(*SHAPE))
    spikes, grads = module(x), torch.randn(5, *SHAPE)
    wanted = [x, *(p for p in module.parameters())]
    found = torch.autograd.grad(spikes, wanted, grads, is_grads_batched=True, retain_graph=True)
    want = [torch.autograd.grad(spikes, wanted, grad, retain_graph=True) for grad in grads]
    assert_fires(spikes)
    for got, each in zip(found, zip(*want, strict=True), strict=True):
        torch.testing.assert_close(got, torch.stack(each))


@pytest.mark.parametrize("module", [DEFAULT.neuron(SHAPE), _fire(), rb.Recurrent(rb.LIF(), nn.Linear(5, 5))], ids=str)
def test_second_derivatives_are_refused(module: nn.Module) -> None:
    x = leaf(torch.rand(4, 2, 5) if isinstance(module, rb.Recurrent) else torch.rand(SHAPE))
    with rb.engine("numba"), pytest.raises(RuntimeError, match="no second derivatives .* rheobase.engine"):
        torch.autograd.grad(module(x).sum(), x, create_graph=True)


@pytest.mark.parametrize("engine", ["numba", "reference"])
@pytest.mark.parametrize("name", ["membrane", "neighborhood"])
def test_a_rule_says_that_its_backward_is_not_differentiable_in_any_engine(name: str, engine: str) -> None:
    x = leaf(torch.rand(4, 2, 5))
    lif = rb.LIF()
    lif.rule = kernels.rules.named(name)
    with rb.engine(engine), pytest.raises(RuntimeError, match=f"the rule '{name}' is not differentiable.*'surrogate'"):
        torch.autograd.grad(lif(x).sum(), x, create_graph=True)


def test_a_final_state_is_no_view() -> None:
    _, final = rb.LIF().run(torch.rand(3, 2, 4).requires_grad_())
    final.detach_()


def test_nothing_is_a_batch_too() -> None:
    for shape in ((4, 0, 3, 5), (4, 2, 3, 0)):
        for module in (NEURONS.neuron((4, 2, 3, 5)) if shape[1] == 0 else CHANNELS.neuron(shape), _fire().eval()):
            x = torch.empty(shape, requires_grad=True)
            y = module(x) if isinstance(module, rb.Fire) else module.run(x)[0]
            y.sum().backward()
            assert y.shape == x.grad.shape == shape
            assert all(p.grad is None or not p.grad.any() for p in module.parameters())


# What is assigned, and what runs, between forward and backward


@pytest.mark.parametrize("engine", ["numba", "reference"])
@pytest.mark.parametrize("case", [DEFAULT, CASES[-1]], ids=str)
def test_an_assignment_leaves_a_backward_pass_alone_that_is_under_way(case: Case, engine: str) -> None:
    x, found = grid(*SHAPE), []
    for change in (False, True):
        neuron, y = case.neuron(SHAPE), leaf(x)
        with rb.engine(engine):
            spikes = neuron(y)
            if change:
                for name in set(neuron.dynamics) - set(case.learned()) - {"surrogate_width"}:
                    setattr(neuron, name, torch.full((3,), 0.625))
                neuron.surrogate = rb.surrogate.SuperSpike(7.0)
                neuron.reset, neuron.detach_reset = "none", not neuron.detach_reset
            weighted(spikes).backward()
        found.append(y.grad)
    assert_fires(spikes)
    assert torch.equal(*found)


@pytest.mark.parametrize("options", [{"name": "numba"}, {"fused": False}, {"name": "reference"}], ids=str)
def test_a_training_pass_leaves_the_backward_of_an_evaluation_pass_alone(options: Any) -> None:
    x, found = grid(*SHAPE), []
    for between in (False, True):
        fire, y = _fire().eval(), leaf(x)
        fire.norm.running_var.fill_(0.5)
        with rb.engine(**options):
            spikes = fire(y)
            if between:
                fire.train()(grid(*SHAPE, seed=9) * 3)
            weighted(spikes).backward()
        found.append([y.grad, fire.norm.weight.grad])
    assert_fires(spikes)
    for got, want in zip(*found, strict=True):
        assert torch.equal(got, want)


def test_two_training_passes_and_the_backward_of_both() -> None:
    a, b = grid(*SHAPE), grid(*SHAPE, seed=3) * 2
    fire, found = _fire(), []
    for order in ((a, b), (b, a)):
        fire.zero_grad()
        torch.autograd.backward([weighted(fire(x)) for x in order])
        found.append(fire.norm.weight.grad.clone())
    torch.testing.assert_close(*found)


# torch.compile, torch.export


class Ran(nn.Module):
    """A neuron with its final states."""

    def __init__(self, neuron: rb.Neuron) -> None:
        super().__init__()
        self.neuron = neuron

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        spikes, final = self.neuron.run(x)
        return spikes, *(final if isinstance(final, tuple) else (final,))


def whole_net() -> nn.Module:
    first = _fire(3, CHANNELS, (4, 2, 3, 5, 5))
    last = rb.LIF(0.75, 0.25, surrogate=DEFAULT.surrogate)
    return nn.Sequential(rb.PerStep(nn.Conv2d(3, 3, 3, padding=1)), first, rb.PerStep(nn.Conv2d(3, 2, 3)), last)


COMPILED: dict[str, Callable[[], nn.Module]] = {
    **{f"{case.kind} alone": lambda case=case: Ran(case.neuron(SHAPE)) for case in THREE},
    **{f"{case.kind} in a Fire": lambda case=case: _fire(3, case) for case in THREE},
    "a net": whole_net,
}


def outcome(module: nn.Module, x: Tensor) -> list[Tensor]:
    """Values, then gradients."""
    module.zero_grad()
    y = leaf(x)
    found = module(y)
    found = found if isinstance(found, tuple) else (found,)
    sum(map(weighted, found)).backward()
    return [*(f.detach() for f in found), y.grad, *(p.grad for p in module.parameters())]


@pytest.mark.parametrize("name", COMPILED)
def test_compiles_without_a_graph_break(name: str) -> None:
    module = COMPILED[name]()
    compiled = torch.compile(copy.deepcopy(module), fullgraph=True, backend="aot_eager")
    for x in (grid(*SHAPE), grid(4, 3, *SHAPE[2:], seed=1)):
        want, got = outcome(module, x), outcome(compiled, x)
        assert torch.equal(got[0], want[0])
        assert_fires(want[0])
        for a, b in zip(got[1:], want[1:], strict=True):
            torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5)
        for a, b in zip(compiled.buffers(), module.buffers(), strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", COMPILED)
def test_exports_with_a_dynamic_batch(name: str) -> None:
    module = COMPILED[name]().eval()
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(module, (grid(4, 3, 3, 5, 5),), dynamic_shapes=({1: batch},))
    assert any("rheobase" in str(node.target) for node in program.graph.nodes)
    for x in (grid(4, 7, 3, 5, 5), channels_last(grid(4, 2, 3, 5, 5))):
        got, want = program.module()(x), module(x)
        for a, b in zip(*(f if isinstance(f, tuple) else (f,) for f in (got, want)), strict=True):
            torch.testing.assert_close(a, b)


def test_a_model_exports_with_a_dynamic_batch() -> None:
    model = rb.models.create("sew_resnet18", classes=3, in_channels=1, steps=2, width=4).eval()
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(model, (torch.rand(4, 1, 8, 8),), dynamic_shapes=({0: batch},))
    images = torch.rand(7, 1, 8, 8)
    torch.testing.assert_close(program.module()(images), model(images))


def test_new_numbers_are_not_compiled_again() -> None:
    lif, counter = DEFAULT.neuron(SHAPE), torch._dynamo.testing.CompileCounter()
    compiled, x = torch.compile(lif, fullgraph=True, backend=counter), grid(3, 2, 4, low=-32)
    spikes = []
    for alpha in (2.0, 3.0, 4.0):
        lif.surrogate = rb.surrogate.ATan(alpha)
        lif.threshold = alpha / 4
        spikes.append(compiled(x).mean())
    assert counter.frame_count == 1
    assert spikes[0] > spikes[1] > spikes[2]


@pytest.mark.parametrize("steps", [3, 12])
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")  # torch's own
def test_a_neuron_of_ones_own_compiles(steps: int) -> None:
    class Own(rb.Neuron):
        def step(self, current: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            u = 0.75 * v + current
            s = rb.spike(u - 1)
            return s, u - s.detach()

    x = grid(steps, 3, 5)
    compiled = torch.compile(Own(), backend="aot_eager", fullgraph=steps <= kernels.reference.INLINED)
    want, got = outcome(Own(), x), outcome(compiled, x)
    assert_fires(want[0])
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


# torch.func and forward mode, which see through the definition


@pytest.mark.parametrize("case", THREE, ids=str)
def test_functional_transforms_have_the_right_values(case: Case) -> None:
    neuron, x = case.neuron(SHAPE), grid(*SHAPE)
    y = leaf(x)
    weighted(neuron(y)).backward()
    torch.testing.assert_close(torch.func.grad(lambda x: weighted(neuron(x)))(x), y.grad, rtol=2e-5, atol=2e-5)
    several = grid(3, *SHAPE, seed=2)
    mapped = torch.func.vmap(neuron)(several)
    assert torch.equal(mapped, torch.stack([neuron(x) for x in several]))
    assert_fires(mapped)
    per_sample = torch.func.vmap(torch.func.grad(lambda x: weighted(neuron(x))))(several)
    torch.testing.assert_close(per_sample[0], torch.func.grad(lambda x: weighted(neuron(x)))(several[0]))


@pytest.mark.parametrize("module", [DEFAULT.neuron(SHAPE), _fire()], ids=["a neuron", "a Fire"])
def test_what_a_transform_has_left_behind_is_a_tensor_like_any_other(module: nn.Module) -> None:
    left: list[Tensor] = []
    torch.func.grad(lambda x: (left.append(x * 1), x.sum())[1])(x := grid(*SHAPE))
    with rb.engine("numba"):
        found, want = module(left[0]), module(x)
    assert_fires(want)
    assert torch.equal(found, want)


def test_a_rule_is_not_called_under_a_transform() -> None:
    lif, x = DEFAULT.neuron(SHAPE), grid(*SHAPE)
    lif.rule = StraightThrough()
    for function in (lambda y: lif(y).sum(), lambda y: (lif(x) * y).sum()):
        with pytest.raises(RuntimeError, match="functorch transforms"):
            torch.func.grad(function)(x)


FUNCTIONAL = {
    **{f"{case.kind}, learned": lambda case=case: case.neuron(SHAPE) for case in (CHANNELS, NEURONS)},
    "a Fire": lambda: _fire(3, CHANNELS),
    "a Fire in evaluation": lambda: _fire(3, CHANNELS).eval(),
    "a neuron that hears itself": lambda: rb.Recurrent(rb.LIF(), nn.Linear(5, 5)),
}


@pytest.mark.parametrize("name", FUNCTIONAL)
def test_functional_transforms_of_parameters_have_the_right_values(name: str) -> None:
    """Of a function of parameters alone, where the currents are a tensor like any other."""
    module, x = FUNCTIONAL[name](), grid(*SHAPE)
    module(x)  # (a norm in training moves its running statistics)
    weighted(spikes := module(x)).backward()
    parameters = {name: p.detach() for name, p in module.named_parameters()}

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return weighted(torch.func.functional_call(module, parameters, (x,)))

    assert_fires(spikes)
    found = torch.func.grad(loss)(parameters)
    for name, p in module.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-4, atol=1e-4)
    if not module.training or not isinstance(module, rb.Fire):
        two = {name: torch.stack([p, p * 1.25]) for name, p in parameters.items()}
        wanted = [loss({name: p[k] for name, p in two.items()}) for k in range(2)]
        torch.testing.assert_close(torch.func.vmap(loss)(two), torch.stack(wanted), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("case", THREE, ids=str)
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch's own
def test_forward_mode_is_the_transpose_of_the_backward_pass(case: Case, fused: bool) -> None:
    module = _fire(3, case).eval() if fused else case.neuron(SHAPE)
    x, tangent, cotangent = grid(*SHAPE), torch.randn(SHAPE), torch.randn(SHAPE)
    y = leaf(x)
    want = module(y)
    want.backward(cotangent)
    value, found = torch.func.jvp(module, (x,), (tangent,))
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(module(forward_ad.make_dual(x, tangent)))
        torch.testing.assert_close(dual.tangent, found)
    assert torch.equal(value, want)
    assert found.abs().sum() > 0
    torch.testing.assert_close((found * cotangent).sum(), (tangent * y.grad).sum(), rtol=1e-4, atol=1e-3)


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch's own
def test_forward_over_reverse_is_a_finite_difference_of_the_gradient() -> None:
    """Spikes stay as they are along so short a way, and the surrogate is smooth."""
    lif = rb.LIF(0.9, surrogate=rb.surrogate.Sigmoid(4.0)).double()
    x, tangent = torch.randn(5, 2, 3, dtype=torch.float64) + 0.5, torch.randn(5, 2, 3, dtype=torch.float64)
    gradient = torch.func.grad(lambda x: weighted(lif(x)))
    _, found = torch.func.jvp(gradient, (x,), (tangent,))
    want = (gradient(x + 1e-6 * tangent) - gradient(x - 1e-6 * tangent)) / 2e-6
    assert_fires(lif(x))
    torch.testing.assert_close(found, want, rtol=1e-6, atol=1e-7)


# The choice of an engine


def test_engines_by_name() -> None:
    assert hash(registry.by_name("numba")) == hash(registry.by_name("numba"))
    with pytest.raises(ValueError, match="engine: name must be one of"):
        rb.engine("fast")

    class Own(Surrogate):
        alpha: float = 1.0

    why = {
        "float64": lambda: rb.LIF()(torch.rand(2, 2, dtype=torch.float64)),
        "float16": lambda: rb.LIF()(torch.rand(2, 2).half()),
        "runs on cpu, and the currents are on meta": lambda: rb.LIF().to("meta")(torch.rand(2, 2, device="meta")),
        "torch.func sees through the definition only": lambda: torch.func.vmap(rb.LIF())(torch.rand(2, 2, 2)),
        "knows only the surrogates of rheobase.surrogate": lambda: kernels.fire(
            rb.LIF().spec()._replace(how=kernels.Spec(*rb.LIF().spec()).how._replace(surrogate="x.Own")),
            torch.rand(2, 2),
            None,
        ),
    }
    for reason, run in why.items():
        with rb.engine("numba"), pytest.raises(RuntimeError, match=f"the numba engine was asked for, but .*{reason}"):
            run()
    with rb.engine("numba"), forward_ad.dual_level(), pytest.raises(RuntimeError, match="forward-mode differentiation"):
        rb.LIF()(torch.rand(2, 2))


def test_the_fallback_says_why_once(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(registry, "_said", set())
    x = grid(4, 2, 3, low=-32).double()
    with caplog.at_level(logging.WARNING, logger="rheobase"):
        for _ in range(3):
            assert_fires(rb.LIF()(x))
            rb.Fire(rb.CurrentNorm(3).double(), rb.LIF())(x)
            torch.func.vmap(rb.LIF())(x.float())
            rb.LIF()(x.float())
    said = [record.getMessage() for record in caplog.records if record.name == "rheobase"]
    assert len(said) == 2, said
    assert "reference engine runs, as the numba engine does not: it takes float32 and bfloat16" in said[0]
    assert "torch.func sees through" in said[1]


def settings() -> tuple[str, bool, bool]:
    found = registry.settings()
    return found.name, found.fused, found.packed


def test_engines_nest_and_what_is_not_given_is_inherited() -> None:
    seen = []
    with rb.engine("reference"):
        with rb.engine(fused=False):
            seen.append(settings())
            with rb.engine(packed=True), rb.engine("numba"):
                seen.append(settings())
            seen.append(settings())
            with rb.engine(fused=True):
                seen.append(settings())
        seen.append(settings())
    seen.append(settings())
    assert seen == [
        ("reference", False, False),
        ("numba", False, True),
        ("reference", False, False),
        ("reference", True, False),
        ("reference", True, False),
        ("auto", True, False),
    ]


def test_engines_end_with_an_error() -> None:
    x = torch.rand(2, 2, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="float64"), rb.engine("numba"):
        with rb.engine("reference"):
            rb.LIF()(x)
        rb.LIF()(x)
    rb.LIF()(x)
    assert settings() == ("auto", True, False)


@pytest.mark.parametrize(
    ("options", "called"),
    [
        ({}, ["moments", "forward"]),
        ({"fused": False}, ["forward"]),
        ({"name": "reference"}, []),
        ({"name": "reference", "fused": True}, []),
    ],
    ids=str,
)
def test_engines_run_what_was_chosen(monkeypatch: pytest.MonkeyPatch, options: Any, called: list[str]) -> None:
    seen, engine = [], registry.by_name("numba")

    def spied(name: str) -> Callable[..., Any]:
        return lambda *given: seen.append(name) or getattr(engine, name)(*given)

    monkeypatch.setitem(registry._found, "numba", replace(engine, **{n: spied(n) for n in ("moments", "forward")}))
    with rb.engine(**options):
        _fire()(grid(*SHAPE))
    assert seen == called


def test_one_engine_object_may_serve_several_threads() -> None:
    chosen, found = rb.engine("reference"), []

    def enter() -> None:
        with chosen, pytest.raises(RuntimeError, match="float64"), rb.engine("numba"):
            rb.LIF()(torch.rand(2, 2, dtype=torch.float64))
        found.append(settings()[0])

    with rb.engine("numba"), chosen, ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(enter) for _ in range(2)]:
            future.result()
    assert found == ["auto", "auto"]
    assert settings()[0] == "auto"


def test_several_threads_may_call_at_once() -> None:
    net, images = whole_net().eval(), grid(4, 3, 3, 12, 12)
    want = net(images)
    assert_fires(want)
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: net(images), range(16)):
            assert torch.equal(got, want)


# Gradient rules


class StraightThrough:
    """The gradient of each spike goes to the current of its step, where that was not too large."""

    name = "straight through"
    calls: list[str]

    def __init__(self) -> None:
        self.calls = []

    def why_not(self, spec: kernels.Spec, currents: Tensor) -> str | None:
        return None if spec.how.reset == "soft" else f"it knows no {spec.how.reset} reset"

    def forward(self, spec: kernels.Spec, currents: Tensor, state: Any) -> tuple[Tensor, Any, Any]:
        self.calls.append("forward")
        step, spikes = kernels.stepper(spec, currents[0]), []
        if state is None:
            rest = torch.zeros_like(currents[0])
            state = rest if spec.how.kind == "LIF" else (rest, rest)
        for current in currents:
            s, state, _ = step(current, state)
            spikes.append(s)
        return torch.stack(spikes), state, currents.abs() < 1

    def backward(self, spec: kernels.Spec, grad_spikes: Tensor, saved: Any) -> Tensor:
        self.calls.append("backward")
        return grad_spikes * saved / spec.numbers["threshold"]


@pytest.mark.parametrize("kind", ["LIF", "CubaLIF", "AdaptiveLIF"])
def test_a_rule_takes_the_place_of_the_gradient(kind: str) -> None:
    neuron, x, grad = getattr(rb, kind)(threshold=0.5), leaf(grid(*SHAPE)), torch.randn(SHAPE)
    begin = states(neuron, SHAPE)
    want, final = neuron.run(x, begin)
    neuron.rule = StraightThrough()
    spikes, ended = neuron.run(x, begin)
    assert neuron.rule.calls == ["forward"]
    assert_fires(spikes)
    assert torch.equal(spikes, want)
    for a, b in zip(*(f if isinstance(f, tuple) else (f,) for f in (ended, final)), strict=True):
        torch.testing.assert_close(a, b)
    assert type(spikes.grad_fn) is type(want.grad_fn)  # the same autograd function
    spikes.backward(grad, retain_graph=True)
    torch.testing.assert_close(x.grad, grad * (x.detach().abs() < 1) / 0.5)
    spikes.backward(grad)
    assert neuron.rule.calls == ["forward", "backward", "backward"]
    assert torch.equal(neuron(x), neuron.run(x)[0])
    neuron.rule = None
    assert type(neuron(x).grad_fn) is type(want.grad_fn)


def test_a_rule_runs_inside_a_fire_and_a_net() -> None:
    x = leaf(grid(*SHAPE))
    fire = rb.Fire(rb.CurrentNorm(3), DEFAULT.neuron(SHAPE))
    fire.neuron.rule = StraightThrough()
    spikes, norm = fire(x), copy.deepcopy(fire.norm)
    weighted(spikes).backward()
    y = leaf(x)
    drive = norm(y)
    assert torch.equal(fire.neuron(drive), spikes)
    assert_fires(spikes)
    weights = torch.autograd.grad(weighted(z := leaf(spikes)), z)[0]
    drive.backward(weights * (drive.detach().abs() < 1) / fire.neuron.threshold)
    torch.testing.assert_close(x.grad, y.grad)


def test_what_a_rule_refuses() -> None:
    x = leaf(grid(*SHAPE))
    for neuron, message in (
        (rb.LIF(reset="hard"), "the rule 'straight through' cannot be used here: it knows no hard reset"),
        (rb.LIF(learn=("decay",)), "the rule 'straight through' has no gradient of a neuron's numbers: learn"),
    ):
        neuron.rule = StraightThrough()
        with pytest.raises(ValueError, match=message):
            neuron(x)
    lif = rb.LIF()
    lif.rule = StraightThrough()
    _, final = lif.run(x)
    with pytest.raises(RuntimeError, match="the rule 'straight through' has no gradient of a final state"):
        final.sum().backward()
    with pytest.raises(RuntimeError, match="the backward of the rule 'straight through' is not differentiable"):
        torch.autograd.grad(lif(x).sum(), x, create_graph=True)


@pytest.mark.parametrize("rule", ["membrane", "neighborhood", "spike_train"])
def test_what_a_rule_saved_is_autograds(rule: str) -> None:
    """Hooks see it, a second pass finds it if asked for, and it goes with the graph, though the loss lives."""

    class Box:
        def __init__(self, tensor: Tensor) -> None:
            self.tensor = tensor

    boxes: list[Any] = []

    def keep(tensor: Tensor) -> Box:
        box = Box(tensor)
        boxes.append(weakref.ref(box))
        return box

    torch.manual_seed(0)
    neuron, x = rb.LIF(0.8, reset="soft" if rule == "membrane" else "hard"), torch.randn(6, 3, 4).requires_grad_()
    neuron.rule = named(rule)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda box: box.tensor):
        loss = neuron(x).sum()
    assert sum(box().tensor.dim() > 1 for box in boxes) >= 2  # what came in, and what was saved
    (once,) = torch.autograd.grad(loss, x, retain_graph=True)
    (twice,) = torch.autograd.grad(loss, x)
    assert torch.equal(once, twice)
    assert once.norm() > 0
    assert not any(box() for box in boxes)


# An installation without Numba, or with a broken one

BROKEN = {
    "ImportError": "raise ImportError('Numba needs NumPy 2.3 or less')",  # as Numba does it: without a name
    "OSError": "raise OSError('libLLVM.so: cannot open shared object file')",
    "AttributeError": "import sys; sys.no_such_thing",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_an_engine_that_cannot_be_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, kind: str) -> None:
    (tmp_path / "numba.py").write_text(BROKEN[kind])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "_found", {})
    for name in list(sys.modules):
        if name.split(".")[0] == "numba" or name.startswith("rheobase.kernels.numba"):
            monkeypatch.delitem(sys.modules, name)
    with pytest.warns(RuntimeWarning, match=f"reference engine, as Numba cannot be imported .{kind}: "):
        registry.load()
    assert_fires(rb.LIF()(grid(4, 2, 3, low=-32)))
    with rb.engine("numba"), pytest.raises(RuntimeError, match=f"asked for, but Numba cannot be imported .{kind}: "):
        rb.LIF()(torch.rand(2, 2))


def test_without_numba_the_library_works_after_one_warning(tmp_path: Path) -> None:
    (tmp_path / "numba.py").write_text(BROKEN["ImportError"])
    code = f"""
import sys, warnings
sys.path.insert(0, {str(tmp_path)!r})
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torch, rheobase as rb
    model = rb.models.create("sew_resnet18", classes=2, in_channels=1, width=2)
    with rb.engine(packed=True):
        rb.readout(model(torch.rand(2, 1, 8, 8))).sum().backward()
said = [w for w in caught if "rheobase" in str(w.message)]
assert [w.category for w in said] == [RuntimeWarning], [str(w.message) for w in caught]
assert "Numba needs NumPy 2.3 or less" in str(said[0].message)
assert not any(p.grad is None or not p.grad.isfinite().all() for p in model.parameters())
try:
    with rb.engine("numba"):
        rb.LIF()(torch.rand(2, 2))
except RuntimeError as error:
    assert "Numba needs NumPy" in str(error)
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", code], check=True)

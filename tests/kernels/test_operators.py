"""The operators keep PyTorch's contracts: opcheck, torch.compile, torch.export, and the choice of engine."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.testing._internal.two_tensor import TwoTensor

import rheobase as rb
from rheobase import kernels
from rheobase.kernels import ops, registry


def _fire(channels: int = 3) -> rb.Fire:
    return rb.Fire(rb.CurrentNorm(channels), rb.LIF())


def tensor(*shape: int) -> Tensor:
    return torch.randn(shape).requires_grad_()


HOW = ("LIF", "soft", False, "ATan", 1e-5)  # and the number of samples


def row(value: float) -> Tensor:
    return torch.full((3,), value, dtype=torch.float64)


def given(
    x: Tensor, kind: str = "LIF", normed: bool = False, learn: bool = False, **others: Tensor
) -> tuple[Tensor | None, ...]:
    """Inputs of the operators for currents of three channels."""
    number = {"decay": torch.full((3,), 0.5), "threshold": torch.tensor(1.0), "input_scale": torch.full((3, 5, 5), 1.5)}
    number |= {"width": torch.tensor(2.0), "height": torch.tensor(1.0)}
    if kind != "LIF":
        number |= {"leak": torch.tensor(0.5)}
    if kind == "AdaptiveLIF":
        number |= {"adaptation": torch.full((3,), 0.2)}
    if learn:
        number |= {n: v.requires_grad_() for n, v in number.items() if n not in ("width", "height")}
    norm = {"weight": tensor(3), "bias": tensor(3), "mean": row(0.1), "m2": row(180.0)} if normed else {}
    found = dict.fromkeys(ops.Inputs._fields) | number | norm | others | {"currents": x}
    return tuple(found[name] for name in ops.Inputs._fields)


@pytest.mark.parametrize(
    ("kind", "options", "others", "keep"),
    [
        ("LIF", {}, ("state",), True),
        ("LIF", {"normed": True}, ("residual", "skip"), True),
        ("LIF", {"normed": True}, ("residual",), False),
        ("LIF", {"learn": True}, (), False),
        ("CubaLIF", {"learn": True}, ("state", "other"), True),
        ("AdaptiveLIF", {"normed": True, "learn": True}, (), True),
    ],
)
def test_opcheck(kind: str, options: dict, others: tuple[str, ...], keep: bool) -> None:
    torch.manual_seed(0)
    shapes = {"residual": (4, 2, 3, 5, 5), "skip": (4, 2, 3, 5, 5), "state": (2, 3, 5, 5), "other": (2, 3, 5, 5)}
    more = {name: tensor(*shapes[name]) for name in others}
    inputs, how = (
        given(tensor(4, 2, 3, 5, 5), kind, **options, **more),
        (kind, *HOW[1:], 200 if options.get("normed") else 0),
    )
    torch.library.opcheck(ops.fire, (*inputs, *how, keep, keep, "numba"))
    plain = [value.detach() if isinstance(value, Tensor) else value for value in inputs]
    x = plain[0]
    drive = x.clone() if keep else None
    learned = [bool(options.get("learn"))] * 3 + [bool(options.get("learn")) and kind != "LIF"] * 2
    learned[4] = learned[4] and kind == "AdaptiveLIF"
    torch.library.opcheck(ops.fire_backward, (*plain, *how, x, drive, None, None, drive, learned, "numba"))


def test_opcheck_of_the_norm() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 2, 3, 5, 5)
    torch.library.opcheck(ops.moments, (x, "numba"))
    sums = torch.randn(2, 3, dtype=torch.float64)
    for samples in (0, 200):
        inputs = (x, x, torch.rand(3), row(0.1), row(180.0), sums, 1e-5, samples, "numba")
        torch.library.opcheck(ops.norm_backward, inputs)


def test_operators_refuse_what_they_would_read_past() -> None:
    x = torch.rand(4, 2, 3, 5, 5)
    end = (*HOW, 200, False, False, "numba")
    for name, wrong in (("residual", x[:, :1]), ("skip", x[:2]), ("state", x[0, :, :2]), ("weight", torch.ones(1))):
        shape = str(list(wrong.shape)).replace("[", r"\[")
        with pytest.raises(ValueError, match=rf"{name} must be .* got {shape}"):
            ops.fire(*given(x, normed=True, **{name: wrong}), *end)
    for name, shape in (("decay", (2,)), ("input_scale", (5, 5)), ("threshold", (3, 5))):
        with pytest.raises(
            ValueError, match=rf"{name} must be a number, one a channel \[3\] or one a neuron \[3, 5, 5\]"
        ):
            ops.fire(*given(x, **{name: torch.ones(shape)}), *end)
    with pytest.raises(ValueError, match="m2 must be .* torch.float64"):
        ops.fire(*given(x, normed=True, m2=torch.ones(3)), *end)
    with pytest.raises(ValueError, match="a norm is weight, bias, mean and m2"):
        ops.fire(*given(x, weight=torch.ones(3)), *end)
    with pytest.raises(ValueError, match="a residual or skip needs a norm"):
        ops.fire(*given(x, skip=x), *end)
    for name, grads in (("grad", (x[:1], None, None, None, None)), ("drive", (x, None, None, None, x[:1]))):
        with pytest.raises(ValueError, match=rf"{name} must be"):
            ops.fire_backward(*given(x), *HOW, 0, *grads, [False] * 5, "numba")


def test_a_module_left_on_meta_is_refused() -> None:
    x = torch.rand(4, 2, 3)
    with pytest.raises(ValueError, match=r"decay must be a number, .* on cpu, .* on meta"):
        rb.LIF().to("meta")(x)
    with pytest.raises(ValueError, match=r"weight must be \[3\], .* on cpu, .* on meta"):
        rb.Fire(rb.CurrentNorm(3).to("meta"), rb.LIF())(x)


def test_a_threshold_assigned_before_the_backward_pass_changes_nothing() -> None:
    grads = []
    for assign in (False, True):
        lif, x = rb.LIF(), torch.full((4, 1, 3), 0.6).requires_grad_()
        spikes = lif(x)
        if assign:
            lif.threshold, lif.surrogate = 3.0, rb.surrogate.Triangle(0.1)
        spikes.sum().backward()
        grads.append(x.grad)
    assert spikes.sum() > 0
    assert torch.equal(*grads)


@pytest.mark.parametrize("engine", ["numba", "reference"])
def test_evaluation_may_go_backward_after_a_training_pass(engine: str) -> None:
    torch.manual_seed(0)
    fire, grads = _fire(4), []
    x = torch.randn(4, 2, 4, 5).requires_grad_()
    with rb.engine(engine):
        for between in (False, True):
            spikes = fire.eval()(x)
            if between:
                fire.train()(x.detach() * 3 + 1)
            spikes.sum().backward()
            grads.append(x.grad)
            x.grad = None
    assert spikes.sum() > 0
    assert torch.equal(*grads)


def test_a_subclass_is_left_to_the_dispatcher() -> None:
    fire, x = _fire(4), torch.randn(4, 2, 4, 5)
    want = fire(x)
    for name in ("weight", "bias"):
        data = getattr(fire.norm, name).detach()
        setattr(fire.norm, name, nn.Parameter(TwoTensor(data, data.clone())))
    got = fire(x)
    assert isinstance(got, TwoTensor)
    assert torch.equal(got.a, want)


@pytest.mark.parametrize("module", [rb.LIF(), rb.Fire(rb.CurrentNorm(4), rb.LIF())])
def test_gradients_may_come_in_batches(module: nn.Module) -> None:
    x = torch.randn(3, 2, 4, requires_grad=True)
    spikes, grads = module(x), torch.randn(5, 3, 2, 4)
    found = torch.autograd.grad(spikes, x, grads, is_grads_batched=True, retain_graph=True)[0]
    want = [torch.autograd.grad(spikes, x, grad, retain_graph=True)[0] for grad in grads]
    torch.testing.assert_close(found, torch.stack(want))


def test_second_derivatives_are_refused() -> None:
    x = torch.rand(3, 2, 4).requires_grad_()
    for module in (rb.LIF(), _fire(4)):
        with pytest.raises(RuntimeError, match="no second derivatives"):
            torch.autograd.grad(module(x).sum(), x, create_graph=True)


def test_a_final_state_is_no_view() -> None:
    _, final = rb.LIF().run(torch.rand(3, 2, 4).requires_grad_())
    final.detach_()


@pytest.mark.parametrize("kind", [rb.surrogate.ATan(), rb.surrogate.Sigmoid(), rb.surrogate.Triangle(1.0)])
def test_a_nan_is_not_hidden_in_the_backward_pass(kind: rb.surrogate.Surrogate) -> None:
    x = torch.tensor([[0.5], [float("nan")], [0.5]], requires_grad=True)
    rb.LIF(surrogate=kind)(x).sum().backward()
    assert x.grad.isnan().any()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch's own
def test_torch_func_and_forward_mode_go_by_the_definition(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    registry._said.clear()
    lif, x, v = rb.LIF(0.9), torch.randn(6, 2, 3) * 2, torch.randn(6, 2, 3)

    def loss(x: Tensor) -> Tensor:
        return (lif(x) * torch.linspace(-1, 1, 36).view(6, 2, 3)).sum()

    wanted = torch.autograd.grad(loss(y := x.clone().requires_grad_()), y)[0]
    assert 0.1 < lif(x).mean() < 0.9
    with caplog.at_level("WARNING", "rheobase"):
        torch.testing.assert_close(torch.func.grad(loss)(x), wanted)
    assert "torch.func sees through the definition only" in caplog.text
    batch = torch.randn(5, 6, 2, 3) * 2
    assert torch.equal(torch.func.vmap(lif)(batch), torch.stack([lif(each) for each in batch]))
    _, tangent = torch.func.jvp(loss, (x,), (v,))
    torch.testing.assert_close(tangent, (wanted * v).sum())
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(loss(forward_ad.make_dual(x, v))).tangent
    torch.testing.assert_close(dual, (wanted * v).sum())
    with rb.engine("numba"), pytest.raises(RuntimeError, match=r"numba engine was asked for, but torch.func"):
        torch.func.grad(loss)(x)


class Passing:
    """A gradient rule of the test's own: twice the gradient, as it comes."""

    name = "passing"

    def why_not(self, spec: kernels.Spec, currents: Tensor) -> str | None:
        return None if spec.how.reset == "soft" else "it wants a soft reset"

    def forward(self, spec: kernels.Spec, currents: Tensor, state: object) -> tuple[Tensor, object, object]:
        with rb.engine("reference"):
            ran = kernels.fire(spec, currents, state)
        return ran.outputs, ran.state, currents

    def backward(self, spec: kernels.Spec, grad_spikes: Tensor, saved: Tensor) -> Tensor:
        return 2 * grad_spikes + 0 * saved


@pytest.mark.parametrize("kind", [rb.LIF, rb.CubaLIF, rb.AdaptiveLIF])
def test_a_rule_takes_the_place_of_the_gradient(kind: type[rb.LIF]) -> None:
    torch.manual_seed(0)
    neuron, x = kind(), (torch.randn(6, 4, 3) * 2).requires_grad_()
    want, g = neuron(x), torch.randn(6, 4, 3)
    assert 0.1 < want.mean() < 0.9
    neuron.rule = Passing()
    spikes = neuron(x)
    assert torch.equal(spikes, want)
    assert type(spikes.grad_fn).__name__ == type(want.grad_fn).__name__ == "FireBackward"
    spikes.backward(g)
    assert torch.equal(x.grad, 2 * g)
    fire = rb.Fire(rb.CurrentNorm(3), neuron)
    fire(x).backward(g)
    torch.testing.assert_close(fire.norm.bias.grad, 2 * g.sum((0, 1)))


def test_a_rule_refuses() -> None:
    lif, x = rb.LIF(reset="hard"), torch.rand(3, 2, 4)
    lif.rule = Passing()
    with pytest.raises(ValueError, match="'passing' cannot be used here: it wants a soft reset"):
        lif(x)
    learned = rb.LIF(learn=("decay",))
    learned.rule = Passing()
    with pytest.raises(ValueError, match="'passing' has no gradient of a neuron's numbers"):
        learned(x)
    lif.reset = "soft"
    _, final = lif.run(x.requires_grad_())
    with pytest.raises(RuntimeError, match="'passing' has no gradient of a final state"):
        final.sum().backward()


def test_compiles_without_a_graph_break() -> None:
    model = nn.Sequential(rb.PerStep(nn.Conv2d(2, 3, 3)), _fire(), rb.PerStep(nn.Conv2d(3, 2, 3)), rb.LIF())
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    x = torch.randn(4, 2, 2, 9, 9)
    want = model(x)
    want.sum().backward()
    grads = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    got = compiled(x)
    got.sum().backward()
    assert torch.equal(got, want)
    for p, grad in zip(model.parameters(), grads, strict=True):
        torch.testing.assert_close(p.grad, grad)


def test_tuning_a_surrogate_does_not_compile_again() -> None:
    lif, counter = rb.LIF(), torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(lif, fullgraph=True, backend=counter)
    for alpha in (2.0, 3.0, 4.0):
        lif.surrogate = rb.surrogate.ATan(alpha)
        compiled(torch.rand(3, 2, 4))
    assert counter.frame_count == 1


def test_exports_with_a_dynamic_batch() -> None:
    model = rb.models.create("sew_resnet18", classes=3, in_channels=1, steps=2, width=4).eval()
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(model, (torch.rand(4, 1, 8, 8),), dynamic_shapes=({0: batch},))
    images = torch.rand(7, 1, 8, 8)
    torch.testing.assert_close(program.module()(images), model(images))


def test_unknown_and_impossible_engines() -> None:
    with pytest.raises(ValueError, match="engine: name must be one of"):
        rb.engine("fast")
    with rb.engine("numba"), pytest.raises(RuntimeError, match="float64"):
        rb.LIF()(torch.rand(2, 2, dtype=torch.float64))


def test_engines_nest_and_end_with_an_error() -> None:
    x = torch.rand(2, 2, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="float64"), rb.engine("numba"):
        with rb.engine("reference"):
            rb.LIF()(x)
        rb.LIF()(x)
    rb.LIF()(x)


def test_what_an_engine_context_does_not_say_it_inherits() -> None:
    with rb.engine("reference", packed=True), rb.engine(fused=False):
        assert registry.settings() == registry.Settings("reference", fused=False, packed=True)
        with rb.engine("auto"):
            assert registry.settings() == registry.Settings("auto", fused=False, packed=True)
    assert registry.settings() == registry.Settings()


def test_falling_back_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    registry._said.clear()
    with caplog.at_level("WARNING", "rheobase"):
        for _ in range(3):
            rb.LIF()(torch.rand(2, 2, dtype=torch.float64))
    assert caplog.text.count("it takes float32 and bfloat16, and the currents are torch.float64") == 1


def test_one_engine_object_may_serve_several_threads() -> None:
    chosen, found = rb.engine("reference"), []

    def enter() -> None:
        with chosen, pytest.raises(RuntimeError, match="float64"), rb.engine("numba"):
            rb.LIF()(torch.rand(2, 2, dtype=torch.float64))
        found.append(registry.settings().name)

    with rb.engine("numba"), chosen, ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(enter) for _ in range(2)]:
            future.result()
    assert found == ["auto", "auto"]
    assert registry.settings().name == "auto"


@pytest.mark.parametrize(
    "broken",
    [
        "sys.modules['numba'] = None",
        "raise_at('numba', ImportError('Numba needs NumPy 2.3 or less. Got NumPy 2.9.'))",
        "raise_at('llvmlite', OSError('Could not find/load shared object file'))",
        "raise_at('numba', AttributeError('module numpy has no attribute trapz'))",
    ],
)
def test_with_a_broken_numba_the_reference_runs_after_one_warning(broken: str) -> None:
    code = """
import importlib.abc, sys, warnings

class Broken(importlib.abc.MetaPathFinder):
    def __init__(self, name, error):
        self.name, self.error = name, error
    def find_spec(self, name, path, target=None):
        if name == self.name:
            raise self.error

def raise_at(name, error):
    sys.meta_path.insert(0, Broken(name, error))

BROKEN
import torch, rheobase as rb
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model = rb.models.create("sew_resnet18", classes=2, in_channels=1, width=2)
    rb.readout(model(torch.rand(2, 1, 8, 8))).sum().backward()
assert [w.category for w in caught if "Numba" in str(w.message)] == [RuntimeWarning], [str(w.message) for w in caught]
try:
    with rb.engine("numba"):
        model(torch.rand(2, 1, 8, 8))
except RuntimeError as error:
    assert "the numba engine was asked for, but Numba cannot be imported" in str(error), error
else:
    raise AssertionError("a named engine that cannot must raise")
"""
    subprocess.run([sys.executable, "-c", code.replace("BROKEN", broken)], check=True)


def test_several_threads_may_call_at_once() -> None:
    model = rb.models.create("plain_convnet", classes=2, in_channels=1, width=4)
    images = torch.rand(4, 1, 12, 12)
    model(images)
    model.eval()
    want = model(images)
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: model(images), range(16)):
            assert torch.equal(got, want)

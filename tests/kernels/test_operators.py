"""The operators keep PyTorch's contracts: opcheck, torch.compile, torch.export, and the choice of engine."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.testing._internal.two_tensor import TwoTensor

import rheobase as rb
from rheobase import kernels
from rheobase.kernels import ops


def _fire(channels: int = 3) -> rb.Fire:
    return rb.Fire(rb.CurrentNorm(channels), rb.LIF())


def tensor(*shape: int) -> Tensor:
    return torch.randn(shape).requires_grad_()


@pytest.mark.parametrize("keep", [True, False])
def test_opcheck(keep: bool) -> None:
    x, residual, skip, state = (tensor(4, 2, 3, 5, 5), tensor(4, 2, 3, 5, 5), tensor(4, 2, 3, 5, 5), tensor(2, 3, 5, 5))
    constants, neuron, kept = rb.LIF().constants, (1e-5, 1, True, True), (keep, keep)
    norm = (tensor(3), tensor(3), torch.zeros(3), torch.ones(3))
    torch.library.opcheck(ops.fire, (x, None, None, state, constants, *[None] * 4, *neuron, *kept))
    torch.library.opcheck(ops.fire, (x, residual, skip, None, constants, *norm, *neuron, *kept))
    torch.library.opcheck(ops.norm_fire, (x, residual, skip, state, constants, *norm, *neuron, *kept, 0.1))
    drive = residual if keep else None
    given = (x, None if keep else residual, None, state, constants, *norm)
    inputs = (x, None, drive, *given, *neuron, drive, True, True)
    found = [value.detach() if isinstance(value, Tensor) else value for value in inputs]
    torch.library.opcheck(ops.fire_backward, tuple(found))


def test_operators_refuse_what_they_would_read_past() -> None:
    x, constants, neuron = torch.rand(4, 2, 3, 5), rb.LIF().constants, (1e-5, 1, True, True, False, False)
    norm = [torch.ones(3), torch.zeros(3), torch.zeros(3), torch.ones(3)]
    for name, wrong in (("residual", x[:, :1]), ("skip", x[:2]), ("state", x[0, :, :2])):
        others = [wrong if name == other else None for other in ("residual", "skip", "state")]
        with pytest.raises(ValueError, match=rf"{name} must be .* got {list(wrong.shape)}".replace("[", r"\[")):
            ops.fire(x, *others, constants, *norm, *neuron)
    with pytest.raises(ValueError, match=r"weight must be \[3\], .* got \[1\]"):
        ops.fire(x, None, None, None, constants, norm[0][:1], *norm[1:], *neuron)
    with pytest.raises(ValueError, match=r"constants must be \[6\]"):
        ops.fire(x, None, None, None, constants[:3], *norm, *neuron)
    for others, affine in ((x, [None] * 4), (None, [norm[0], None, *norm[2:]])):
        with pytest.raises(ValueError, match="a norm is weight, bias, mean and var; a residual or skip needs one"):
            ops.fire(x, others, None, None, constants, *affine, *neuron)
    with pytest.raises(ValueError, match=r"residual must be .*float32, on cpu, .* got .*bfloat16"):
        ops.fire(x, x.bfloat16(), None, None, constants, *norm, *neuron)
    with pytest.raises(ValueError, match="not static"):
        ops.fire(x[:1].expand(4, -1, -1, -1), x, None, None, constants, *norm, *neuron)
    given = (x, None, None, None, constants, *norm, *neuron[:4])
    for name, wrong in (("grad", (x[:1], None, None, None)), ("drive", (x, None, None, x[:1]))):
        with pytest.raises(ValueError, match=rf"{name} must be"):
            ops.fire_backward(*wrong[:3], *given, wrong[3], False, False)
    with pytest.raises(ValueError, match="more than one value a channel"):
        ops.norm_fire(x[:1, :1, :, :1], None, None, None, constants, *norm, *neuron, 0.1)
    with pytest.raises(ValueError, match="more than one value a channel"):  # four steps, but one value
        ops.norm_fire(x[:1, :1, :, :1].expand(4, -1, -1, -1), None, None, None, constants, *norm, *neuron, 0.1)


def test_a_module_left_on_meta_is_refused() -> None:
    x = torch.rand(4, 2, 3)
    with pytest.raises(ValueError, match=r"constants must be \[6\], .* on cpu, .* on meta"):
        rb.LIF().to("meta")(x)
    with pytest.raises(ValueError, match=r"weight must be \[3\], .* on cpu, .* on meta"):
        rb.Fire(rb.CurrentNorm(3).to("meta"), rb.LIF())(x)


@pytest.mark.parametrize(
    "change", [lambda c: c.bfloat16(), lambda c: c.double(), lambda c: torch.stack([c, c], 1)[:, 0]]
)
def test_constants_of_another_dtype_or_layout(change: Callable[[Tensor], Tensor]) -> None:
    lif, x = rb.LIF(), torch.full((4, 1, 3), 0.6)
    want = lif(x)
    lif.constants.data = change(lif.constants)
    assert torch.equal(lif(x), want)
    assert want.sum() > 0


def test_constants_that_want_a_gradient_take_the_reference() -> None:
    lif, grads = rb.LIF(), []
    lif.constants.requires_grad_()
    for engine in ("auto", "reference"):
        lif.constants.grad = None
        with rb.engine(engine):
            (lif(grid := torch.arange(24.0).reshape(4, 6) / 8) * grid).sum().backward()
        grads.append(lif.constants.grad)
    assert torch.equal(*grads)
    with rb.engine("numba"), pytest.raises(RuntimeError, match="no gradient of a neuron's constants"):
        lif(torch.rand(2, 2))


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


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch's own
def test_forward_mode_is_refused() -> None:
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="jvp"):
        rb.LIF()(forward_ad.make_dual(torch.rand(3, 2), torch.ones(3, 2)))


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


def test_one_engine_object_may_serve_several_threads() -> None:
    chosen, found = rb.engine("reference"), []

    def enter() -> None:
        with chosen, pytest.raises(RuntimeError, match="float64"), rb.engine("numba"):
            rb.LIF()(torch.rand(2, 2, dtype=torch.float64))
        found.append(kernels._local.settings.name)

    with rb.engine("numba"), chosen, ThreadPoolExecutor(2) as pool:
        for future in [pool.submit(enter) for _ in range(2)]:
            future.result()
    assert found == ["auto", "auto"]
    assert kernels._local.settings.name == "auto"


def test_without_numba_the_reference_runs_after_one_warning() -> None:
    code = """
import sys, warnings
sys.modules["numba"] = None
import torch, rheobase as rb
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model = rb.models.create("sew_resnet18", classes=2, in_channels=1, width=2)
    rb.readout(model(torch.rand(2, 1, 8, 8))).sum().backward()
assert [w.category for w in caught if "Numba" in str(w.message)] == [RuntimeWarning], [str(w.message) for w in caught]
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_several_threads_may_call_at_once() -> None:
    model = rb.models.create("plain_convnet", classes=2, in_channels=1, width=4)
    images = torch.rand(4, 1, 12, 12)
    model(images)
    model.eval()
    want = model(images)
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: model(images), range(16)):
            assert torch.equal(got, want)

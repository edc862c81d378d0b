"""The operators keep PyTorch's contracts: opcheck, torch.compile, torch.export, and the choice of engine."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

import rheobase as rb
from rheobase.kernels import ops


def _fire(channels: int = 3) -> rb.Fire:
    return rb.Fire(rb.CurrentNorm(channels), rb.LIF())


@pytest.mark.parametrize("keep", [True, False])
def test_opcheck(keep: bool) -> None:
    def tensor(*shape: int) -> Tensor:
        return torch.randn(shape).requires_grad_()

    x, residual, skip, state = (tensor(4, 2, 3, 5, 5), tensor(4, 2, 3, 5, 5), tensor(4, 2, 3, 5, 5), tensor(2, 3, 5, 5))
    constants, neuron, kept = rb.LIF().constants, (1, True, True), (keep, keep)
    none = (None, None, None, None, 0.0)
    norm = (tensor(3), tensor(3), torch.zeros(3), torch.ones(3), 1e-5)
    torch.library.opcheck(ops.fire, (x, None, state, constants, *none, *neuron, *kept, None))
    torch.library.opcheck(ops.fire, (x, residual, None, constants, *norm, *neuron, *kept, skip))
    torch.library.opcheck(ops.norm_fire, (x, residual, state, constants, *norm, *neuron, *kept, skip, 0.1))
    drive = residual if keep else None
    inputs = (x, None, drive, x, None if keep else residual, state, constants, *norm, *neuron, drive, True, True)
    found = [value.detach() if isinstance(value, Tensor) else value for value in inputs]
    torch.library.opcheck(ops.fire_backward, tuple(found))


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

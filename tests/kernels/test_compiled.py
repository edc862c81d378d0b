"""What the compiled kernels are: vectorised, kept on disk, run on any threads."""

import errno
import logging
import os
import re
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
from numba import types
from torch.utils.checkpoint import checkpoint

import rheobase as rb
from rheobase.kernels.numba import bytewise, neuron, norm, packing, threads, walk
from rheobase.kernels.numba.jit import Job, Kernel, f32, i16
from rheobase.kernels.numba.rows import RESETS, SURROGATES

NOTHING = (False,) * 5  # no number is learned
ALL_OF_LIF = (True, True, True, False, False)


def forward(element: type, reset: int = 0, cuba: bool = False, adaptive: bool = False, rows: bool = False) -> Kernel:
    return neuron.forward(element, reset, cuba, adaptive, rows)


def backward(
    element: type,
    kind: int = 1,
    reset: int = 0,
    cuba: bool = False,
    adaptive: bool = False,
    rows: bool = False,
    learned: tuple[bool, ...] = NOTHING,
) -> Kernel:
    return neuron.backward(element, kind, reset, cuba, adaptive, False, rows, True, learned, False)


def code(kernel: Kernel) -> str:
    """LLVM's, after it has optimised."""
    signature = types.void(types.CPointer(numba.from_dtype(np.dtype(Job))))
    return numba.cfunc(signature, error_model="numpy")(kernel._body).inspect_llvm()


@pytest.mark.parametrize("element", [f32, i16])
@pytest.mark.parametrize(
    ("build", "vectors"),
    [
        (forward, ["fcmp .*<N x float>", "select <N x i1>"]),
        (backward, ["fdiv .*<N x float>", "fcmp .*<N x float>"]),
        (norm.moments, ["fpext <N x float>|bitcast <N x i32>", "fadd .*<N x double>|call .*<N x double> @llvm.fm"]),
        (norm.norm_backward, ["fadd .*<N x float>|call .*<N x float> @llvm.fm"]),
        (bytewise.pack, ["fptoui <N x float>"]),
        (bytewise.unpack, ["uitofp .*<N x i8>"]),
    ],
    ids=["forward", "backward", "moments", "norm_backward", "pack", "unpack"],
)
def test_inner_loops_are_vectorised(build: Callable[[type], Kernel], vectors: list[str], element: type) -> None:
    found = code(build(element))
    for vector in vectors:
        assert re.search(vector.replace("N", r"\d+"), found), vector


def vector_lines(kernel: Kernel) -> int:
    found = code(kernel)
    assert "@expf" not in found  # a call for each number
    return sum(bool(re.search(r"f(mul|div|add|sub) .*<\d+ x float>", line)) for line in found.splitlines())


@pytest.mark.parametrize("kind", range(len(SURROGATES)), ids=SURROGATES)
def test_every_surrogate_is_vectorised(kind: int) -> None:
    assert vector_lines(backward(f32, kind)) > 8


@pytest.mark.parametrize(
    "options",
    [
        {"reset": RESETS.index("delayed")},
        {"cuba": True, "rows": True},
        {"adaptive": True, "reset": RESETS.index("hard")},
        {"rows": True, "learned": ALL_OF_LIF},
    ],
    ids=str,
)
def test_other_neurons_are_vectorised(options: dict) -> None:
    assert vector_lines(backward(f32, **options)) > 8
    options.pop("learned", None)
    assert vector_lines(forward(f32, **options)) > 3


def results(packed: bool = False) -> list[torch.Tensor]:
    torch.manual_seed(0)
    model = rb.models.create("sew_resnet18", classes=3, in_channels=1, steps=3, width=6)
    images = torch.rand(5, 1, 9, 7)
    with rb.engine("numba", packed=packed):
        logits = model(images)
    logits.square().sum().backward()
    return [logits.detach(), *(p.grad for p in model.parameters())]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 2, 5, 7, 3), (4, 1, 70, 9, 5), (2, 3, 16)])
def test_writing_past_the_caches_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    found = []
    for large in (1, 1 << 40):
        monkeypatch.setattr(walk, "LARGE", large)
        walk._walk.cache_clear()
        fire = rb.Fire(rb.CurrentNorm(shape[2]), rb.LIF())
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
        with rb.engine("numba"):
            spikes = fire(x)
        spikes.backward(x.detach().flip(0))
        found.append([spikes.detach(), x.grad, fire.norm.weight.grad])
    walk._walk.cache_clear()
    assert same(*found)


def test_without_openmp_kernels_run_on_threads_of_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "LEAST", 50)
    walk._walk.cache_clear()
    want = results()
    start = threads._python()
    monkeypatch.setattr(threads, "_start", lambda: start)
    assert same(results(), want)
    walk._walk.cache_clear()


def test_kernels_run_on_the_threads_of_torch() -> None:
    if "GNU" not in torch.__config__.parallel_info() and "OpenMP" not in torch.__config__.parallel_info():
        pytest.skip("this torch has no OpenMP")
    if sys.platform == "linux":
        assert threads._openmp() is not None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packing_is_exact_or_not_done(dtype: torch.dtype) -> None:
    numbers = torch.randint(0, 256, (6, 3, 17, 11), generator=torch.Generator().manual_seed(0)).to(dtype)
    for x in (numbers, numbers.contiguous(memory_format=torch.channels_last), numbers[:, :, :1, :1].contiguous()):
        packed = packing.pack(x)
        assert packed is not None
        assert packed.values.element_size() == 1
        assert torch.equal(packing.unpack(packed), x)
        assert packing.unpack(packed).stride() == x.stride()
    for wrong in (-1.0, 256.0, 0.5, float("nan"), float("inf")):
        x = numbers.clone()
        x[-1, -1, -1, -1] = wrong
        assert packing.pack(x) is None, wrong
    assert packing.pack(numbers[..., ::2]) is None
    assert packing.pack(numbers[:0]) is None


def test_packed_spikes_give_the_same_gradients() -> None:
    assert same(results(packed=True), results())


def test_packed_spikes_are_what_autograd_keeps() -> None:
    memory = np.ones((2, 4, 2, 8, 8), np.float32)
    conv, spikes = rb.PerStep(torch.nn.Conv2d(2, 3, 3)), torch.from_numpy(memory)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.dtype) or x, lambda x: x):
        conv(spikes)
    assert torch.float32 in kept
    with rb.engine(packed=True):
        y = conv(spikes)
    saved = y.grad_fn.next_functions[0][0]
    assert torch.equal(saved._saved_input, spikes.flatten(0, 1))
    assert isinstance(saved._raw_saved_input.data, packing.Packed)
    alive = weakref.ref(memory)
    del memory, spikes
    assert alive() is None  # what they were packed from is free


def test_packing_still_sees_a_change_in_place() -> None:
    conv, x = rb.PerStep(torch.nn.Conv2d(2, 3, 3)), torch.ones(2, 4, 2, 8, 8, requires_grad=True)
    with rb.engine(packed=True):
        y = conv(x).sum()
    with torch.no_grad():
        conv.module.weight.zero_()
    with pytest.raises(RuntimeError, match=r"\[3, 2, 3, 3\] needed for the backward pass was modified by an inplace"):
        y.backward()


def test_packing_leaves_checkpointing_its_own() -> None:
    conv, x = rb.PerStep(torch.nn.Conv2d(2, 3, 3)), torch.ones(2, 4, 2, 8, 8, requires_grad=True)
    grads = []
    for packed in (False, True):
        x.grad = None
        with rb.engine(packed=packed):
            y = checkpoint(conv, x, use_reentrant=False)
        y.square().sum().backward()
        grads.append(x.grad)
    assert torch.equal(*grads)


def test_kernels_are_kept_on_disk_for_other_processes(tmp_path) -> None:
    program = """
import torch, rheobase as rb
from rheobase.kernels.numba import neuron
fire = rb.Fire(rb.CurrentNorm(3), rb.LIF())
fire(torch.rand(2, 2, 3)).sum().backward()
print(neuron.forward(neuron.f32, 0, False, False, False)._compiled._cache_hits)
"""
    environment = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-W", "ignore", "-c", program]
    several = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait() for process in several] == [0, 0]
    assert subprocess.run(command, env=environment, check=True, capture_output=True).stdout.strip() == b"1"


def test_kernels_work_where_nothing_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [])
    kernel = bytewise.pack.__wrapped__(f32)
    assert kernel.address
    assert not kernel._compiled._cache_hits


def test_kernels_work_where_the_disk_is_full(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.save", full)
    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.load", lambda *_: None)
    with caplog.at_level(logging.WARNING, "rheobase"):
        assert bytewise.pack.__wrapped__(f32).address
    assert "No space left on device" in caplog.text


def test_work_that_was_not_done_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand(3, 2, 4)
    rb.LIF()(x)
    monkeypatch.setattr(threads, "_start", lambda: lambda kernel, job, count: None)
    with pytest.raises(RuntimeError, match="did 0 of 1 pieces"):
        rb.LIF()(x)


@pytest.mark.parametrize("shape", [(1_000_000, 1), (1000, 4, 1024, 2, 2), (10, 32, 1024)], ids=str)
def test_what_a_thread_works_in_stays_small(shape: tuple[int, ...]) -> None:
    """At most a few times what one neuron keeps over time, or what stays in the second cache."""
    x = torch.empty(shape).movedim(2, -1).contiguous().movedim(-1, 2) if len(shape) == 5 else torch.empty(shape)
    room = walk.walk(x, channels=len(shape) > 2, arrays=1).room
    assert 4 * room < max(2 << 20, 4 * 4 * shape[0])

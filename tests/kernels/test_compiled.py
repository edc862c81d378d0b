"""What the compiled kernels are: vectorised, kept on disk, run on any threads, within little memory."""

import errno
import logging
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
import torch
from numba import types
from torch.utils._python_dispatch import TorchDispatchMode

import rheobase as rb
from rheobase.kernels.numba import engine, norm, threads
from rheobase.kernels.numba.jit import Job, Kernel, f32, i16

from .cases import CASES, CHANNELS, DEFAULT, NEURONS, SURROGATES, Case, assert_fires, grid, leaf, on_threads, walked


def code(kernel: Kernel) -> str:
    """LLVM's, after it has optimised."""
    if kernel.address and not kernel._compiled._cache_hits:
        return kernel._compiled.inspect_llvm()
    signature = types.void(types.CPointer(numba.from_dtype(np.dtype(Job))))
    return numba.cfunc(signature, error_model="numpy")(kernel._body).inspect_llvm()


def vectors(found: str, *patterns: str) -> None:
    for pattern in patterns:
        assert re.search(pattern.replace("N", r"\d+"), found), pattern


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Kernel, Job]]:
    """The kernels that run, and their jobs."""
    seen, run = [], threads.work_off

    def spy(kernel: Kernel, job: Job) -> None:
        seen.append((kernel, job))
        run(kernel, job)

    monkeypatch.setattr(threads, "work_off", spy)
    return seen


def ran(case: Case, used: list[tuple[Kernel, Job]], dtype: torch.dtype = torch.float32) -> list[Kernel]:
    """The kernels of a neuron, forward and backward."""
    neuron, x = case.neuron((4, 3, 6, 5)), leaf(grid(4, 3, 6, 5).to(dtype))
    used.clear()
    with rb.engine("numba"):
        neuron(x).sum().backward()
    return [kernel for kernel, _ in used]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_neuron_is_vectorised(used: list, dtype: torch.dtype) -> None:
    forward, backward = ran(DEFAULT, used, dtype)
    vectors(code(forward), "fcmp .*<N x float>", "select <N x i1>")
    vectors(code(backward), "fdiv .*<N x float>", "fcmp .*<N x float>")


CURVES = {
    "SuperSpike": "fdiv .*<N x float>",
    "ATan": "fdiv .*<N x float>",
    "Sigmoid": r"<N x float> @llvm.floor.vN",
    "Triangle": r"<N x float> @llvm.fabs.vN",
    "Rectangle": r"<N x float> @llvm.fabs.vN",
    "Gaussian": r"<N x float> @llvm.floor.vN",
}


CHOSEN = {name: [case for case in CASES if case.surrogate.name == name and case.each != "one"][-1] for name in CURVES}


@pytest.mark.parametrize("name", CURVES)
def test_every_surrogate_is_vectorised(used: list, name: str) -> None:
    """In cases where numbers are rows, too, and learned."""
    case = CHOSEN[name]
    forward, backward = (code(kernel) for kernel in ran(case, used))
    vectors(forward, "fcmp .*<N x float>", "select <N x i1>", "fmul .*<N x float>")
    vectors(backward, CURVES[name])
    rows, rest = (
        len(re.findall(rf"f(?:mul|div|add|sub) [a-z ]*{of}", backward)) for of in (r"<\d+ x float>", "float ")
    )
    assert rows >= rest > 0  # each operation once in a vector, and once for what is left of a row
    assert rows > 8 + 4 * len(case.learned())
    for found in (forward, backward):
        assert not re.search(r"@(expf?|floorf?|llvm\.exp\.f32)\b", found)  # a call for each number
        assert not re.search(r"@NRT_\w*[aA]lloc", found)  # a kernel allocates nothing


def test_those_cases_are_of_every_sort() -> None:
    assert {case.kind for case in CHOSEN.values()} == {"LIF", "CubaLIF", "AdaptiveLIF"}
    assert len({case.learn for case in CHOSEN.values()}) > 2
    assert set(CURVES) == {s.name for s in SURROGATES}


@pytest.mark.parametrize("element", [f32, i16])
def test_norms_are_vectorised(element: type) -> None:
    adds = "fadd .*<N x float>|call .*<N x float> @llvm.fm"
    vectors(code(norm.norm_backward(element)), adds)
    sums = ("fpext <N x float>|bitcast <N x i32>", "fadd .*<N x double>|call .*<N x double> @llvm.fm")
    vectors(code(norm.moments(element)), *sums)


def results() -> list[torch.Tensor]:
    torch.manual_seed(0)
    neuron = DEFAULT.neuron((3, 5, 6))
    net = torch.nn.Sequential(
        *(rb.PerStep(torch.nn.Conv2d(1, 6, 3)), rb.Fire(rb.CurrentNorm(6), neuron)),
        *(
            rb.PerStep(torch.nn.Conv2d(6, 6, 3)),
            rb.Fire(rb.CurrentNorm(6), neuron),
            rb.PerStep(torch.nn.Conv2d(6, 2, 3)),
        ),
    )
    with rb.engine("numba"):
        spikes = net[:4](torch.rand(3, 5, 1, 19, 17))
        outputs = net[4](spikes)
    assert_fires(spikes)
    outputs.square().sum().backward()
    return [outputs.detach(), *(p.grad for p in net.parameters())]


def same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# Threads


def test_without_openmp_kernels_run_on_threads_of_python(monkeypatch: pytest.MonkeyPatch) -> None:
    with walked(LEAST=50), on_threads(3):
        want = results()
        start = threads._python()
        monkeypatch.setattr(threads, "_start", lambda: start)
        assert same(results(), want)


def test_kernels_run_on_the_threads_of_torch() -> None:
    if "OpenMP" not in torch.__config__.parallel_info():
        pytest.skip("this torch has no OpenMP")
    if sys.platform == "linux":
        assert threads._openmp() is not None


def test_kernels_that_wait_run_in_order_and_are_dropped_where_something_is_raised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[Any] = []
    monkeypatch.setattr(threads, "work_off", lambda kernel, job: done.append(kernel))
    with threads.queue():
        threads.run(1, None, lambda: done.append("after 1"))
        assert done == []
        with threads.queue():
            threads.run(2, None)
        assert done == [1, "after 1", 2]
        threads.run(3, None)
    assert done[3:] == [3]
    with pytest.raises(KeyError), threads.queue():
        threads.run(4, None)
        raise KeyError
    threads.run(5, None)
    assert done[4:] == [5]


class Watching(TorchDispatchMode):
    """Looks at what each operator gives at once."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func.namespace == "rheobase":
            self.seen.append([t.clone() for t in (found if isinstance(found, tuple) else (found,))])
        return found


def test_who_looks_on_sees_what_is_done() -> None:
    fire, x = rb.Fire(rb.CurrentNorm(6), rb.LIF()), torch.rand(3, 5, 6, 7, 4, requires_grad=True)
    with Watching() as mode:
        mode.seen = []
        spikes = fire(x)
        spikes.square().sum().backward()
    assert_fires(spikes)
    (mean, _), (fired, *_), (_, *_), (grad,) = mode.seen
    torch.testing.assert_close(mean, x.detach().double().mean((0, 1, 3, 4)))
    assert torch.equal(fired, spikes)
    assert torch.equal(grad, x.grad)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.detach().clone()) or t, lambda t: t):
        drive = rb.Fire(fire.norm, fire.neuron, drive=True)(x)[1]
    assert any(torch.equal(t, mean) for t in saved)
    assert any(torch.equal(t, drive) for t in saved)


@pytest.mark.parametrize("start", [threads._openmp, threads._python])
def test_a_kernel_that_stops_early_raises(monkeypatch: pytest.MonkeyPatch, start: Any) -> None:
    monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [])  # it is not worth keeping

    def body(address: Any) -> None:
        return

    if start() is None:
        pytest.skip("this torch has no OpenMP")
    monkeypatch.setattr(threads, "_start", start)
    job = Job(pieces=3, room=16)
    with on_threads(3), pytest.raises(RuntimeError, match="did 0 of 3 pieces of its work"):
        threads.work_off(Kernel(body, "stops"), job)
    assert job.entered == 0
    with pytest.raises(RuntimeError, match="did 0 of 2 pieces"):  # wherever it is called
        monkeypatch.setattr(norm, "moments", lambda element: Kernel(body, "stops"))
        engine.moments(torch.ones(1, 70000, 1))


# On disk


def elsewhere(program: str, **environment: str) -> subprocess.Popen[bytes]:
    """Another process that runs a program, which finds `cases` and `ran`."""
    start = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import torch, rheobase as rb
from cases import CHANNELS, DEFAULT, NEURONS, grid, leaf
from rheobase.kernels.numba import engine, norm, threads
from rheobase.kernels.numba.jit import f32
"""
    command = [sys.executable, "-W", "ignore", "-c", start + program]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)


def test_kernels_are_kept_on_disk_for_other_processes(used: list) -> None:
    """Those of every sort: closed over choices of their own, which must be the same things to every process."""
    for case in (DEFAULT, CHANNELS, NEURONS):
        ran(case, used)
    program = """
kernels, run = [], threads.work_off
threads.work_off = lambda kernel, job: (kernels.append(kernel), run(kernel, job))
for case in (DEFAULT, CHANNELS, NEURONS):
    case.neuron((4, 3, 6, 5))(leaf(grid(4, 3, 6, 5))).sum().backward()
print(*(kernel._compiled._cache_hits for kernel in kernels))
"""
    process = elsewhere(program)
    assert process.communicate()[0].split() == [b"1"] * 6


def test_several_processes_may_compile_at_once(tmp_path: Path) -> None:
    program = "engine.moments(torch.ones(1, 9, 1)); print(norm.moments(f32)._compiled._cache_hits)"
    several = [elsewhere(program, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2)]
    assert all(process.communicate()[0].strip() in (b"0", b"1") for process in several)
    assert [process.wait() for process in several] == [0, 0]
    (index,) = tmp_path.rglob("*moments*.nbi")
    before = index.read_bytes()
    assert elsewhere(program, NUMBA_CACHE_DIR=str(tmp_path)).communicate()[0].strip() == b"1"
    assert index.read_bytes() == before


def full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("trouble", ["no folder that can be written", "no room in it"])
def test_kernels_work_where_nothing_can_be_written(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path, trouble: str
) -> None:
    if trouble == "no room in it":
        monkeypatch.setattr("numba.core.config.CACHE_DIR", str(tmp_path))
        monkeypatch.setattr("numba.core.caching.IndexDataCacheFile.save", full)
    else:
        monkeypatch.setattr("numba.core.caching.CacheImpl._locator_classes", [])
    kernel = norm.moments.__wrapped__(f32)
    monkeypatch.setattr(norm, "moments", lambda element: kernel)
    with caplog.at_level(logging.WARNING, logger="rheobase"):
        mean, _ = engine.moments(torch.tensor([[[1.0], [3.0]]]))
    assert mean == 2
    assert not kernel._compiled._cache_hits
    (said,) = [record.getMessage() for record in caplog.records if record.name == "rheobase"]
    assert "kernels cannot be kept on disk" in said
    assert {"no room in it": "No space left on device"}.get(trouble, "cannot cache") in said


def test_what_else_goes_wrong_in_compiling_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("LLVM is out of order")

    kernel = norm.moments.__wrapped__(f32)
    with monkeypatch.context() as patched:
        patched.setattr(numba, "cfunc", broken)
        with pytest.raises(RuntimeError, match="LLVM is out of order"):
            kernel.address  # noqa: B018
    assert kernel.address  # and the next time it may go well


# Memory


@pytest.mark.parametrize("case", [DEFAULT, CHANNELS, NEURONS], ids=str)
@pytest.mark.parametrize("shape", [(1000, 1, 1024, 1), (1000, 2, 1024, 2, 2), (1000, 1, 16, 8, 8)], ids=str)
def test_scratch_memory_of_many_steps(used: list, case: Case, shape: tuple[int, ...]) -> None:
    x = torch.zeros(shape[0], shape[1], *shape[3:], shape[2]).movedim(-1, 2)  # channels-last
    assert x.stride(2) == 1
    neuron = case.neuron(shape)
    with rb.engine("numba"):
        neuron(x.requires_grad_()).sum().backward()
    assert len(used) == 2
    for _, job in used:
        assert job.room < 2 << 20


def test_scratch_that_is_kept_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    want = results()
    monkeypatch.setattr(threads, "KEPT", 0)
    assert same(results(), want)
    with ThreadPoolExecutor(1) as pool:  # whoever runs a kernel has its own
        found = pool.submit(lambda: threads._local.scratch).result()
    assert found != threads._local.scratch
    assert found % 64 == threads._local.scratch % 64 == 0


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="Linux counts the most that was held")
def test_memory_of_one_neuron_over_a_million_steps() -> None:
    program = """
import pathlib, re, torch, rheobase as rb
def held(name):
    return int(re.search(name + r":\\s+(\\d+) kB", pathlib.Path("/proc/self/status").read_text())[1]) * 1024
torch.set_num_threads(1)
lif = rb.LIF(surrogate=rb.surrogate.ATan(2.0, height=1.5))
grad = torch.ones(1_000_000, 1, 1)
for steps in (10, 1_000_000):  # the first compiles
    x = torch.rand(steps, 1, 1).mul_(2).requires_grad_()
    with rb.engine("numba"):
        spikes = lif(x)
    before = held("VmRSS")
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # begin to count anew
    spikes.backward(grad[:steps])
    most = held("VmHWM") - before
assert 0.1 < spikes.mean() < 0.9
print(most / (4 * steps))
"""
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, capture_output=True).stdout
    assert 1 < float(found) < 8

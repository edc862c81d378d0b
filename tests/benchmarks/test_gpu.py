"""The command for a GPU, on the CPU: it runs, it finds what is wrong, and nothing of it is left on another device."""

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import rheobase as rb
from benchmarks import device as devices
from benchmarks.gpu import __main__ as command
from benchmarks.gpu import behaviour, parity, timings
from benchmarks.gpu.checks import attempt, distance, farthest
from benchmarks.network_workloads import TWIN, training_step
from rheobase.kernels import registry

CPU, META = torch.device("cpu"), torch.device("meta")


@pytest.fixture(autouse=True)
def as_few_shapes_and_threads_as_can_be():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_it_runs_and_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "gpu.json"
    assert command.main(["--device", "cpu", "--quick", "--repeats", "1", "--json", str(path)]) == 0
    record = json.loads(path.read_text())
    assert record["command"][:4] == ["python", "-m", "benchmarks.gpu", "--device"]
    assert record["engines"] == ["numba", "reference"]
    assert record["device"] == {"type": "cpu"}
    assert {"commit", "date", "machine", "versions", "settings"} <= record.keys()
    assert not record["failed"]
    checks = [check for check in record["checks"] if check["part"] == "parity"]
    for what in ("LIF, soft", "Recurrent", "one's own", "Integrator", "norm, residual", "compiled", "sew_resnet18"):
        assert any(what in check["name"] and check["holds"] for check in checks), what
    assert {check["dtype"] for check in checks if check["holds"]} == {"float64", "float32", "bfloat16"}
    cannot = [check for check in checks if check["holds"] is None]
    assert all("it takes float32 and bfloat16" in check["seen"] for check in cannot)
    assert {check["name"] for check in record["checks"] if check["part"] == "behaviour"} == set(behaviour.CLAIMS)
    for table in record["tables"]:
        rows = {row["name"]: row for row in table["rows"]}
        if table["workload"] == "batches":
            assert table["items"] in (32, 4)
            continue
        assert table["reference"] == "engine numba"
        assert len(rows["engine reference"]["samples"]) == 1
        if table["workload"] == "networks":
            assert len(rows[TWIN]["samples"]) == 1
    assert {table["workload"] for table in record["tables"]} == {"layers", "networks", "batches"}
    out = capsys.readouterr().out
    assert "parity: " in out
    assert "checks hold" in out


def test_a_wrong_gradient_is_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    formula = rb.surrogate.ATan.formula
    monkeypatch.setattr(rb.surrogate.ATan, "formula", staticmethod(lambda x, p: 1.001 * formula(x, p)))
    assert command.main(["--device", "cpu", "--quick", "--only", "parity"]) == 1
    out = capsys.readouterr().out
    assert "FAILED LIF, soft, a number for one, learned, float32, engine numba: the gradient of" in out


def test_distances() -> None:
    a, b = torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])
    assert distance(b, a) == pytest.approx(0.1)
    assert distance(a * float("nan"), a) == distance(a[:1], a) == float("inf")
    assert farthest({"x": a, "y": b}, {"x": a, "y": a}) == (pytest.approx(0.1), "y")
    check = attempt("none is two", lambda: pytest.fail("no") if None else (_ for _ in ()).throw(KeyError("two")))
    assert (check.holds, check.seen) == (False, "KeyError: 'two'")


def test_currents_are_chosen_such_that_roundings_do_not_show() -> None:
    """A potential that a move of the currents takes over its threshold: that seed is not taken."""
    subject = next(parity.subjects(quick=True))
    shapes = iter([0, 1])
    chosen = parity.seed_for(subject, torch.Tensor.contiguous)

    def run(module: torch.nn.Module, draw: parity.Draw) -> dict[str, torch.Tensor]:
        found = subject.run(module, draw)
        if next(shapes, 2) < 2:  # of the first seed, moved up and as it is
            found["outputs"] = found["outputs"] + draw.leaves["currents"].detach().mean()
        return found

    assert parity.seed_for(subject._replace(run=run), torch.Tensor.contiguous) > chosen


# (torch knows nothing of autocast on meta, which a recurrent neuron asks for)
SUBJECTS = [subject for subject in parity.subjects(quick=False) if "Recurrent" not in subject.name]


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda subject: subject.name)
def test_nothing_is_left_on_the_cpu(subject: parity.Subject) -> None:
    """The meta device refuses tensors of another one, and numbers that are read back."""
    module = subject.make().to(META)
    draw = parity.Draw(META, torch.float32, 0, 0.0, torch.Tensor.contiguous)
    outputs = subject.run(module, draw)
    sum((value * draw.weights(value)).sum() for value in outputs.values()).backward()
    assert all(leaf.grad.is_meta for leaf in draw.leaves.values())
    assert all(p.grad.is_meta for p in module.parameters())


@pytest.mark.parametrize("spiking", [True, False])
def test_a_training_step_is_all_on_the_device(spiking: bool) -> None:
    training_step("sew_resnet50", spiking, 2, 2, 4, device=META)()
    training_step("ms_resnet18", spiking, 2, 2, 4, device=META, size=128)()


def test_a_layer_is_all_on_the_device() -> None:
    x, grad = torch.randn(4, 2, 5, device=META).requires_grad_(), torch.randn(4, 2, 5, device=META)
    timings._layer("reference", x, grad)()
    assert x.grad is not None


def test_engines_come_from_the_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.engines(torch.device("cuda")) == ["reference"]
    triton = registry.by_name("numba").__class__("triton", ("cuda",), *[lambda *_: None] * 5)
    monkeypatch.setattr(registry, "NAMES", (*registry.NAMES, "triton", "broken"))
    monkeypatch.setattr(registry, "_found", {**registry._found, "triton": triton, "broken": "it is not installed"})
    assert devices.engines(torch.device("cuda")) == ["triton", "reference"]
    assert devices.engines(CPU) == ["numba", "reference"]


def test_a_gpus_own_clock_and_memory_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            seen.append("record")

        def synchronize(self) -> None:
            seen.append("wait")

        def elapsed_time(self, end: "Event") -> float:
            return 1500.0  # ms

    cuda = SimpleNamespace(
        Event=Event,
        synchronize=lambda: seen.append("synchronize"),
        empty_cache=lambda: seen.append("empty"),
        memory_allocated=lambda: 1 << 20,
        reset_peak_memory_stats=lambda: seen.append("reset"),
        max_memory_allocated=lambda: 5 << 20,
    )
    monkeypatch.setattr(devices.torch, "cuda", cuda)
    call = partial(seen.append, "call")
    assert devices.clock(torch.device("cuda"))(call, 2) == 1.5
    assert seen == ["synchronize", "record", "call", "call", "record", "wait"]
    seen.clear()
    assert devices.peak(torch.device("cuda"), lambda: call) == 4
    assert seen == ["empty", "call", "reset", "call", "synchronize"]


def test_a_case_that_cannot_run_says_why() -> None:
    def setup():
        raise torch.OutOfMemoryError("CUDA out of memory.\n Tried to allocate")

    cases = [timings.Case("large", setup), timings.Case("small", lambda: lambda: None)]
    table = timings.table("t", cases, CPU, 2)
    assert [(row.name, len(row.samples)) for row in table.rows] == [("small", 2), ("large", 0)]
    assert table.rows[1].why_not == "OutOfMemoryError: CUDA out of memory. Tried to allocate"


def test_float32_is_rounded_as_said(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    for tf32 in (False, True):
        with devices.rounding("cuda", tf32):
            assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 == tf32
            torch.get_float32_matmul_precision()  # which the compiler reads, and the newer switches would break
    assert (torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32) == before


def test_without_a_gpu_it_says_so() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(SystemExit, match="torch sees no GPU; --device cpu"):
        command.main([])

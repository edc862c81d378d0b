"""The instrument: statistics by hand, JSON, every workload runs; and the engine stays faster than a plain loop."""

import json
import math
import time
from functools import partial
from pathlib import Path

import pytest
import torch

import rheobase as rb
from benchmarks import layer_workloads, memory, rivals
from benchmarks.__main__ import main
from benchmarks.harness import Case, Row, Table, measure
from benchmarks.layer_workloads import backward
from benchmarks.memory import peak
from benchmarks.workloads import WORKLOADS


def test_statistics_by_hand() -> None:
    table = Table("t", [Row("a", [2.0, 4.0, 9.0]), Row("b", [1.0, 4.0, 3.0]), Row("c", why_not="not here")])
    assert table.rows[0].median == 4
    assert table.rows[0].quartiles == (3, 6.5)
    assert table.ratio(table.rows[1]) == 2  # of 2, 1, 3; the ratio of medians would be 4/3
    assert Row("one", [5.0]).quartiles == (5, 5)
    about = table.to_dict()
    assert about["reference"] == "a"
    assert about["rows"][1] == {
        "name": "b",
        "min": 1,
        "median": 3,
        "quartiles": (2, 3.5),
        "reference_over_this": 2,
        "peak_mib": None,
        "why_not": "",
        "samples": [1, 4, 3],
    }
    assert about["rows"][2] == {"name": "c", "peak_mib": None, "why_not": "not here", "samples": []}


def test_cases_take_turns() -> None:
    seen = []
    cases = [Case(name, lambda n=name: lambda: seen.append(n)) for name in "ab"]
    table = measure("t", [*cases, Case("c", None, "cannot")], repeats=3, warmup=2)
    assert "".join(seen) == "abab" + "ababab"
    assert [len(row.samples) for row in table.rows] == [3, 3, 0]
    seen.clear()
    measure("t", [Case("c", lambda: lambda: (seen.append("c"), time.sleep(0.002)))], repeats=1, warmup=1, least=0.1)
    assert 3 <= len(seen) <= 51  # one call to learn how long it takes, and as many as fill the sample
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        measure("t", cases, repeats=0)
    with pytest.raises(ValueError, match="'t': the first case is what others are compared with, and it cannot run"):
        measure("t", [Case("c", None, "cannot"), *cases], repeats=1)


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is known on Linux only")
def test_peak_counts_what_the_case_adds_to_the_small_one() -> None:
    found = peak(partial(partial, bytearray, 60 << 20), partial(partial, bytearray, 150 << 20))
    if found is None:
        pytest.skip("this kernel does not let a process reset its peak")
    assert 55 < found < 80
    with pytest.raises(RuntimeError, match="MemoryError"):
        peak(partial(partial, bytearray, 1 << 62), partial(partial, bytearray, 1))


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is known on Linux only")
def test_the_peak_of_a_layer_is_what_it_keeps_and_makes() -> None:
    x = torch.randn(10, 8, 1 << 16)  # 20 MiB
    setup = partial(backward, rb.LIF, x=x.requires_grad_(), grad=torch.randn(x.shape))
    cases = [Case("rheobase", setup), Case("copy", partial(layer_workloads.copies, x))]
    table = Table("t", [Row(case.name) for case in cases])
    memory.add_peaks(table, cases, layer_workloads._tiny)
    if table.rows[0].peak_mib is None:
        pytest.skip("this kernel does not let a process reset its peak")
    assert 38 < table.rows[0].peak_mib < 55, "spikes and the gradient of the currents, no copy of either"
    assert table.rows[1].peak_mib is None


def test_a_rival_must_be_the_same_neuron() -> None:
    def missing() -> rivals.Layer:
        raise ImportError("no such package")

    neuron = rivals.Neuron(
        "LIF",
        rb.LIF,
        {
            "same": rb.LIF,
            "leaks less": lambda: rb.LIF(decay=0.6),
            "through its reset": lambda: rb.LIF(detach_reset=False),
            "missing": missing,
            "other": "it is another",
        },
    )
    found = {name: (build is not None, why_not) for name, build, why_not in rivals.builds(neuron)}
    assert found == {
        "same": (True, ""),
        "leaks less": (False, "its spikes differ from ours: it is not the same neuron"),
        "through its reset": (False, "its input gradients differ from ours: it is not the same neuron"),
        "missing": (False, "not installed: no such package"),
        "other": (False, "it is another"),
    }


FIRST = {
    "first": "kernels to compile",
    "health": "training step",
    "rules": "surrogate",
    "rule_steps": "surrogate",
    "shares": "rheobase: convolutions",
    "loader": "a step that takes 50 images/s",
    "checkpoint": "write, as a run does",
}


def test_every_workload_runs_and_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "peak", lambda setup, warm: 7.0)  # processes of their own: seconds
    path = tmp_path / "bench.json"
    monkeypatch.chdir(tmp_path)  # where the checkpoint is written
    arguments = ["--quick", "--repeats", "1", "--need", "50", "--json", str(path)]
    main(arguments)
    record = json.loads(path.read_text())
    assert {table["workload"] for table in record["tables"]} == set(WORKLOADS)
    assert record["command"] == ["python", "-m", "benchmarks", *arguments]
    assert record["machine"]["threads"] == torch.get_num_threads()
    assert {"cpu", "cores", "memory_mib", "caches"} <= record["machine"].keys()
    assert {"python", "torch", "numba", "rheobase", *rivals.PACKAGES} <= record["versions"].keys()
    assert {"date", "commit", "uncommitted_changes", "settings", "load_before"} <= record.keys()
    for table in record["tables"]:
        assert table["reference"] == table["rows"][0]["name"] == FIRST.get(table["workload"], "rheobase")
        for row in table["rows"]:
            assert len(row["samples"]) == (0 if row["why_not"] else 1)
    loaded, streamed = (table for table in record["tables"] if table["workload"] == "loader")
    assert (loaded["items"], loaded["unit"], loaded["rows"][0]["median"]) == (32, "images", 32 / 50)
    assert streamed["items"] == 11
    assert any("decoded by processes: 1" in row["name"] for row in streamed["rows"])
    first_step = next(table for table in record["tables"] if table["workload"] == "step")
    assert [row["peak_mib"] for row in first_step["rows"]] == [7, 7, 7, None, None]  # the rival has no narrow one
    out = capsys.readouterr().out
    assert "torch loop" in out
    assert "images/s" in out
    assert "SpikingJelly" in out


@pytest.mark.parametrize("option", [["--repeats", "0"], ["--threads", "none"], ["--workload", "lift"]])
def test_wrong_options_are_named(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(option)
    error = capsys.readouterr().err
    assert option[0] in error
    assert option[1] in error


@pytest.mark.parametrize(("shape", "factor"), [((100, 32, 1024), 3), ((10, 32, 16384), 2)], ids=str)
def test_the_engine_is_faster_than_a_plain_loop(shape: tuple[int, ...], factor: int) -> None:
    """A ratio of best times. The bars are below what a busy machine shows (about 4 and 3); a miss gets more rounds."""
    x, grad = torch.randn(shape).requires_grad_(), torch.randn(shape)
    call, best = backward(rb.LIF, x, grad), {"numba": math.inf, "reference": math.inf}
    for number in range(80):
        for engine in best:
            with rb.engine(engine):
                start = time.perf_counter()
                call()
                best[engine] = min(best[engine], time.perf_counter() - start)
        if number >= 5 and best["reference"] > factor * best["numba"]:
            return
    pytest.fail(f"at {shape} the engine is not {factor} times as fast as a plain loop; best seconds: {best}")

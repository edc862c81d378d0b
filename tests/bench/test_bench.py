"""The instrument: statistics by hand, JSON, every workload runs; and the engine stays faster than a plain loop."""

import json
import time
from pathlib import Path

import pytest
import torch

import rheobase as rb
from rheobase import bench
from rheobase.bench.harness import Case, Row, Table, measure, peak
from rheobase.bench.workloads import WORKLOADS, backward


def test_statistics_by_hand() -> None:
    table = Table("t", [Row("a", [2.0, 4.0, 9.0]), Row("b", [1.0, 4.0, 3.0]), Row("c", why_not="not here")])
    assert table.rows[0].median == 4
    assert table.ratio(table.rows[1]) == 2  # of 2, 1, 3
    first, second, third = table.to_dict()["rows"]
    assert first["first_over_this"] == 1
    assert second["median"] == 3
    assert third == {"name": "c", "samples": [], "why_not": "not here", "peak_mib": None}


def test_cases_take_turns() -> None:
    seen = []
    cases = [Case(name, lambda n=name: lambda: seen.append(n)) for name in "ab"]
    table = measure("t", [*cases, Case("c", None, "cannot")], repeats=3, warmup=1)
    assert "".join(seen) == "ab" + "ababab"
    assert [len(row.samples) for row in table.rows] == [3, 3, 0]
    with pytest.raises(ValueError, match="repeats must be at least 1, got 0"):
        measure("t", cases, repeats=0)


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is known on Linux only")
def test_peak_counts_what_comes_after_the_mark() -> None:
    code = "before = bytearray(90 << 20)\n# measured\nafter = bytearray(50 << 20)\n"
    assert 45 < peak(code) < 70


def test_every_workload_runs_and_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "bench.json"
    bench.main(["--quick", "--repeats", "1", "--json", str(path)])
    record = json.loads(path.read_text())
    assert {table["workload"] for table in record["tables"]} == set(WORKLOADS)
    assert record["machine"]["cores"] >= 1
    for table in record["tables"]:
        assert table["rows"][0]["name"] == "rheobase"
        for row in table["rows"]:
            assert row["why_not"] or len(row["samples"]) == 1
    assert "torch loop" in capsys.readouterr().out


def test_the_engine_is_at_least_three_times_as_fast_as_a_plain_loop() -> None:
    """A ratio of best times in one run, far below what a quiet machine shows, so that a busy one passes too."""
    shape = (10, 32, 16384)
    x, grad = torch.randn(shape).requires_grad_(), torch.randn(shape)
    call, best = backward(rb.LIF(), x, grad), {"numba": 9e9, "reference": 9e9}
    for _ in range(4):
        for engine in best:
            with rb.engine(engine):
                start = time.perf_counter()
                call()
                best[engine] = min(best[engine], time.perf_counter() - start)
    assert best["reference"] > 3 * best["numba"], best

"""Side by side: every case in turn, round after round, in one process, so that the machine's moods meet all alike."""

from __future__ import annotations

import dataclasses
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Case:
    """Something to time: `setup()` returns the call. `why_not` is the reason why it cannot run here."""

    name: str
    setup: Callable[[], Callable[[], object]] | None
    why_not: str = ""


@dataclass
class Row:
    """Seconds of every repeat of a case, and the peak of its memory where it was asked for."""

    name: str
    samples: list[float] = field(default_factory=list)
    why_not: str = ""
    peak_mib: float | None = None

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.samples)


@dataclass
class Table:
    """Cases of one workload; the first is what the others are compared with."""

    title: str
    rows: list[Row]

    def ratio(self, row: Row) -> float:
        """Median over rounds of the first row's time over this row's: how many times slower the first is."""
        return statistics.median(a / b for a, b in zip(self.rows[0].samples, row.samples, strict=True))

    def to_dict(self) -> dict[str, object]:
        """All samples, medians, quartiles and ratios."""
        rows = []
        for row in self.rows:
            about = dataclasses.asdict(row)
            if row.samples:
                quartiles = statistics.quantiles(row.samples, n=4) if len(row.samples) > 1 else [row.median] * 3
                about |= {"median": row.median, "quartiles": quartiles, "first_over_this": self.ratio(row)}
            rows.append(about)
        return {"title": self.title, "rows": rows}


def measure(title: str, cases: Sequence[Case], repeats: int, warmup: int = 2) -> Table:
    """Time the cases.

    Args:
        title: of the table.
        cases: the first is the reference; it must run.
        repeats: rounds.
        warmup: calls of each case that are not counted.

    Raises:
        ValueError: fewer than one repeat.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    rows = [Row(case.name, why_not=case.why_not) for case in cases]
    calls = [(row, case.setup()) for row, case in zip(rows, cases, strict=True) if case.setup is not None]
    for _, call in calls:
        for _ in range(warmup):
            call()
    for _ in range(repeats):
        for row, call in calls:
            start = time.perf_counter()
            call()
            row.samples.append(time.perf_counter() - start)
    return Table(title, rows)


def peak(code: str) -> float | None:
    """MiB that `code` adds to the peak of a fresh process: what stands before its line `# measured` is not counted.

    The peak is the kernel's (VmHWM), so it is known on Linux only; elsewhere None.
    """
    if not Path("/proc/self/status").is_file():
        return None
    before, _, after = code.partition("# measured\n")
    read = "import re;_s=lambda k: int(re.search(k+r':\\s+(\\d+)', open('/proc/self/status').read())[1])"
    program = f"{read}\n{before}\nopen('/proc/self/clear_refs','w').write('5')\n_b=_s('VmRSS')\n{after}\n"
    program += "print((_s('VmHWM')-_b)/1024)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return float(found.stdout.split()[-1])

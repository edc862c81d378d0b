"""Side by side: every case in turn, round after round, in one process, so that the machine's moods meet all alike."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

Call = Callable[[], object]
Clock = Callable[[Call, int], float]
"""Seconds that so many calls in a row take."""


def elapsed(call: Call, count: int) -> float:
    """By the clock on the wall: for calls that have done their work when they return."""
    start = time.perf_counter()
    for _ in range(count):
        call()
    return time.perf_counter() - start


@dataclass(frozen=True)
class Case:
    """Something to time: `setup()` returns the call. `why_not` is the reason why it cannot run here."""

    name: str
    setup: Callable[[], Call] | None
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

    @property
    def quartiles(self) -> tuple[float, float]:
        """A quarter of the samples is below the first, a quarter above the second."""
        if len(self.samples) < 2:
            return self.median, self.median
        low, _, high = statistics.quantiles(self.samples, n=4, method="inclusive")
        return low, high


@dataclass
class Table:
    """Cases of one workload; the first is the reference that the others are compared with."""

    title: str
    rows: list[Row]
    items: float = 0  # that a call works off, where that is worth telling: images, MB
    unit: str = ""

    @property
    def reference(self) -> Row:
        """What the others are compared with."""
        return self.rows[0]

    def ratio(self, row: Row) -> float:
        """Median over rounds of the reference's time over this row's: how many times slower the reference is."""
        return statistics.median(a / b for a, b in zip(self.reference.samples, row.samples, strict=True))

    def to_dict(self) -> dict[str, object]:
        """All samples and what follows from them."""
        rows: list[dict[str, object]] = []
        for row in self.rows:
            about: dict[str, object] = {"name": row.name}
            if row.samples:
                about |= {
                    "min": min(row.samples),
                    "median": row.median,
                    "quartiles": row.quartiles,
                    "reference_over_this": self.ratio(row),
                }
            rows.append(about | {"peak_mib": row.peak_mib, "why_not": row.why_not, "samples": row.samples})
        counted = {"items": self.items, "unit": self.unit} if self.items else {}
        return {"title": self.title, "reference": self.reference.name, **counted, "rows": rows}


def measure(
    title: str, cases: Sequence[Case], repeats: int, warmup: int = 2, least: float = 0, clock: Clock = elapsed
) -> Table:
    """Time the cases.

    Args:
        title: of the table.
        cases: the first is the reference; where it cannot run, none may.
        repeats: rounds.
        warmup: rounds before them that are not counted.
        least: seconds of a sample; where a call takes less, it is the mean of as many calls in a row as fill them.
        clock: of the device that does the work.

    Raises:
        ValueError: fewer than one repeat, or a reference that cannot run while others do.
    """
    if repeats < 1:
        raise ValueError(f"repeats must be at least 1, got {repeats}")
    if not cases or (cases[0].setup is None and any(case.setup for case in cases)):
        raise ValueError(f"{title!r}: the first case is what others are compared with, and it cannot run")
    rows = [Row(case.name, why_not=case.why_not) for case in cases]
    calls = [(row, case.setup()) for row, case in zip(rows, cases, strict=True) if case.setup is not None]
    counts = [1] * len(calls)
    for number in range(warmup + repeats):  # in turn: a case meets the memory that the others left
        for place, (row, call) in enumerate(calls):
            seconds = clock(call, counts[place]) / counts[place]
            if number < warmup:
                counts[place] = max(1, math.ceil(least / seconds))
            else:
                row.samples.append(seconds)
    return Table(title, rows)

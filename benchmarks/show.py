"""A table of measurements for a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table as Grid

from benchmarks.harness import Table


def show(table: Table, console: Console) -> None:
    """Print the rows that ran, then the reasons of those that did not."""
    console.print(table.title, style="bold")
    timed = [row for row in table.rows if row.samples]
    if timed:
        peaks = any(row.peak_mib is not None for row in timed)
        grid = Grid("", "median", "quartiles", "min", f"{table.reference.name} / this", box=None)
        if table.items:
            grid.add_column(f"{table.unit}/s")
        if peaks:
            grid.add_column("peak memory")
        for column in grid.columns[1:]:
            column.justify = "right"
        for row in timed:
            low, high = row.quartiles
            grid.add_row(
                row.name,
                f"{1e3 * row.median:.2f} ms",
                f"{1e3 * low:.2f} to {1e3 * high:.2f}",
                f"{1e3 * min(row.samples):.2f}",
                f"{table.ratio(row):.2f}",
                *([f"{table.items / row.median:.0f}"] if table.items else []),
                *([f"{row.peak_mib:.0f} MiB" if row.peak_mib is not None else "unknown"] if peaks else []),
            )
        console.print(grid)
    for row in table.rows:
        if not row.samples:
            console.print(f" {row.name}: not timed: {row.why_not}", markup=False)
    console.print()

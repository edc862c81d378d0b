"""`rheobase bench`: side-by-side timings on this machine, as a table and as JSON."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rheobase.bench.harness import Table


def main(arguments: Sequence[str]) -> None:
    """Run the workloads asked for; print each table as it is done."""
    import torch
    from rich.console import Console

    from rheobase.bench.workloads import WORKLOADS
    from rheobase.interop.weights import write_atomic
    from rheobase.training.machine import commit, machine, versions

    parser = argparse.ArgumentParser("rheobase bench", description="Side-by-side timings on this machine.")
    parser.add_argument("--workload", nargs="+", choices=WORKLOADS, default=list(WORKLOADS), help="(default: all)")
    parser.add_argument("--quick", action="store_true", help="small shapes: does it run, in less than a minute")
    parser.add_argument("--repeats", type=int, default=15, help="rounds (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    parser.add_argument("--compile", action="store_true", help="also time torch.compile of the plain loop")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples there")
    options = parser.parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    console = Console(highlight=False, soft_wrap=True)
    tables = []
    for name in options.workload:
        for table in WORKLOADS[name](options.repeats, options.quick, options.compile):
            console.print(_drawn(table), "")
            tables.append({"workload": name, **table.to_dict()})
    if options.json:
        head, changed = commit()
        settings = {key: value for key, value in os.environ.items() if key.startswith(("OMP_", "GOMP_", "MALLOC_"))}
        record = {
            "command": ["rheobase", "bench", *arguments],
            "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "commit": head,
            "uncommitted_changes": changed,
            "machine": machine(torch.device("cpu")) | {"processor": platform.processor(), "platform": sys.platform},
            "versions": versions(),
            "settings": settings,
            "tables": tables,
        }
        write_atomic(options.json, (json.dumps(record, indent=1) + "\n").encode())
        console.print(f"all samples are in {options.json}")


def _drawn(table: Table) -> Any:
    """The table for a terminal."""
    from rich import table as rich

    drawn = rich.Table(
        "", "median", "min", "rheobase / this", "peak", title=table.title, title_justify="left", box=None
    )
    for column in drawn.columns[1:]:
        column.justify = "right"
    for row in table.rows:
        if not row.samples:
            drawn.add_row(row.name, row.why_not)
            continue
        peak = "" if row.peak_mib is None else f"{row.peak_mib:.0f} MiB"
        drawn.add_row(
            row.name, f"{1e3 * row.median:.2f} ms", f"{1e3 * min(row.samples):.2f} ms", f"{table.ratio(row):.2f}", peak
        )
    return drawn

"""`python -m benchmarks`: side-by-side timings on this machine, as tables and as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str]) -> None:
    """Run the workloads asked for; print each table as it is done, and write it where asked."""
    import torch
    from rich.console import Console

    from benchmarks.record import heading
    from benchmarks.show import show
    from benchmarks.workloads import WORKLOADS
    from rheobase.files import write_atomic

    options = _options(arguments, list(WORKLOADS))
    if options.threads:
        torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    # what is piped or kept is not cut to a terminal's width
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)
    tables: list[dict[str, object]] = []
    record = {**heading(arguments), "tables": tables}
    for name in options.workload:
        more = {"need": options.need, "root": options.root} if name == "loader" else {}
        for table in WORKLOADS[name](options.repeats, options.quick, options.compile, **more):
            show(table, console)
            tables.append({"workload": name, **table.to_dict()})
            if options.json:  # after each table: a run of an hour may be stopped
                write_atomic(options.json, (json.dumps(record, indent=1) + "\n").encode())
    if options.json:
        console.print(f"all samples are in {options.json}", markup=False)


def _options(arguments: Sequence[str], workloads: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks", description="Side-by-side timings on this machine.", allow_abbrev=False
    )
    parser.add_argument("--workload", nargs="+", choices=workloads, default=workloads, help="(default: all)")
    parser.add_argument("--quick", action="store_true", help="small shapes: does it run, in less than a minute")
    parser.add_argument("--repeats", type=positive, default=15, metavar="N", help="rounds (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads (default: torch's choice)")
    parser.add_argument("--compile", action="store_true", help="also time torch.compile of the plain loop")
    parser.add_argument("--need", type=positive, metavar="N", help="loader: images/s that a training step would take")
    parser.add_argument("--root", metavar="DIR", help="loader: folder with cifar100 (default: made images)")
    return parser.parse_args(arguments)


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"wanted a whole number from 1 on, got {text!r}")
    return int(text)


if __name__ == "__main__":
    from rheobase.cli import settle

    settle()
    main(sys.argv[1:])

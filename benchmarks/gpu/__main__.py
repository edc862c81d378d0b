"""`python -m benchmarks.gpu`: is it right on this GPU, and how fast; ends with status 1 where it is not right."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from benchmarks.gpu.checks import Check

PARTS = ("parity", "behaviour", "layers", "networks", "batches")


def main(arguments: Sequence[str]) -> int:
    """Run the parts asked for, print them, write them where asked; 0 if every check holds, else 1."""
    options = _options(arguments)
    import torch
    from rich.console import Console

    from benchmarks.device import described, engines, rounding
    from benchmarks.gpu import timings
    from benchmarks.gpu.behaviour import behaviour
    from benchmarks.gpu.parity import parity
    from benchmarks.record import heading
    from benchmarks.show import show
    from rheobase.files import write_atomic

    device = torch.device(options.device)
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise SystemExit("python -m benchmarks.gpu: torch sees no GPU; --device cpu looks whether the command runs")
        device = torch.device("cuda", device.index or 0)
        torch.cuda.set_device(device)
    torch.manual_seed(0)
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)
    record: dict[str, Any] = heading(arguments, "benchmarks.gpu", device)
    record |= {"device": described(device), "engines": engines(device), "failed": [], "checks": [], "tables": []}
    console.print(f"{record['machine']['gpu'] or record['machine']['cpu']}, torch {torch.__version__}", markup=False)
    console.print(f"engines: {', '.join(record['engines'])}\n", markup=False)

    def keep() -> None:  # after each part: what comes next may break the process
        if options.json:
            write_atomic(options.json, (json.dumps(record, indent=1) + "\n").encode())

    for part in options.only:
        if part in ("parity", "behaviour"):
            with rounding(device, False):
                claims = parity(device, record["engines"], options.quick) if part == "parity" else behaviour(device)
                checks = list(claims)
            _tell(part, checks, console)
            record["checks"] += [{"part": part, **check.to_dict()} for check in checks]
            record["failed"] += [check.name for check in checks if check.holds is False]
            keep()
            continue
        if part == "layers":
            tables = timings.layers(device, options.repeats, options.quick)
        elif part == "batches":
            tables = timings.batches(device, options.repeats, options.quick)
        else:
            shapes = [timings.Shape("sew_resnet18", options.steps, options.batch, 64, 32)]
            if options.resnet50:
                shapes.append(timings.Shape("sew_resnet50", options.steps, options.resnet50, 64, 224))
            if options.quick:
                shapes = [timings.Shape("sew_resnet18", 2, 2, 4, 16)]
            tables = timings.networks(device, shapes, options.repeats, options.compile)
        for table in tables:
            show(table, console)
            record["tables"].append({"workload": part, **table.to_dict()})
            keep()
    if options.json:
        console.print(f"all samples are in {options.json}", markup=False)
    return 1 if record["failed"] else 0


def _tell(part: str, checks: Iterable[Check], console: Console) -> None:
    """How many hold, by how much; every one that does not; and why some could not be looked at."""
    checks = list(checks)
    far: dict[str, float] = {}
    for check in checks:
        if check.holds and check.distance is not None:
            far[check.dtype] = max(far.get(check.dtype, 0.0), check.distance)
    told = [f"{part}: {sum(check.holds is True for check in checks)} of {len(checks)} checks hold"]
    told += [f"in {dtype} to {distance:.1e}" for dtype, distance in far.items()]
    console.print(", ".join(told), style="bold")
    for check in checks:
        if check.holds is False:
            console.print(f" FAILED {check.name}: {check.seen}", markup=False)
        elif check.holds and check.seen and check.distance is None:
            console.print(f" {check.name}: {check.seen}", markup=False)
    for reason, count in Counter(check.seen for check in checks if check.holds is None).items():
        console.print(f" {count} could not be looked at: {reason}", markup=False)
    console.print()


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    from benchmarks.__main__ import positive

    parser = argparse.ArgumentParser(
        "python -m benchmarks.gpu",
        description="Is rheobase right on this GPU, and how fast? Status 1 if a check fails.",
        allow_abbrev=False,
    )
    parser.add_argument("--device", default="cuda", help="(default: %(default)s; cpu: does the command run)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help=" ".join(PARTS))
    parser.add_argument("--quick", action="store_true", help="few checks, small shapes")
    parser.add_argument("--repeats", type=positive, default=15, metavar="N", help="rounds (default: %(default)s)")
    parser.add_argument("--steps", type=positive, default=4, metavar="T", help="time steps (default: %(default)s)")
    parser.add_argument("--batch", type=positive, default=64, metavar="B", help="of 32 x 32 (default: %(default)s)")
    parser.add_argument("--resnet50", type=positive, metavar="B", help="also SEW-ResNet-50 on B images of 224 x 224")
    parser.add_argument("--compile", action="store_true", help="also networks under torch.compile: minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every check and sample there")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    from rheobase.cli import settle

    settle()
    sys.exit(main(sys.argv[1:]))

"""The first training step of a model in a process, with and without compiled kernels on disk."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import Row, Table

_PROGRAM = """
import sys, time, torch, rheobase as rb
model = rb.models.create(sys.argv[1], classes=10, steps=2, width=4)
images = torch.rand(2, 3, 8, 8)
with rb.engine("reference"):
    rb.readout(model(images)).sum().backward()  # whatever torch does at its own first call
start = time.perf_counter()
rb.readout(model(images)).sum().backward()
print(time.perf_counter() - start)
"""


def _seconds(name: str, folder: Path) -> float:
    command = [sys.executable, "-W", "ignore", "-c", _PROGRAM, name]
    environment = os.environ | {"NUMBA_CACHE_DIR": str(folder)}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(found.stdout.splitlines()[-1])


def first(repeats: int, quick: bool, compiled: bool) -> Iterator[Table]:
    """Seconds of the first step of a small net; everything is imported before."""
    for name in ("sew_resnet18",) if quick else ("sew_resnet18", "spiking_resnet18"):
        rows = [Row("kernels to compile"), Row("kernels on disk")]
        for _ in range(min(repeats, 5)):
            with tempfile.TemporaryDirectory() as folder:
                for row in rows:
                    row.samples.append(_seconds(name, Path(folder)))
        yield Table(f"{name}, first training step of a process", rows)

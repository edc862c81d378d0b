"""Peak memory of a case, in a process of its own: `python -m benchmarks.memory` is that process."""

from __future__ import annotations

import ctypes
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.harness import Call, Case, Table

_PROCESS = Path("/proc/self")
# glibc then asks the system for each large tensor and returns it: what is used is seen, not the holes of a kept heap
_RETURNED = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}


def peak(setup: Callable[[], Call], warm: Callable[[], Call]) -> float | None:
    """MiB that setting a case up and two calls of it add to a process that already did the small case `warm`.

    `warm` brings code and compiled kernels in, which do not count. The peak is the kernel's (VmHWM, less VmRSS before),
    so it is known on Linux only; elsewhere None. Freed memory goes back to the system there.

    Args:
        setup: of the case; a partial of a function of a module, since it goes to another process.
        warm: likewise.

    Raises:
        RuntimeError: the case failed there.
    """
    if not (_PROCESS / "clear_refs").exists():
        return None
    message = pickle.dumps((torch.get_num_threads(), setup, warm))
    command = [sys.executable, "-m", __name__]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MALLOC_")} | _RETURNED
    found = subprocess.run(command, input=message, capture_output=True, env=environment)
    if found.returncode:
        last = found.stderr.decode(errors="replace").strip().splitlines()[-1:]
        raise RuntimeError(f"peak memory of {setup}: its process ended with status {found.returncode}: {last}")
    answer: float | None = json.loads(found.stdout.splitlines()[-1])
    return answer


def add_peaks(table: Table, cases: Sequence[Case], warm: Callable[[Case], Callable[[], Call] | None]) -> None:
    """Each case's peak; `warm` gives the small one that goes before it, or None where a peak says nothing."""
    for row, case in zip(table.rows, cases, strict=True):
        small = warm(case)
        if case.setup is not None and small is not None:
            row.peak_mib = peak(case.setup, small)


def resident() -> float | None:
    """MiB of this process that are in memory now, where /proc tells."""
    return _status("VmRSS") / 1024 if (_PROCESS / "status").exists() else None


def _status(key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB", (_PROCESS / "status").read_text(), flags=re.M)
    if found is None:
        raise RuntimeError(f"{_PROCESS / 'status'} has no {key}")
    return int(found[1])


def _give_back() -> None:
    """Return freed memory to the system: what `warm` left in a heap that is kept would hide as much of the case's."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


def _measure() -> float | None:
    threads, setup, warm = pickle.load(sys.stdin.buffer)  # from `peak`, our parent
    torch.set_num_threads(threads)
    warm()()
    _give_back()
    try:
        (_PROCESS / "clear_refs").write_text("5")  # the peak so far does not count
    except OSError:
        return None
    before = _status("VmRSS")
    call = setup()
    call()
    call()
    return (_status("VmHWM") - before) / 1024


if __name__ == "__main__":
    print(json.dumps(_measure()))

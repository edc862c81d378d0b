"""What a file of measurements tells besides the measurements."""

from __future__ import annotations

import datetime
import importlib.metadata
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.rivals import PACKAGES
from rheobase.machine import commit, machine, versions

_SETTINGS = ("OMP_", "GOMP_", "KMP_", "MKL_", "MALLOC_", "NUMBA_", "CUDA_", "PYTORCH_")


def heading(arguments: Sequence[str], module: str = "benchmarks", device: str | torch.device = "cpu") -> dict[str, Any]:
    """Command, date, commit, machine, versions, settings, and how busy the machine was at the start."""
    head, changed = commit()
    return {
        "command": ["python", "-m", module, *arguments],
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": head,
        "uncommitted_changes": changed,
        "machine": machine(torch.device(device)) | {"memory_mib": _memory(), "caches": _caches()},
        "versions": versions() | {name: _version(name) for name in PACKAGES},
        "settings": {key: value for key, value in sorted(os.environ.items()) if key.startswith(_SETTINGS)},
        "load_before": os.getloadavg() if hasattr(os, "getloadavg") else None,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _memory() -> int | None:
    """MiB of the machine, where /proc tells."""
    try:
        found = re.search(r"^MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text(), flags=re.M)
    except OSError:
        return None
    return int(found[1]) // 1024 if found else None


def _caches() -> dict[str, str] | None:
    """Sizes of the first core's caches, where /sys tells: {"L1 Data": "48K", ...}."""
    caches = {}
    try:
        for folder in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
            level, kind, size = ((folder / name).read_text().strip() for name in ("level", "type", "size"))
            caches[f"L{level} {kind}"] = size
    except OSError:
        return None
    return caches or None

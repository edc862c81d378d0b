"""On what a run ran: versions, machine, commit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import rheobase


def versions() -> dict[str, str]:
    """Of Python and the packages that results depend on."""
    packages = {name: importlib.metadata.version(name) for name in ("torch", "numba", "lightning")}
    return {"python": platform.python_version(), **packages, "rheobase": rheobase.__version__}


def machine(device: torch.device) -> dict[str, Any]:
    """The processor, its cores, the threads in use, and the GPU where one was used."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "system": platform.platform(),
    }


def commit() -> tuple[str | None, bool | None]:
    """The commit of the checkout that this package runs from, and whether its files differ; Nones if installed."""
    package = Path(__file__).parents[1]
    head = _git(package, "rev-parse", "HEAD") if _git(package, "ls-files", "--error-unmatch", "__init__.py") else None
    return (head, bool(_git(package, "status", "--porcelain", "."))) if head else (None, None)


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        result = subprocess.run(
            ["git", "-C", folder, *arguments], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def _cpu() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

"""On what a run ran: versions, machine, commit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from contextlib import suppress
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
    cpu = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "system": platform.platform(),
    }


def commit() -> tuple[str | None, bool | None]:
    """The commit of the checkout that this package runs from, and whether its files differ; Nones if installed."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    with suppress(OSError, subprocess.SubprocessError):
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain", "."))
    return None, None

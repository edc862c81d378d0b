"""The device that is measured: its clock, its memory, how it rounds float32, and the engines that run on it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.harness import Call, Clock, elapsed
from rheobase.kernels import registry


def clock(device: torch.device) -> Clock:
    """A GPU's own clock, as calls return before their work is done; elsewhere that on the wall."""
    return _by_events if device.type == "cuda" else elapsed


def _by_events(call: Call, count: int) -> float:
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    for _ in range(count):
        call()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1e3


def peak(device: torch.device, setup: Callable[[], Call]) -> float | None:
    """MiB that a case adds to what a GPU's tensors take before it, at most; None on other devices.

    The first call does not count: cuDNN tries several algorithms then, some of which want much.
    """
    if device.type != "cuda":
        setup()()
        return None
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    call = setup()
    call()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / (1 << 20)


@contextmanager
def rounding(device: str | torch.device, tf32: bool) -> Iterator[None]:
    """Within it, products of float32 on a GPU are rounded as TF32, or not at all.

    (torch rounds those of convolutions unless told otherwise. Told in the newer way, by `fp32_precision`, torch 2.13
    cannot compile any more: pytorch issue 166387.)
    """
    if torch.device(device).type != "cuda":
        yield
        return
    switches: Any = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [switch.allow_tf32 for switch in switches]
    try:
        for switch in switches:
            switch.allow_tf32 = tf32
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.allow_tf32 = value


def engines(device: torch.device) -> list[str]:
    """Names of the engines that run on it, in the order in which they are tried; the definition is the last."""
    found = []
    for name in registry.NAMES:
        try:
            runs = name not in ("auto", "reference") and device.type in registry.by_name(name).devices
        except RuntimeError:  # it is not installed
            continue
        found += [name] if runs else []
    return [*found, "reference"]


def described(device: torch.device) -> dict[str, Any]:
    """What is told of a device besides what is told of every machine."""
    if device.type != "cuda":
        return {"type": device.type}
    about = torch.cuda.get_device_properties(device)
    return {
        "type": device.type,
        "name": about.name,
        "capability": f"{about.major}.{about.minor}",
        "memory_mib": about.total_memory >> 20,
        "cuda": torch.version.cuda or torch.version.hip,
        "cudnn": torch.backends.cudnn.version(),
    }

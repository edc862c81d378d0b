"""Random numbers (torch's, NumPy's global ones, Python's), for a while."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


def sow(seed: int) -> None:
    """Let what draws from here on draw from this seed, on every device."""
    if torch.accelerator.current_accelerator() is None:  # nor can there be one later, for which torch keeps each call
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)


def state() -> tuple[object, ...]:
    """Where the draws on the CPU are: equal as long as there is none."""
    _, key, *place = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), np.asarray(key).tobytes(), *place


@contextmanager
def forked(seed: int) -> Iterator[None]:
    """Within it draws are of this seed; then those of before go on, on every device."""
    has_device, initialized = torch.accelerator.current_accelerator() is not None, torch.cuda.is_initialized()
    others = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if initialized else []):
            sow(seed)
            yield
    finally:
        random.setstate(others[0])
        np.random.set_state(others[1])
        if has_device and not initialized:  # a GPU that begins only now, or later, begins as the host has seeded it
            torch.cuda.manual_seed_all(torch.initial_seed())

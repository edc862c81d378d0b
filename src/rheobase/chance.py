"""Torch's random numbers, for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def forked(seed: int) -> Iterator[None]:
    """Within it torch draws from this seed; then the draws of before go on, on every device."""
    if torch.accelerator.current_accelerator() is None:  # nor can there be one later, for which torch keeps each call
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            yield
        return
    initialized = torch.cuda.is_initialized()
    try:
        with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if initialized else []):
            torch.manual_seed(seed)
            yield
    finally:
        if not initialized:  # a GPU that begins only now, or later, begins as the host has seeded it
            torch.cuda.manual_seed_all(torch.initial_seed())

"""Work on many files at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np


def in_threads(work: Callable[[int], None], count: int) -> None:
    """work(0) ... work(count - 1), in as many threads as there are cores; decoders let go of Python's lock."""
    threads = os.cpu_count() or 1
    parts = np.array_split(np.arange(count), min(count, 8 * threads) or 1)

    def several(part: np.ndarray) -> None:
        for index in part.tolist():
            work(index)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(several, parts))

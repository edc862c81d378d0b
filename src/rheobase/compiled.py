"""Loops in Python that Numba compiles. (The kernels of the CPU engine have their own way: `kernels/numba/jit.py`.)"""

from __future__ import annotations

from typing import Any

import numba


def compiled(function: Any) -> Any:
    """Compiled at the first call, and kept on disk where a folder can be written; it runs without Python's lock."""
    try:
        return numba.njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError as error:
        if not str(error).startswith("cannot cache"):
            raise
        return numba.njit(nogil=True, error_model="numpy")(function)

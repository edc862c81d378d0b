"""How kernels are compiled."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

Array = np.ndarray[Any, Any]

f32, f64, i16, i32, u32 = np.float32, np.float64, np.int16, np.int32, np.uint32

# a checked division would not be vectorised, hence numpy's error model; the cache is on disk
_options: dict[str, Any] = {"nogil": True, "cache": True, "error_model": "numpy"}
exact = numba.njit(fastmath={"nsz"}, **_options)  # as written: no contraction, no reassociation
fast = numba.njit(fastmath={"nsz", "arcp", "contract", "reassoc"}, **_options)
parallel = numba.njit(parallel=True, **_options)

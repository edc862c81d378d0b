"""How kernels are compiled, and what they are called with."""

from __future__ import annotations

import ctypes
import hashlib
import threading
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
from numba import types
from numba.core.compiler import Compiler

Array = np.ndarray[Any, Any]

f32, f64, i16, i32, u8, u32 = np.float32, np.float64, np.int16, np.int32, np.uint8, np.uint32


class _Apart(Compiler):
    """Arrays that are arguments of one function do not overlap: loops need no check of addresses."""

    def define_pipelines(self) -> Any:
        """Numba's own, with a flag that has no option."""
        self.state.flags.noalias = True
        return super().define_pipelines()


# A checked division would not be vectorised, hence numpy's error model. Inlined, as constant arguments then fold.
OPTIONS: dict[str, Any] = {
    "error_model": "numpy",
    "forceinline": True,
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "pipeline_class": _Apart,
}
exact = numba.njit(fastmath={"nsz"}, **OPTIONS)  # as written: no contraction, no reassociation
fast = numba.njit(fastmath={"nsz", "arcp", "contract", "reassoc"}, **OPTIONS)
called = numba.njit(fastmath={"nsz"}, **OPTIONS | {"forceinline": False})  # compiled once, whoever calls it


class Job(ctypes.Structure):
    """What kernels work on. Arrays are addresses, 0 where there is none; N is the size of one step."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("next", "finished", "pieces", "T", "N", "C", "moving", "large")),
        *((name, ctypes.c_int64) for name in ("width", "inner", "plane", "residual_step", "batch_statistics")),
        *((name, ctypes.c_double) for name in ("soft", "eps", "momentum", "count")),
        *(
            (name, ctypes.c_int64)
            for name in ("x", "residual", "skip", "constants", "state", "weight", "bias", "mean", "var")
        ),
        *((name, ctypes.c_int64) for name in ("spikes", "final", "drive")),
        *((name, ctypes.c_int64) for name in ("g", "g_final", "g_drive", "gy", "gx", "g_state", "g_weight", "g_bias")),
        *((name, ctypes.c_int64) for name in ("sums", "running_mean", "running_var")),
    )


@cache
def _origin() -> str:
    """A hash of what machine code is made from besides a kernel's own choices: these sources, and the processor.

    Numba looks only at the file of the function itself.
    """
    found = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        found.update(file.read_bytes())
    found.update(f"{llvm.get_host_cpu_name()} {llvm.get_host_cpu_features().flatten()}".encode())
    return found.hexdigest()[:16]


_compiling = threading.Lock()


class Kernel:
    """A function of the pointer to a Job, compiled at its first use and kept on disk.

    Every thread that calls it takes pieces of the job until none is left. The name tells it apart from every other
    kernel: it has a file of its own, so that several processes may compile at once.
    """

    def __init__(self, body: Callable[[Any], None], *choices: object) -> None:
        self._body = body
        self._compiled: Any = None
        body.__qualname__ = "_".join([body.__qualname__.split(".")[0], *map(str, choices), _origin()])

    @cached_property
    def address(self) -> int:
        """Of the machine code, which lives as long as the kernel."""
        with _compiling:
            if self._compiled is None:
                self._compiled = self._compile()
        address: int = self._compiled.address
        return address

    def _compile(self) -> Any:
        signature = types.void(types.CPointer(numba.from_dtype(np.dtype(Job))))
        try:
            return numba.cfunc(signature, cache=True, error_model="numpy")(self._body)
        except RuntimeError as error:
            if not str(error).startswith("cannot cache"):  # no folder that can be written
                raise
            return numba.cfunc(signature, error_model="numpy")(self._body)

"""How kernels are compiled, and what they are called with."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import threading
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
import torch
from numba import types
from numba.core.compiler import Compiler

Array = np.ndarray[Any, Any]
_log = logging.getLogger("rheobase")

f32, f64, i16, i32, i64, u32 = np.float32, np.float64, np.int16, np.int32, np.int64, np.uint32


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


ELEMENTS = {torch.float32: f32, torch.bfloat16: i16}
NUMBERS = ("decay", "threshold", "input_scale", "leak", "adaptation", "width", "height")


INTEGERS = (
    *("next", "finished", "entered"),  # counters of the threads at work
    *("pieces", "T", "N", "C", "moving", "large", "width", "inner", "span", "per", "anew"),  # of `walk.Walk`
    *("room", "pitch", "channel_pitch"),  # see `scratch.py`
    *(f"{what}_{name}" for name in NUMBERS for what in ("n", "size")),
    *("scratch", "residual_step", "sum_rows"),
    *("x", "residual", "skip", "state", "other", "weight", "bias", "mean", "m2", "running_mean", "running_var"),
    *("spikes", "drive", "final", "final_other"),
    *("g", "g_drive", "g_final", "g_final_other", "gy", "gx", "g_state", "g_other", "g_weight", "g_bias"),
    *("sums", "g_numbers"),
)


class Job(ctypes.Structure):
    """What kernels work on. Arrays are addresses, 0 where there is none; N is the size of one step.

    `n_NAME` is the address of a neuron's number, of which there are `size_NAME`. With `count` 0, m2 is a variance.

    Attributes:
        alive: what owns the memory behind the addresses.
    """

    alive: Any

    _fields_ = (
        *((name, ctypes.c_int64) for name in INTEGERS),
        *((name, ctypes.c_double) for name in ("eps", "count", "momentum", "clip")),
    )


@cache
def _origin() -> str:
    """A hash of what machine code is made from besides a kernel's own choices: these sources, and the processor.

    Numba looks only at the file of the function itself.
    """
    found = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        if file.name not in ("engine.py", "tasks.py", "recurrent.py", "threads.py"):  # which only call them
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
        except (RuntimeError, OSError) as error:  # no folder that can be written, or no room in it
            if isinstance(error, RuntimeError) and not str(error).startswith("cannot cache"):
                raise
            _log.warning("kernels cannot be kept on disk, so each process compiles its own: %s", error)
            return numba.cfunc(signature, error_model="numpy")(self._body)

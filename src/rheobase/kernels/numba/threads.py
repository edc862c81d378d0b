"""Run a kernel on PyTorch's own threads: no second pool of them waits, or spins, beside the first."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch

from rheobase.kernels.numba.jit import Job, Kernel

_Start = Callable[[int, int, int], None]  # address of the kernel, of the job, number of threads


def _openmp() -> _Start | None:
    """The entry of the OpenMP library that PyTorch is linked with, where it has GNU's (as GNU's and LLVM's do)."""
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        start = ctypes.CDLL(str(library)).GOMP_parallel  # looks through what the library depends on
    except (OSError, AttributeError):
        return None
    start.argtypes = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    start.restype = None
    return lambda kernel, job, threads: start(kernel, job, threads, 0)


def _python() -> _Start:
    """Threads of Python's, some ten microseconds slower to start."""
    pool = ThreadPoolExecutor(os.cpu_count())
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

    def start(kernel: int, job: int, threads: int) -> None:
        call = function(kernel)
        others = [pool.submit(call, job) for _ in range(threads - 1)]
        try:
            call(job)
        finally:  # whatever comes between: they write to memory that the caller would free
            wait(others)

    return start


@cache
def _start() -> _Start:
    return _openmp() or _python()


class _Local(threading.local):
    queue: list[Callable[[], None]] | None = None


_local = _Local()


@contextmanager
def queue() -> Iterator[None]:
    """Within it, kernels wait for its end (or for that of one within it), and then run one right after the other.

    Python's work between two of them would be time for the other threads to fall asleep, and to be woken again.
    """
    outer = _local.queue
    waiting = _local.queue = [] if outer is None else outer
    try:
        yield
        for work in waiting:
            work()
    finally:
        waiting.clear()
        _local.queue = outer


def run(kernel: Kernel, job: Job, then: Callable[[], Any] | None = None) -> None:
    """Work a job off, now or at the end of `queue`; `then` comes after it."""

    def work() -> None:
        work_off(kernel, job)
        if then is not None:
            then()

    if _local.queue is None:
        work()
    else:
        _local.queue.append(work)


def work_off(kernel: Kernel, job: Job) -> None:
    """Do it, on as many threads as torch uses and there are pieces, each with scratch memory of its own.

    Raises:
        RuntimeError: not all of it was done.
    """
    threads = min(torch.get_num_threads(), job.pieces)
    scratch = torch.empty(threads * job.room, dtype=torch.uint8, device="cpu")
    job.next = job.finished = job.entered = 0
    job.scratch = scratch.data_ptr()
    _start()(kernel.address, ctypes.addressof(job), threads)
    if job.finished != job.pieces:  # what fails inside a kernel cannot raise
        raise RuntimeError(f"a kernel of the numba engine did {job.finished} of {job.pieces} pieces of its work")

"""Run a kernel on PyTorch's own threads: no second pool of them waits, or spins, beside the first."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
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

    def start(kernel: int, job: int, threads: int) -> None:
        call = _function(kernel)
        others = [pool.submit(call, job) for _ in range(threads - 1)]
        try:
            call(job)
        finally:  # whatever comes between: they write to memory that the caller would free
            wait(others)

    return start


@cache
def _start() -> _Start:
    return _openmp() or _python()


@cache
def _function(kernel: int) -> Callable[[int], None]:
    """The kernel at an address, for the thread that calls it."""
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(kernel)


KEPT = 1 << 18  # bytes of scratch memory that a thread of Python's keeps from job to job; what is larger is freed
LINE = 64


class _Local(threading.local):
    queue: list[tuple[Kernel, Job, Callable[[], Any] | None]] | None = None

    def __init__(self) -> None:
        self.kept = ctypes.create_string_buffer(KEPT + LINE)
        self.scratch = -(-ctypes.addressof(self.kept) // LINE) * LINE


_local = _Local()


class queue:  # noqa: N801  (reads as a statement: with queue(): ...)
    """Within it, kernels wait for its end (or for that of one within it), and then run one right after the other.

    Python's work between two of them would be time for the other threads to fall asleep, and to be woken again.
    """

    def __enter__(self) -> None:
        self._outer = _local.queue
        if self._outer is None:
            _local.queue = []

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        waiting, _local.queue = _local.queue, self._outer
        assert waiting is not None
        try:
            for work in waiting if kind is None else ():
                _do(*work)
        finally:
            waiting.clear()


def run(kernel: Kernel, job: Job, then: Callable[[], Any] | None = None) -> None:
    """Work a job off, now or at the end of `queue`; `then` comes after it."""
    if _local.queue is None:
        _do(kernel, job, then)
    else:
        _local.queue.append((kernel, job, then))


def _do(kernel: Kernel, job: Job, then: Callable[[], Any] | None) -> None:
    work_off(kernel, job)
    if then is not None:
        then()


def work_off(kernel: Kernel, job: Job) -> None:
    """Do it, on as many threads as torch uses and there are pieces, each with scratch memory of its own.

    Raises:
        RuntimeError: not all of it was done.
    """
    threads = min(torch.get_num_threads(), job.pieces)
    room = threads * job.room
    scratch = torch.empty(room, dtype=torch.uint8, device="cpu") if room > KEPT else None
    job.next = job.finished = job.entered = 0
    job.scratch = _local.scratch if scratch is None else scratch.data_ptr()
    if threads == 1:
        _function(kernel.address)(ctypes.addressof(job))
    else:
        _start()(kernel.address, ctypes.addressof(job), threads)
    if job.finished != job.pieces:  # what fails inside a kernel cannot raise
        raise RuntimeError(f"a kernel of the numba engine did {job.finished} of {job.pieces} pieces of its work")

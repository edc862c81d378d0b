"""The processes of a run, and what of torch and Lightning is set while they run."""

from __future__ import annotations

import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import torch

from rheobase import compat
from rheobase.training.console import console, say
from rheobase.training.recipe import TrainerOptions

if TYPE_CHECKING:
    from lightning.fabric import Fabric

T = TypeVar("T")


def world(options: TrainerOptions) -> int:
    """How many processes a run has, with `launched`."""
    if torch.distributed.is_available() and torch.distributed.is_torchelastic_launched():
        return int(os.environ["WORLD_SIZE"])
    return options.devices * options.nodes


@contextmanager
def launched(options: TrainerOptions) -> Iterator[Fabric]:
    """The processes of the run, of which this is one: those that torchrun has started, or else as the recipe says."""
    from lightning.fabric import Fabric

    devices, nodes = options.devices, options.nodes
    if torch.distributed.is_available() and torch.distributed.is_torchelastic_launched():
        world, local = int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
        if devices * nodes not in (1, world):
            raise ValueError(f"trainer.devices * nodes must be {world}, as torchrun started, got {devices} * {nodes}")
        devices, nodes = local, world // local
    with _quiet(), _threads_as_they_were():
        fabric = Fabric(
            accelerator=options.accelerator,
            devices=devices,
            num_nodes=nodes,
            strategy="ddp" if devices * nodes > 1 else "auto",
            precision="bf16-mixed" if options.precision == "bf16" else "32-true",
        )
        fabric.launch()
        console.quiet = not fabric.is_global_zero
        if options.precision == "bf16" and fabric.device.type == "cpu" and not compat.cpu_has_bfloat16():
            say("this CPU has no instructions for bfloat16: trainer.precision=32 may be several times as fast here")
        try:
            yield fabric
        finally:
            if torch.distributed.is_available() and torch.distributed.is_initialized():
                # torch 2.13 joins gloo's threads while it holds Python's lock, and one that still has a tensor of
                # Python's to free would wait for that lock for ever: so it gets time to
                time.sleep(0.2)
                torch.distributed.destroy_process_group()


def alone_on(options: TrainerOptions) -> str:
    """The device of work that one process does without training."""
    return "cuda" if options.accelerator != "cpu" and torch.cuda.is_available() else "cpu"


def on_first(fabric: Fabric, call: Callable[[], T]) -> T:
    """What `call` returns, or raises, in the first process: in all of them."""
    result: T | None = None
    error: Exception | None = None
    if fabric.is_global_zero:
        try:
            result = call()
        except Exception as caught:
            error = caught
    result, error = fabric.broadcast((result, error))
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """Let torch use so many threads within."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _threads_as_they_were() -> Iterator[None]:
    """Afterwards the launcher's number of threads is gone.

    (Its other variables stay: they say which of a group this process is, also for a script that trains once more.)
    """
    variable, count = os.environ.get("OMP_NUM_THREADS"), torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(count)
        if variable is None:
            os.environ.pop("OMP_NUM_THREADS", None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Lightning's notes on hardware; its warnings stay."""
    import lightning.fabric  # noqa: F401  (which sets the level)

    logger = logging.getLogger("lightning.fabric")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # between versions of Lightning and torch; nothing a user could change
            warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.")
            yield
    finally:
        logger.setLevel(level)

"""What is set around a pass of a net, and is as it was afterwards."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, nn

from rheobase.chance import forked, sow
from rheobase.compat import within_autocast
from rheobase.data import Batch, seed_of
from rheobase.modes import in_mode
from rheobase.norm import padding


def padded(lengths: Tensor | None) -> AbstractContextManager[None]:
    """`rheobase.padding`, where there are lengths; for a backward pass too, in which layers may run again."""
    return nullcontext() if lengths is None else padding(lengths)


def seeded(purpose: str, *numbers: int) -> AbstractContextManager[None]:
    """Random numbers that are a function of the arguments; then those of before go on, on every device."""
    return forked(seed_of(purpose, *numbers))


def seed(purpose: str, *numbers: int) -> None:
    """Random numbers that are a function of the arguments, from here on."""
    sow(seed_of(purpose, *numbers))


@torch.no_grad()
def tried(net: nn.Module, batch: Batch) -> Tensor:
    """What a net gives for a batch in evaluation; its mode stays."""
    with in_mode(net, training=False), padded(batch.lengths):
        found: Tensor = net(batch.inputs)
    return found


@contextmanager
def _without_autocast() -> Iterator[None]:
    """Within it there is none, nor does one that begins within keep casts of weights for longer than it lasts.

    (`torch.autocast(enabled=False)` would not do: casts are kept until the outermost one ends, and training moves on.)
    """
    devices = {"cpu", str(getattr(torch.accelerator.current_accelerator(), "type", "cpu"))}
    before, kept = {device: torch.is_autocast_enabled(device) for device in devices}, torch.is_autocast_cache_enabled()
    try:
        for device in devices:
            torch.set_autocast_enabled(device, False)
        torch.set_autocast_cache_enabled(kept and not within_autocast())
        yield
    finally:
        torch.set_autocast_cache_enabled(kept)
        for device, enabled in before.items():
            torch.set_autocast_enabled(device, enabled)


@contextmanager
def _in_float32() -> Iterator[None]:
    """Within it floating point is float32 where nothing else is said."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def hosted() -> Iterator[None]:
    """All that a call of the library does: its host goes on as if it had drawn no random number.

    Nor does the host's own mode of gradients, autocast or default dtype change what the call does; afterwards it is
    there again, also where a signal came just as torch.no_grad() began, or ended.
    """
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        _without_autocast(),
        _in_float32(),
        seeded("hosted"),
        warnings.catch_warnings(),
    ):
        # a batch of as many sequences as a net has steps: we know which axis is time
        warnings.filterwarnings("ignore", r"images \[.*\] are taken for \d+ time steps", RuntimeWarning)
        yield

"""What is set around a pass of a net, and is as it was afterwards."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
from torch import Tensor

from rheobase.chance import forked
from rheobase.data import seed_of
from rheobase.norm import padding


def padded(lengths: Tensor | None) -> AbstractContextManager[None]:
    """`rheobase.padding`, where there are lengths; for a backward pass too, in which layers may run again."""
    return nullcontext() if lengths is None else padding(lengths)


def seeded(purpose: str, *numbers: int) -> AbstractContextManager[None]:
    """Random numbers of torch that are a function of the arguments; then those of before go on, on every device."""
    return forked(seed_of(purpose, *numbers))


@contextmanager
def hosted() -> Iterator[None]:
    """All that a call of the library does: its host goes on as if it had drawn no random number.

    Nor does the host's own mode of gradients or autocast change what the call does.
    """
    devices = {"cpu", str(getattr(torch.accelerator.current_accelerator(), "type", "cpu"))}
    with ExitStack() as stack, seeded("hosted"), warnings.catch_warnings():
        for context in (torch.inference_mode(False), torch.enable_grad()):
            stack.enter_context(context)
        for device in devices:
            stack.enter_context(torch.autocast(device, enabled=False))
        # a batch of as many sequences as a net has steps: we know which axis is time
        warnings.filterwarnings("ignore", r"images \[.*\] are taken for \d+ time steps", RuntimeWarning)
        yield

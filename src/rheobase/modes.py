"""Training or evaluation mode for a while, and passes that leave nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from rheobase.chance import forked


@contextmanager
def in_mode(net: nn.Module, training: bool) -> Iterator[None]:
    """Within it the net is in this mode; then each module is in its own again."""
    modes = {module: module.training for module in net.modules()}
    net.train(training)
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def untouched(model: nn.Module, seed: int, training: bool) -> Iterator[None]:
    """Within it the model may run in this mode; after it buffers, modes, gradients and random numbers are as before."""
    held = [(module._buffers, dict(module._buffers)) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    with forked(seed), in_mode(model, training):
        try:
            yield
        finally:
            for now, then in held:  # a module may have put another tensor in its place
                now.clear()
                now.update(then)
            with torch.no_grad():
                for buffer, before in buffers:
                    if not torch.equal(buffer, before):
                        buffer.copy_(before)

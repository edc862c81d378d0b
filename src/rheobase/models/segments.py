"""Activation checkpointing: layers that the backward pass computes again, so that less is kept for it."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from rheobase.eager import eagerly
from rheobase.kernels.registry import engine, settings
from rheobase.neurons import looking
from rheobase.norm import lengths, padding


class Segmented(nn.Sequential):
    """`nn.Sequential` in parts: it keeps what goes into each, and the backward pass computes what is within again.

    The last part is kept whole, as it would be computed again at once. Outputs, gradients, running statistics and
    random numbers are those of one part. Compiled code is one part: `torch.compile` chooses itself what to keep.

    Attributes:
        segments: how many parts, of as many layers each as can be; 1: all is kept. Assignable at any time.

    Raises:
        ValueError: more segments than layers, or none.
    """

    _segments = 1

    @property
    def segments(self) -> int:
        """How many parts."""
        return self._segments

    @segments.setter
    def segments(self, count: int) -> None:
        if type(count) is not int or not 1 <= count <= max(1, len(self)):
            raise ValueError(f"segments must be an integer from 1 to {len(self)}, one a layer, got {count!r}")
        self._segments = count

    def forward(self, x: Any) -> Any:
        """What the layers make of it, one after the other."""
        layers, count = list(self), self.segments
        if count == 1 or not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return _through(layers, x)
        parts = [layers[i * len(layers) // count : (i + 1) * len(layers) // count] for i in range(count)]
        for part in parts[:-1]:
            x = checkpoint(_through, part, x, use_reentrant=False, context_fn=partial(_contexts, part))
        return _through(parts[-1], x)


def _through(layers: list[nn.Module], x: Any) -> Any:
    for layer in layers:
        x = layer(x)
    return x


def _contexts(part: list[nn.Module]) -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
    return nullcontext(), _Again(part)


class _Again(AbstractContextManager[None]):
    """A context in which layers run once more as when it was made, and leave no trace.

    The contexts of the forward pass (engine, padding, a recording) may be gone in the backward pass, which may be in
    another thread; and norms have followed these currents already.
    """

    def __init__(self, layers: list[nn.Module]) -> None:
        self._modules = [module for layer in layers for module in layer.modules()]
        self._settings, self._lengths, look = settings(), lengths(), looking.local.look
        self._look = look and looking.Look(tapes=tuple(_Deaf(tape, self._modules) for tape in look.tapes))
        self._stack = ExitStack()

    def __enter__(self) -> None:
        chosen = self._settings
        self._stack.enter_context(engine(chosen.name, fused=chosen.fused, packed=chosen.packed))
        if self._lengths is not lengths():
            self._stack.enter_context(padding(self._lengths))
        if self._look is not looking.local.look:
            self._stack.enter_context(nullcontext() if self._look is None else eagerly())
            self._stack.callback(setattr, looking.local, "look", looking.local.look)
            looking.local.look = self._look
        for module in self._modules:
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    self._stack.callback(_put_back, module, name, buffer, buffer.clone())

    def __exit__(self, *error: object) -> None:
        self._stack.close()


def _put_back(module: nn.Module, name: str, buffer: Tensor, content: Tensor) -> None:
    buffer.data.copy_(content)  # past autograd: for those who keep the buffer, nothing has changed
    module._buffers[name] = buffer


class _Deaf:
    """Stands for a tape, so that neurons run as they do for it; it has heard them before."""

    def __init__(self, tape: looking.Tape, modules: list[nn.Module]) -> None:
        self.potentials, self.copies = tape.potentials, tape.copies
        self._neurons = {module for module in modules if module in tape}

    def __contains__(self, neuron: object) -> bool:
        return neuron in self._neurons

    def note(self, *_: Any) -> None:
        pass

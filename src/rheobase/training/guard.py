"""Where in a net something is not finite first."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

import torch
from torch import Tensor, nn

from rheobase.data import Batch
from rheobase.neurons import Neuron
from rheobase.neurons.base import outermost
from rheobase.recording import record
from rheobase.training.activity import recorded


class NotFiniteError(ValueError):
    """A run met a number that is not finite."""


def weights(net: nn.Module) -> str | None:
    """The first parameter of a net that is not finite, in words."""
    return next((f"the weights {name}" for name, p in net.named_parameters() if not p.isfinite().all()), None)


def currents(net: nn.Module, batch: Batch) -> str | None:
    """The first layer of neurons whose currents are not finite in evaluation, in words.

    An infinite current may hide: it makes a neuron fire or rest for ever, with every loss and gradient finite.
    """
    bad = (path for path, trace in recorded(net, batch).items() if not trace.currents.isfinite().all())
    return next((f"the currents of layer {path}" for path in bad), None)


def first(net: nn.Module, loss_of: Callable[[], Tensor]) -> str | None:
    """What is not finite first in a pass, in words: a weight, then up the layers, then a gradient down them."""
    if spoilt := weights(net):
        return spoilt
    seen: list[tuple[str, Tensor]] = []

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: object, name: str) -> None:
        if isinstance(module, Neuron):
            seen.append((f"the currents of layer {name}", inputs[0]))
            potentials = tape[name].potentials if tape is not None and name in tape else None
            if potentials is not None:
                seen.append((f"the potentials of layer {name}", potentials))
        if isinstance(output, Tensor):
            seen.append((f"the outputs of layer {name or type(module).__name__}", output))

    parameters = {name: p for name, p in net.named_parameters() if p.requires_grad}
    with ExitStack() as stack:  # down to the gradients: layers that are computed again must look as they did
        for name, module in net.named_modules():
            hook = module.register_forward_hook(lambda module, i, o, name=name: note(module, i, o, name))
            stack.callback(hook.remove)
        tape = stack.enter_context(record(net, potentials=True)) if outermost(net) else None
        loss = loss_of()
        up = [(what, tensor) for what, tensor in seen if tensor.requires_grad]
        wanted = [*(tensor for _, tensor in up), *parameters.values()]
        found = torch.autograd.grad(loss, wanted, allow_unused=True)
    names = [what for what, _ in up] + [f"the weights {name}" for name in parameters]
    gradients = [(f"the gradient of {name}", gradient) for name, gradient in zip(names, found, strict=True)]
    down = [*reversed(gradients[: len(up)]), *gradients[len(up) :]]
    for what, tensor in [*seen, ("the loss", loss), *down]:
        if tensor is not None and not tensor.isfinite().all():
            return what
    return None

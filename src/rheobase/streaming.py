"""Run a model over a long input step by step: memory does not grow with time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rheobase.layers import PerStep
from rheobase.models import Net
from rheobase.neurons.base import Neuron, outermost
from rheobase.neurons.looking import looking


@torch.no_grad()
def run(model: nn.Module, inputs: Tensor, state: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Any]]:
    """Logits `[T, B, ...]` and the neurons' states after the last step, from `state` (default: rest).

    Pieces streamed one after the other, with the state handed on, give the logits of one call on the whole. It is for
    evaluation: no gradients are kept, and a compiled model runs as if it were not.

    The first axis of the inputs is time. Of a model that is no `Net` it cannot be seen whether it takes them so: one
    that takes a batch of static images and repeats them itself has no time to stream, and is refused where it shows:
    it gives several steps for one. Only neurons hand a state on: torch's recurrent layers are refused, and what else
    looks across time (attention, sums or convolutions along it) cannot be seen, and would begin anew at each step.

    Args:
        model: a model from `[T, B, ...]` to `[T, B, ...]`, any T, in evaluation mode.
        inputs: `[T, B, ...]`, or static images `[B, C, H, W]` of a `Net`, shown for its `steps` steps.
        state: {module path: state} as an earlier call returned it.

    Raises:
        ValueError: the model is in training mode (norms would need the whole sequence) or an ANN twin, it has a
            recurrent layer of torch, there is no time step, the model does not give `[1, B, ...]` for one step,
            or `state` is of another model or batch.
        RuntimeError: a neuron was not called, or twice, in a pass.
    """
    net = next((module for module in model.modules() if isinstance(module, Net)), None)
    if net is not None and not net.spiking:
        raise ValueError("run: the model is an ANN twin, which has no time to stream: call it")
    if any(module.training for module in model.modules()):
        raise ValueError("run: the model is in training mode, where norms need the whole sequence: model.eval() first")
    if net is not None and inputs.dim() == net.rank + 1:
        inputs = inputs.expand(net.steps, *inputs.shape)
    if inputs.dim() < 2 or inputs.shape[0] == 0:
        raise ValueError(f"run: inputs must be [T, B, ...] with T >= 1, got shape {list(inputs.shape)}")
    neurons = outermost(model)
    for path, module in model.named_modules():
        if isinstance(module, nn.RNNBase) and not _within(model, module):
            raise ValueError(
                f"run: {path or 'the model'} ({type(module).__name__}) has a state of its own, which is not handed on "
                "from step to step: call the model on the whole"
            )
    if state is not None and state.keys() != neurons.keys():
        wrong = sorted(state.keys() ^ neurons.keys())
        raise ValueError(f"run: state is of another model: {wrong[0]!r} is in only one of the two")
    states: dict[str, Any] = dict.fromkeys(neurons) if state is None else state
    logits = []
    for frame in inputs.split(1):
        with looking({module: states[path] for path, module in neurons.items()}) as look:
            out = model(frame)
        if not isinstance(out, Tensor) or out.shape[:2] != frame.shape[:2]:
            got = list(out.shape) if isinstance(out, Tensor) else type(out).__name__
            raise ValueError(
                f"run: inputs {list(inputs.shape)} are taken for {len(inputs)} steps (time comes first); for one of "
                f"them, {list(frame.shape)}, the model must give [1, {frame.shape[1]}, ...], got {got}. A model that "
                "repeats its input, or takes a mean over time, by itself cannot be streamed: call it"
            )
        logits.append(out)
        missing = [path for path, module in neurons.items() if module not in look.left]
        if missing:
            raise RuntimeError(f"run: the neuron {missing[0]!r} left no state: it was not called in this pass")
        states = {path: look.left[module] for path, module in neurons.items()}
    return torch.cat(logits), states


def _within(model: nn.Module, part: nn.Module) -> bool:
    """Whether it is part of a neuron, or of what runs at every step by itself."""
    return any(part in whole.modules() for whole in model.modules() if isinstance(whole, Neuron | PerStep))

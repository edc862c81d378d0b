"""Run a model over a long input step by step: memory does not grow with time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rheobase.models import Net
from rheobase.neurons import Neuron, streaming


@torch.no_grad()
def run(model: nn.Module, inputs: Tensor, state: dict[str, Any] | None = None) -> tuple[Tensor, dict[str, Any]]:
    """Logits `[T, B, ...]` and the neurons' states after the last step, from `state` (default: rest).

    Pieces streamed one after the other, with the state handed on, give the logits of one call on the whole. It is for
    evaluation: no gradients are kept.

    Args:
        model: a model in evaluation mode.
        inputs: `[T, B, ...]`, or static images `[B, C, H, W]`, shown for `model.steps` steps.
        state: {module path: state} as an earlier call returned it.

    Raises:
        ValueError: the model is in training mode (norms would need the whole sequence) or an ANN twin, or `state` is
            of another model.
    """
    if isinstance(model, Net) and not model.spiking:
        raise ValueError("run: the model is an ANN twin, which has no time to stream: call it")
    if model.training:
        raise ValueError("run: the model is in training mode, where norms need the whole sequence: model.eval() first")
    neurons = {path: module for path, module in model.named_modules() if isinstance(module, Neuron)}
    if state is not None and state.keys() != neurons.keys():
        wrong = sorted(state.keys() ^ neurons.keys())
        raise ValueError(f"run: state is of another model: {wrong[0]!r} is in only one of the two")
    states: dict[str, Any] = dict.fromkeys(neurons) if state is None else state
    if inputs.dim() == 4 and isinstance(model, Net):
        inputs = inputs.expand(model.steps, *inputs.shape)
    logits = []
    for frame in inputs.split(1):
        with streaming({module: states[path] for path, module in neurons.items()}) as taken:
            logits.append(model(frame))
        states = {path: taken.get(module) for path, module in neurons.items()}
    return torch.cat(logits), states

"""Look at the health of a net's signal, up and down, on one batch."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from rheobase.norm import lengths
from rheobase.signal import measures, readings
from rheobase.signal.passing import Loss, Passed, again, loss_of, passing
from rheobase.signal.report import Report

Preset = Literal["quick", "standard", "full"]
PRESETS = ("quick", "standard", "full")
NOISE = 0.1
"""Size of the noise that makes another view of an input, over that of the input."""
SAMPLES = 256
"""So many samples of a batch tell enough of what is left of the input."""


@torch.inference_mode(False)
def probe(
    model: nn.Module,
    x: Any,
    y: Any = None,
    preset: Preset = "standard",
    loss: Loss | None = None,
    training: bool = True,
    seed: int = 0,
) -> Report:
    """Run a batch up, and its gradient down, and say of every layer how both fare, and what to do where they don't.

    It changes nothing: weights and their gradients, running statistics, modes, random numbers are as before. It takes
    some times the memory of a training step on the same batch.

    Args:
        model: any torch module with neurons of rheobase.
        x: a batch of what it takes, some 32 to 256 samples.
        y: what the loss takes besides the outputs, as labels `[B]`; None: labels drawn at random, which tell as much of
            a net that has not been trained.
        preset: "quick", one pass up and down; "standard", also a second view of the inputs, and a linear reader of the
            classes; "full", also the gradient of half of the batch, and each time step.
        loss: (outputs, y) -> one a sample, `[B]`; default the cross entropy of the mean over time of logits.
        training: mode of the modules: True shows what training would meet.
        seed: of what is random in it.

    Raises:
        TypeError: no model.
        ValueError: a model without neurons, or on the device meta, another preset, or another kind of loss.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"probe: model must be a torch.nn.Module, got {type(model).__name__}")
    if any(t.is_meta for t in (*model.parameters(), *model.buffers())) or getattr(x, "is_meta", False):
        raise ValueError("probe: the model and its inputs must have values, got some on the device meta")
    if preset not in PRESETS:
        raise ValueError(f"probe: preset must be one of {', '.join(PRESETS)}, got {preset!r}")
    passed = passing(model, x, y, loss_of(loss, y, seed), preset == "full", seed, training)
    if preset == "quick":
        return read(model, x, passed)
    labels = y if _labels(y, passed.layers[0].currents.shape[1]) else None
    views = None
    if isinstance(x, Tensor) and x.is_floating_point():
        views = again(model, _other_view(x, seed), passed, seed, training)
    return read(model, x, passed, views, labels, preset == "full")


def read(
    model: nn.Module,
    x: Any,
    passed: Passed,
    views: tuple[list[Tensor], list[Tensor]] | None = None,
    labels: Tensor | None = None,
    by_step: bool = False,
) -> Report:
    """What a pass tells; with `views`, what `again` gives for the inputs and noise, and labels for a linear reader."""
    steps, batch = passed.layers[0].currents.shape[:2]
    reader = readings.Reader(slice(SAMPLES), _inputs(x, passed), labels, lengths())
    spikes, features = views or (None, None)
    return Report(
        tuple(readings.layers(passed, spikes, reader, dict(model.named_parameters()), by_step)),
        tuple(readings.waists(passed, features, reader)),
        steps,
        batch,
        None if labels is None else len(labels.unique()),
        float(passed.loss),
    )


def _labels(y: Any, batch: int) -> bool:
    """Whether these are labels that a linear reader can tell of: of two classes or more, some samples each."""
    if not isinstance(y, Tensor) or y.shape != (batch,) or y.is_floating_point():
        return False
    return 2 <= len(y[:SAMPLES].unique()) <= max(2, min(batch, SAMPLES) // 2)


def _inputs(x: Any, passed: Passed) -> Tensor:
    """The inputs, `[B, N]`; where it is not known what they are, what the first neurons hear of them."""
    currents = passed.layers[0].currents
    if isinstance(x, Tensor) and x.is_floating_point():
        if x.shape[:2] == currents.shape[:2]:
            return measures.rates(x, real=lengths())
        if len(x) == currents.shape[1]:
            return x.float().reshape(len(x), -1)
    return measures.rates(currents, real=lengths())


def _other_view(x: Tensor, seed: int) -> Tensor:
    """The inputs and noise; of inputs in [0, 1], as a Poisson coding wants them, it stays there."""
    own = seed ^ 0x6E6F697365  # with that of inputs that were drawn it would be the inputs once more
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(own)).to(x)
    other = x + NOISE * x.std() * noise
    return other.clamp(0, 1) if x.min() >= 0 and x.max() <= 1 else other

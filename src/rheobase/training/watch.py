"""The health of the signal in a run: the net tuned before its first step, and probed while it trains."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rheobase.data import Batch, Dataset
from rheobase.signal.passing import Loss
from rheobase.signal.probe import Preset, probe
from rheobase.signal.readings import LayerHealth, WaistHealth
from rheobase.signal.report import Report
from rheobase.signal.start import Start
from rheobase.signal.tune import Tuned, tune
from rheobase.training import build, losses
from rheobase.training.console import say
from rheobase.training.passes import padded
from rheobase.training.recipe import LossOptions, Recipe

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from rheobase.training.loop import Training

READ = (
    *("rate", "dead", "saturated", "in_window", "gradient_norm", "gain", "r", "weight_ratio"),
    *("similarity", "noisy", "accuracy"),
)
"""Readings that a run keeps of each neuron, and, as far as there are such, of each waist (see `signal/readings.py`)."""
COLUMNS = ("step", "of", "path", *READ)
"""Of probe.csv; `of` is "neuron", or "waist" in a net where the signal goes past neurons."""


def probed(net: nn.Module, batch: Batch, options: LossOptions, preset: Preset = "standard") -> Report:
    """The health of a net on a batch, with the loss that it is trained with (without penalties)."""
    inputs, labels, lengths = batch
    with padded(lengths):
        return probe(net, inputs, labels, preset, _each(options, lengths))


def _each(options: LossOptions, lengths: Tensor | None = None) -> Loss:
    """The loss of each sample: a batch of one."""

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        def of(one: slice) -> Tensor:
            return losses.loss(logits[:, one], labels[one], options, None if lengths is None else lengths[one])

        return torch.stack([of(slice(i, i + 1)) for i in range(len(labels))])

    return loss


def tuned(net: nn.Module, batch: Batch, options: LossOptions, start: Start | None) -> Tuned:
    """Tune a net on every other sample of a batch, and check it on the rest.

    Raises:
        ValueError: as of `rheobase.tune`; or sequences of different lengths.
    """
    inputs, labels, lengths = batch
    if lengths is not None:
        raise ValueError("sequences of different lengths are not tuned in a run: call rheobase.tune with a loss")
    samples = inputs.movedim(inputs.dim() - 4, 0)  # images [B, C, H, W], or frames [T, B, C, H, W]
    (x, y), held_out = ((samples[i::2].movedim(0, inputs.dim() - 4), labels[i::2]) for i in range(2))
    return tune(net, x, y, start, held_out=held_out, loss=_each(options))


def begin(recipe: Recipe, data: Dataset, net: nn.Module) -> dict[str, Any] | None:
    """Tune a net as the recipe says, and tell what that did; None where it says nothing.

    Raises:
        ValueError: as of `tuned`.
    """
    options = recipe.tune
    if options.samples is None:
        return None
    device = next(net.parameters()).device
    try:
        batch = build.sample(data, data.train, options.samples).to(device)
        found = tuned(net, batch, recipe.loss, options.start)
    except ValueError as error:
        raise ValueError(f"tune: {error}".replace("tune: tune: ", "tune: ")) from error
    say(f"tuned: {found.verdict}")
    return told(found)


def told(found: Tuned) -> dict[str, Any]:
    """What tuning did, for JSON."""
    return {
        **{name: _brief(getattr(found, name)) for name in ("before", "after", "held_out")},
        "holds": found.holds,
        "begun": list(found.begun),
        "surrogates": {path: [str(each) for each in pair] for path, pair in found.surrogates.items()},
        "left": found.left,
    }


def _brief(report: Report) -> dict[str, Any]:
    level = report.level
    return {"gradient_first_over_last": level if math.isfinite(level) else None, "verdict": report.verdict}


def due(training: Training) -> bool:
    """Whether the net is to be probed before the next step."""
    every = training.recipe.probe.every_steps
    return every is not None and training.step % every == 0


def look(training: Training, events: SummaryWriter | None) -> None:
    """Probe the net; keep what is read, show it to TensorBoard, and warn of what has not been warned of yet.

    It changes nothing that a step depends on.
    """
    journal, step = training.journal, training.step
    assert training.probed is not None
    with training.fabric.autocast():
        report = probed(training.net, training.probed, training.recipe.loss)
    places: list[tuple[str, LayerHealth | WaistHealth]] = [("neuron", layer) for layer in report.layers]
    if report.places is report.waists:
        places += [("waist", waist) for waist in report.waists]
    for of, place in places:
        values = asdict(place)
        row = {"step": step, "of": of, "path": place.path, **{name: values.get(name) for name in READ}}
        journal.readings.append(row)
        if events is not None:
            for name in READ:
                if row[name] is not None:
                    events.add_scalar(f"probe/{name}/{of} {place.path}", row[name], step)
    for fault in report.alarms:
        warned = f"{fault.kind} {fault.where}"
        if warned not in journal.warned:
            journal.warned.append(warned)
            say(f"before step {step + 1}: {fault}")
